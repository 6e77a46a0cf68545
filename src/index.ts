/** The Worker: what the platform calls, and nothing else. */
import { app } from "./app.ts";
import { enforceRetention } from "./audit/retention.ts";
import { forgetSessions } from "./identity/session-store.ts";
import { keepTokensOf } from "./identity/tokens.ts";
import { keepPool } from "./upstream/reseal.ts";

export { Answer } from "./answers/answer.ts";
export { Conversation } from "./conversations/conversation.ts";
export { Drain } from "./hotpath/drain.ts";
export { KeyLedger } from "./ledger/key-ledger.ts";
export { Metrics } from "./metrics/metrics.ts";
export { TurnStore } from "./openai/turn-store.ts";
export { BatchBook } from "./ownership/batch-book.ts";
export { UpstreamPool } from "./upstream/upstream-pool.ts";

export default {
  fetch: app.fetch,
  async scheduled(_event, env) {
    await Promise.all([
      enforceRetention(env, Date.now),
      keepPool(env, Date.now),
      keepTokensOf(env, Date.now),
      forgetSessions(env, Date.now),
    ]);
  },
} satisfies ExportedHandler<Env>;
