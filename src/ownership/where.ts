/** Where a call about batches or files is carried out: in the Worker, or in an object that outlives it. */
import type { AppContext } from "../context.ts";
import type { Settings } from "../env.ts";
import type { CallRecord } from "../hotpath/settle.ts";
import { upstreamRequestHeaders } from "../wire/headers.ts";

export type Where = {
  readonly env: Env;
  readonly settings: Settings;
  /** The client's, as an upstream gets them. */
  readonly headers: Readonly<Record<string, string>>;
  readonly record: CallRecord;
};

export function here(c: AppContext, record: CallRecord): Where {
  const { settings, headers } = c.var.call;
  return { env: c.env, settings, headers: upstreamRequestHeaders(headers), record };
}
