/** Stands for `cloudflare:workers` where the router is only asked what it holds (build.ts). */
export class DurableObject {}
