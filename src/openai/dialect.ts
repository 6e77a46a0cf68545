/**
 * The OpenAI dialect for the relay: a Chat or Responses body, told by its shape, becomes a Messages body; what upstream
 * answers becomes Chat or Responses, told by the path. The translation itself is pure and stands in wire/openai/; here is
 * what it needs of the gateway: names of models, remembered thinking, stored responses.
 */
import type { AppContext } from "../context.ts";
import type { Caller } from "../hotpath/authenticate.ts";
import type { Dialect, Translated } from "../hotpath/dialect.ts";
import { err, ok, type Result } from "../result.ts";
import { asFields } from "../wire/anthropic/usage.ts";
import type { Failure } from "../wire/errors.ts";
import { readJson } from "../wire/json-scan.ts";
import { isServerResult } from "../wire/openai/blocks.ts";
import { goOn } from "../wire/openai/chain.ts";
import { readChat } from "../wire/openai/chat-request.ts";
import type { Draft, Fields } from "../wire/openai/draft.ts";
import { userIdOf } from "../wire/openai/identity.ts";
import { resolveReferences } from "../wire/openai/item-reference.ts";
import { messagesJson, requestHeaders } from "../wire/openai/messages-body.ts";
import { readResponses } from "../wire/openai/responses-request.ts";
import { fit as fitToModel } from "../wire/openai/steps.ts";
import { callsToRecall, keepOneOrganization, restoreThinking } from "../wire/openai/thinking.ts";
import { type Asked, ChatAnswering, ResponsesAnswering } from "./answering.ts";
import { findModel } from "./catalogue.ts";
import { failOpenAI } from "./fail.ts";
import { Memory } from "./memory.ts";
import type { ResolvedModel } from "./resolve-model.ts";
import { reasoningSealer, unseal } from "./sealed-reasoning.ts";
import { type Answering, tellAnswer, withOpenAIHeaders } from "./tell.ts";

/**
 * Of a body that is translated, before and after. It is there as bytes, text, values and bytes again: 16 MB of text take
 * 48 MB of heap and twice 16 of bytes at the peak, 32 MB would take 96 and twice 32, and an isolate has 128 (measured in
 * V8 with its heap held down to what still suffices; images take less, text beyond Latin-1 as much).
 */
const MAX_TRANSLATED_BYTES = 16 * 1024 * 1024;
/** Values of such a body. Each is an object or more in two forms: a message of a few letters takes 600 bytes of heap. */
const MAX_TRANSLATED_VALUES = 500_000;
const encoder = new TextEncoder();

/** `POST /v1/chat/completions`. Cursor sends bodies of both forms there. */
export const chat = dialectOf(
  (body) => (hasOnly("input", "messages", body) ? readResponses(body) : readChat(body)),
  (asked) => new ChatAnswering(asked),
);
/** `POST /v1/responses`. */
export const responses = dialectOf(
  (body) => (hasOnly("messages", "input", body) ? readChat(body) : readResponses(body)),
  (asked) => new ResponsesAnswering(asked),
);

function dialectOf(read: (body: Fields) => Result<Draft, Failure>, answeringOf: (asked: Asked) => Answering): Dialect {
  return {
    name: "openai",
    ownQuery: true,
    maxBodyBytes: MAX_TRANSLATED_BYTES,
    own: withOpenAIHeaders,
    fail: failOpenAI,
    async translate(c, caller, bytes) {
      const body = readBody(bytes);
      if (!body.ok) return body;
      const draft = read(body.value);
      if (!draft.ok) return draft;
      const memory = new Memory(c.env, caller.policy.id, caller.access.background);
      const sealer = reasoningSealer(c.var.call.settings.keyTagSecrets, caller.policy.id);
      const missing = await resolveReferences(draft.value, (id) => memory.link(id));
      if (missing) return err(missing);
      const asked: Asked = { body: body.value, draft: draft.value, memory, sealer };
      // Now, before a conversation is put in front of the draft and before any step changes it.
      return translated(c, caller, asked, answeringOf(asked));
    },
  };
}

