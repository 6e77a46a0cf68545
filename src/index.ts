/** The Worker: what the platform calls, and nothing else. */
import { app } from "./app.ts";

export { KeyLedger } from "./ledger/key-ledger.ts";

export default {
  fetch: app.fetch,
} satisfies ExportedHandler<Env>;
