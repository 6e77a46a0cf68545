/** The relayed routes: what each one needs, forwards and rewrites. */
import type { AppContext } from "../context.ts";
import { mayUseModel } from "../identity/key-record.ts";
import { err, ok } from "../result.ts";
import { asFields, asText } from "../wire/anthropic/usage.ts";
import { parseJson } from "../wire/json.ts";
import type { Caller } from "./authenticate.ts";
import { relayed } from "./relay.ts";

/** Ids of the API: letters, digits and a few marks; nothing that means something in a path. */
const MODEL_ID = /^[A-Za-z0-9_-][A-Za-z0-9._:@-]{0,127}$/;

/** `POST /v1/messages`: JSON in, a Message or a stream of its events out, byte for byte. */
export const messages = relayed({
  name: "/v1/messages",
  scope: "messages",
  hasBody: true,
  billed: true,
  cached: true,
});

/** `POST /v1/messages/count_tokens`: `{"input_tokens": n}`. Free: it counts as a request and against nothing else. */
export const countTokens = relayed({
  name: "/v1/messages/count_tokens",
  scope: "messages",
  hasBody: true,
  billed: false,
});

/** `GET /v1/models`: upstream's page; a key with a model list sees only its own models on it. */
export const listModels = relayed({
  name: "/v1/models",
  scope: "messages",
  hasBody: false,
  billed: false,
  rewrite: onlyAllowedModels,
});

/** `GET /v1/models/:id`. */
export const readModel = relayed({
  name: "/v1/models/:id",
  scope: "messages",
  hasBody: false,
  billed: false,
  upstreamPath: (c) => {
    const id = modelId(c);
    return MODEL_ID.test(id)
      ? ok(`/v1/models/${id}`)
      : err({ kind: "invalid_request", message: "The model id in the path is malformed." });
  },
  permit: (c, caller) => {
    const model = modelId(c);
    return mayUseModel(caller.policy, model) ? null : { kind: "model_not_allowed", model };
  },
});

function modelId(c: AppContext): string {
  return c.req.param("id") ?? "";
}

/** Paging fields stay upstream's, so that the next page begins where upstream's page ended. */
function onlyAllowedModels(text: string, caller: Caller): string | null {
  if (caller.policy.models === null) return null;
  const page = asFields(parseJson(text));
  if (!Array.isArray(page?.data)) return null;
  const data = page.data.filter((model: unknown) => {
    const id = asText(asFields(model)?.id);
    return id !== null && mayUseModel(caller.policy, id);
  });
  return JSON.stringify({ ...page, data });
}
