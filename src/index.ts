/** The Worker: what the platform calls, and nothing else. */
import { app } from "./app.ts";
import { enforceRetention } from "./audit/retention.ts";

export { Drain } from "./hotpath/drain.ts";
export { KeyLedger } from "./ledger/key-ledger.ts";
export { Metrics } from "./metrics/metrics.ts";

export default {
  fetch: app.fetch,
  scheduled: (_event, env) => enforceRetention(env, Date.now),
} satisfies ExportedHandler<Env>;
