import { DurableObject } from "cloudflare:workers";
export class KeyLedger extends DurableObject { ping() { return 1; } }
export default { async fetch(r: Request) { return new Response(r.url + "\n"); } };
