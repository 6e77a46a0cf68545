/** What every route of conversations begins with: the caller's right, whose conversation it is, and the way to it. */
import { hasBody, readJsonBody } from "../body.ts";
import { type AppContext, type Guarded, json } from "../context.ts";
import type { Caller } from "../hotpath/authenticate.ts";
import type { Dialect } from "../hotpath/dialect.ts";
import { type Prepared, relayed } from "../hotpath/relay.ts";
import { type CallRecord, settled } from "../hotpath/settle.ts";
import { checkConversationId, NO_SUCH_CONVERSATION } from "../identity/conversation-id.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { MAX_BODY_BYTES } from "./limits.ts";
import { type Remote, remoteOf } from "./object.ts";
import type { Sender } from "./protocol.ts";
import { isListed } from "./registry.ts";

/** Longest text taken from a header. */
const MAX_CLIENT_CHARS = 200;

/** A call whose caller is known and may use conversations. */
export type Asked = {
  readonly c: AppContext;
  readonly caller: Caller;
  readonly record: CallRecord;
  readonly sender: Sender;
};
/** One about a conversation of the caller's workspace. */
export type About = Asked & { readonly id: string; readonly remote: Remote };

type Answer = Extract<Prepared, { answer: unknown }>["answer"];
/** Checks a call; what it returns answers it, once it is admitted. */
type Prepare<T> = (call: T) => Promise<Result<Answer, Failure>>;

type Options = {
  /** The call takes no request of its key's: what it begins is admitted by itself, or it only ends something. */
  readonly free?: boolean;
  readonly dialect?: Dialect;
};

/** A route of all conversations. */
export function ofAll(name: string, prepare: Prepare<Asked>, options: Options = {}) {
  const { free = false } = options;
  return routeOf(name, options, async (call) => {
    if (isForOne(call.caller)) return err({ kind: "token_too_narrow", what: "one conversation" });
    const answer = await prepare(call);
    return answer.ok ? ok({ answer: answer.value, free }) : answer;
  });
}

/**
 * A route of one conversation. Whose it is comes before everything else that could be said. No object is asked that, and
 * D1 only where the tag does not tell: by a call that has been admitted for it, so that guesses have a limit too.
 */
export function ofOne(name: string, prepare: Prepare<About>, options: Options = {}) {
  const { free = false } = options;
  return routeOf(name, options, async (call) => {
    const { c, caller, record } = call;
    const id = c.req.param("id") ?? "";
    const { workspace } = caller.policy;
    if (isForOne(caller) && caller.rights?.conversation !== id) return err(NO_SUCH_CONVERSATION);
    const about = (): About => {
      record.facts.conversationId = id;
      return { ...call, id, remote: remoteOf(c.env.CONVERSATION, workspace, id) };
    };
    const verdict = await checkConversationId(c.var.call.settings.keyTagSecrets, workspace, id);
    if (verdict === "malformed") return err(NO_SUCH_CONVERSATION);
    if (verdict === "own") {
      const answer = await prepare(about());
      return answer.ok ? ok({ answer: answer.value, free }) : answer;
    }
    const listed: Answer = async () => {
      if (!(await isListed(c.env.DB, workspace, id))) return err(NO_SUCH_CONVERSATION);
      const answer = await prepare(about());
      return answer.ok ? answer.value() : answer;
    };
    return ok({ answer: listed });
  });
}

/** Whether there is but one conversation for this caller. */
function isForOne({ rights }: Caller): boolean {
  return rights !== null && rights.conversation !== null;
}

type Ready = Extract<Prepared, { answer: unknown }>;

function routeOf(
  name: string,
  { dialect }: Options,
  prepare: (call: Asked) => Promise<Result<Ready, Failure>>,
): Guarded {
  return relayed({
    name,
    scope: "conversations",
    hasBody: false,
    billed: false,
    ...(dialect ? { dialect } : {}),
    prepare: (c, caller, record) => prepare({ c, caller, record, sender: senderOf(c, caller) }),
  });
}

function senderOf(c: AppContext, { policy, secretSha256, rights }: Caller): Sender {
  const { requestId, traceId, headers } = c.var.call;
  const client = headers.get("user-agent")?.slice(0, MAX_CLIENT_CHARS) ?? null;
  return {
    keyId: policy.id,
    secretSha256,
    workspace: policy.workspace,
    requestId,
    traceId,
    client,
    rights,
  };
}

/** The body as a JSON value; an empty object where it may be left out and is. */
export async function readBody(
  { c, caller }: Pick<Asked, "c" | "caller">,
  needed = true,
): Promise<Result<unknown, Failure>> {
  const { headers } = c.var.call;
  if (!needed && !hasBody(c.req.raw, headers)) return ok({});
  const limit = Math.min(MAX_BODY_BYTES, caller.policy.limits.max_request_bytes ?? MAX_BODY_BYTES);
  return readJsonBody(c.req.raw, headers, limit);
}

/** Answers with JSON what was asked for, and settles the call. */
export function told<T>({ c, record }: Asked, result: Result<T, Failure>, status = 200): Result<Response, Failure> {
  return result.ok ? settled(record, json(c, status, result.value)) : result;
}
