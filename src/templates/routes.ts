/**
 * `/v1/templates/:name/…`: calls in the words of a template. A call says variables and what else it may of a Messages body;
 * what becomes of them goes the way of any Messages call. A preview is the same up to there, and is answered with the body.
 */
import type { AppContext } from "../context.ts";
import type { Caller } from "../hotpath/authenticate.ts";
import { type Dialect, NATIVE, NO_HEADERS } from "../hotpath/dialect.ts";
import { relayed } from "../hotpath/relay.ts";
import { ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { readJson } from "../wire/json-scan.ts";
import { readCall } from "./call.ts";
import { findVersion } from "./find.ts";
import { type Rendered, render } from "./render.ts";
import { shelf } from "./shelf.ts";
import { shelvesOf } from "./shelves.ts";

/** Of a call: it is there as bytes, as values and as bytes again (src/openai/dialect.ts has measured that). */
const MAX_CALL_BYTES = 16 * 1024 * 1024;
const MAX_CALL_VALUES = 500_000;
const TEMPLATE_HEADER = "x-sluice-template";

/** The API's version that a template's words are sent under where its caller names none. */
const VERSION_HEADER = "anthropic-version";
const USUAL_VERSION: Readonly<Record<string, string>> = { [VERSION_HEADER]: "2023-06-01" };

const SESSION_HEADER = "x-claude-code-session-id";

/** What a call of a template sends upstream. */
async function rendered(c: AppContext, { policy }: Caller, bytes: Uint8Array): Promise<Result<Rendered, Failure>> {
  const json = readJson(bytes, MAX_CALL_VALUES);
  const call = json.ok ? readCall(json.value) : json;
  if (!call.ok) return call;
  const { wish, variables, fields } = call.value;
  const asking = { workspace: policy.workspace, who: c.var.call.headers.get(SESSION_HEADER) || policy.id };
  const version = await findVersion(shelf, shelvesOf(c), c.req.param("name") ?? "", wish, asking);
  if (!version.ok) return version;
  return render(version.value, variables, fields);
}

/** Claude's own, in the words of a template. */
const inWords: Dialect = {
  ...NATIVE,
  ownQuery: false,
  maxBodyBytes: MAX_CALL_BYTES,
  async translate(c, caller, bytes) {
    const made = await rendered(c, caller, bytes);
    if (!made.ok) return made;
    const { body, template, version } = made.value;
    return ok({
      body,
      headers: c.var.call.headers.has(VERSION_HEADER) ? NO_HEADERS : USUAL_VERSION,
      conversation: null,
      template: { name: template, version },
      tell(answer) {
        // An answer that was kept for its idempotency key may be an earlier version's.
        if (!answer.headers.has("idempotent-replayed")) answer.headers.set(TEMPLATE_HEADER, `${template}@${version}`);
        return answer;
      },
    });
  },
};

/** `POST /v1/templates/:name/messages`: as `/v1/messages`, in the words of a template. */
export const templateMessages = relayed({
  name: "/v1/templates/:name/messages",
  scope: "templates:read",
  upstreamPath: () => ok("/v1/messages"),
  hasBody: true,
  billed: true,
  cached: true,
  dialect: inWords,
});

/** `POST /v1/templates/:name/render`: the Messages body that such a call would send. Free: it counts as a request. */
export const renderTemplate = relayed({
  name: "/v1/templates/:name/render",
  scope: "templates:read",
  hasBody: true,
  billed: false,
  preview: true,
  dialect: inWords,
});