async function translated(
  c: AppContext,
  caller: Caller,
  asked: Asked,
  answering: Answering,
): Promise<Result<Translated, Failure>> {
  const { draft } = asked;
  const model = await findModel(c, caller, draft.model);
  if (!model.ok) return model;
  const thoughtsOf = await fitted(asked, model.value);
  if (!thoughtsOf.ok) return thoughtsOf;
  const body = encoder.encode(messagesJson(draft));
  // What was remembered is in it too.
  if (body.byteLength > MAX_TRANSLATED_BYTES) {
    return err({ kind: "request_too_large", limitBytes: MAX_TRANSLATED_BYTES });
  }
  return ok({
    body,
    headers: headersFor(requestHeaders(draft), c.var.call.headers),
    conversation: draft.conversation,
    ...(thoughtsOf.value !== undefined && { thoughtsOf: thoughtsOf.value }),
    tell: (answer) => tellAnswer(c, answer, answering),
  });
}

/**
 * Brings the draft into the shape that its model takes, with all that the client left to us to remember. Returns whose
 * thinking is in it, as `Wanted.thoughtsOf`.
 */
async function fitted(
  { draft, memory, sealer }: Asked,
  model: ResolvedModel,
): Promise<Result<string | null | undefined, Failure>> {
  draft.effort ??= model.effort;
  draft.showThinking ||= model.showThinking;
  for (const beta of model.betas) draft.betas.add(beta);
  if (draft.user !== null) draft.body.userId = await userIdOf(draft.user);
  const { previousResponseId } = draft.telling;
  if (previousResponseId !== null) {
    const links = await memory.response(previousResponseId);
    if (!links.ok) return links;
    goOn(draft, links.value, model.id);
  }
  await unseal(draft, sealer, model.id);
  const calls = callsToRecall(draft, model.facts);
  if (calls.length > 0) restoreThinking(draft, await memory.thinkingFor(calls), model.facts);
  const thoughtsOf = keepOneOrganization(draft);
  // What else only one account can read must not go to another.
  const isFree = !holdsMore(draft);
  const unfit = fitToModel(draft, model.facts);
  return unfit ? err(unfit) : ok(isFree ? thoughtsOf : undefined);
}

/** Whether there is more than thinking in it that only the account which made it can read: a container, results of server tools. */
function holdsMore({ turns, extra }: Draft): boolean {
  if (extra.container !== undefined) return true;
  return turns.some(({ role, content }) => role === "assistant" && content.some(isServerResult));
}

/** A body that keeps the limits of every other. */
function readBody(bytes: Uint8Array): Result<Fields, Failure> {
  const json = readJson(bytes, MAX_TRANSLATED_VALUES);
  if (!json.ok) return json;
  const fields = asFields(json.value);
  return fields ? ok(fields) : err({ kind: "invalid_request", message: "The request body must be a JSON object." });
}

/** Clients that write every field they know write `null` for the ones that they leave out. */
function hasOnly(field: string, other: string, body: Fields): boolean {
  return (body[field] ?? null) !== null && (body[other] ?? null) === null;
}

/** What upstream has to be told beside the body. A version that the client names stands, and so do its betas. */
function headersFor(
  needed: Readonly<Record<string, string>>,
  client: ReadonlyMap<string, string>,
): Readonly<Record<string, string>> {
  const headers: Record<string, string> = { ...needed, "content-type": "application/json" };
  const version = client.get("anthropic-version");
  if (version !== undefined) headers["anthropic-version"] = version;
  const betas = client.get("anthropic-beta");
  if (betas !== undefined && needed["anthropic-beta"] !== undefined) {
    const all = `${betas},${needed["anthropic-beta"]}`.split(",").map((beta) => beta.trim());
    headers["anthropic-beta"] = [...new Set(all)].filter((beta) => beta !== "").join(",");
  }
  return headers;
}
