/**
 * `GET /v1/models` and `/v1/models/:id`: each model as one object that reads well in both dialects, with all of upstream's
 * fields, and errors that do. What there is comes from the isolate's copy of upstream's list, else from this release's
 * table, so that a list is there while no upstream is.
 *
 * Aliases are listed for those who can use them: not for a client that sends `anthropic-version`, since the native routes
 * relay a model's name as it comes.
 */
import { type AppContext, fail } from "../context.ts";
import type { Caller } from "../hotpath/authenticate.ts";
import { type Dialect, NATIVE } from "../hotpath/dialect.ts";
import { type Prepared, relayed } from "../hotpath/relay.ts";
import type { CallRecord } from "../hotpath/settle.ts";
import { mayUseModel } from "../identity/key-record.ts";
import { err, ok, type Result } from "../result.ts";
import { asFields, asText } from "../wire/anthropic/usage.ts";
import { describeFailure, type Failure } from "../wire/errors.ts";
import { parseJson } from "../wire/json.ts";
import type { Fields } from "../wire/openai/draft.ts";
import { errorOfFailure } from "../wire/openai/errors.ts";
import { catalogue, modelsFor } from "./catalogue.ts";
import { listedModels, type ModelInfo, type ModelsAtHand } from "./model-names.ts";
import { aliasesFor, resolveModel, unknownModel } from "./resolve-model.ts";

/** Ids of the API: letters, digits and a few marks; nothing that means something in a path. */
const MODEL_ID = /^[A-Za-z0-9_-][A-Za-z0-9._:@-]{0,127}$/;
/** What Anthropic gives where the day is not known. */
const UNKNOWN_DAY = "1970-01-01T00:00:00Z";
const MAX_LIMIT = 1_000;

/** Claude's own dialect, whose errors also have what OpenAI's clients look for in them. */
const BOTH: Dialect = {
  ...NATIVE,
  fail(c, failure, headers) {
    const { type, message } = describeFailure(failure);
    const { param, code } = errorOfFailure(failure).error;
    const body = { type: "error", error: { type, message, param, code }, request_id: c.var.call.requestId };
    return new Response(JSON.stringify(body), fail(c, failure, headers));
  },
};

/** `GET /v1/models?limit=&after_id=&before_id=`: without these everything at once, as OpenAI's clients expect it. */
export const listModels = relayed({
  name: "/v1/models",
  scope: "messages",
  hasBody: false,
  billed: false,
  dialect: BOTH,
  prepare: async (c, caller, record) => {
    const span = readSpan(new URL(c.req.url).searchParams);
    return span.ok ? ok({ answer: () => answerWithList(c, caller, record, span.value) }) : span;
  },
});

/** `GET /v1/models/:id`: a model by any of its names. For a native client upstream is asked for one that its list lacks. */
export const readModel = relayed({
  name: "/v1/models/:id",
  scope: "messages",
  hasBody: false,
  billed: false,
  dialect: BOTH,
  prepare: prepareModel,
  rewrite: (text) => {
    const model = asFields(parseJson(text));
    const id = asText(model?.id);
    return id === null ? null : JSON.stringify(shown({ ...model, id }));
  },
});

async function answerWithList(
  c: AppContext,
  caller: Caller,
  record: CallRecord,
  span: Span,
): Promise<Result<Response, Failure>> {
  const models = await modelsFor(c, caller);
  const page = pageOf(isNative(c) ? allowed(caller, models) : withAliases(c, caller, models), span);
  return page.ok ? ok(answer(record, page.value)) : page;
}

/** Whether the client speaks Claude's own dialect. */
function isNative(c: AppContext): boolean {
  return c.var.call.headers.has("anthropic-version");
}

/** In the order of upstream's list. */
function allowed({ policy }: Caller, models: ModelsAtHand): readonly Entry[] {
  return listedModels(models).flatMap((model) => (mayUseModel(policy, model.id) ? [shown(model)] : []));
}

function withAliases(c: AppContext, caller: Caller, models: ModelsAtHand): readonly Entry[] {
  const aliases = aliasesFor(caller.policy, c.var.call.settings, models);
  return [...allowed(caller, models), ...aliases.map(({ name, id }) => named(name, id, models))];
}

async function prepareModel(c: AppContext, caller: Caller, record: CallRecord): Promise<Result<Prepared, Failure>> {
  const { settings } = c.var.call;
  const { vendor, id = "" } = c.req.param() as { readonly vendor?: string; readonly id?: string };
  const name = vendor === undefined ? id : `${vendor}/${id}`;
  const found = resolveModel(name, caller.policy, settings, catalogue.models);
  if (!found.ok && found.error.kind !== "not_found") return found;
  if (!found.ok && !MODEL_ID.test(name)) return err(MALFORMED);
  const models = await modelsFor(c, caller);
  const model = resolveModel(name, caller.policy, settings, models);
  if (!model.ok) return model;
  if (model.value.isKnown) return ok({ answer: async () => ok(answer(record, named(name, model.value.id, models))) });
  if (!MODEL_ID.test(model.value.id)) return err(MALFORMED);
  return isNative(c)
    ? ok({ path: `/v1/models/${model.value.id}` })
    : err(unknownModel(name, caller.policy, settings, models));
}

const MALFORMED: Failure = { kind: "invalid_request", message: "The model id in the path is malformed." };

type Entry = Fields & { readonly id: string };

/** A model with the fields of both dialects. */
function shown(model: ModelInfo): Entry {
  const created_at = asText(model.created_at) ?? UNKNOWN_DAY;
  const created = Math.floor(Date.parse(created_at) / 1_000);
  return {
    display_name: model.id,
    ...model,
    object: "model",
    type: "model",
    created: Number.isFinite(created) ? created : 0,
    created_at,
    owned_by: "anthropic",
  };
}

/** A model under the name that it was asked for by. */
function named(name: string, id: string, models: ModelsAtHand): Entry {
  const has = (list: readonly ModelInfo[]) =>
    list.find((model) => model.id === id) ?? list.find((model) => id.startsWith(`${model.id}-20`));
  const model = shown(has(listedModels(models)) ?? has(listedModels(null)) ?? { id });
  return name === model.id
    ? model
    : { ...model, id: name, display_name: `${model.display_name} (${name})`, alias_of: id };
}

/** Of the whole list what was asked for. */
type Span = { readonly limit: number | null; readonly after: string | null; readonly before: string | null };

function readSpan(query: URLSearchParams): Result<Span, Failure> {
  const text = query.get("limit");
  const limit = text === null ? null : Number(text);
  if (limit !== null && !(Number.isInteger(limit) && limit >= 1 && limit <= MAX_LIMIT)) {
    return err({ kind: "invalid_request", message: `limit: must be a whole number from 1 to ${MAX_LIMIT}` });
  }
  return ok({ limit, after: query.get("after_id"), before: query.get("before_id") });
}

function pageOf(entries: readonly Entry[], { limit, after, before }: Span): Result<object, Failure> {
  const place = (id: string): number => entries.findIndex((entry) => entry.id === id);
  const from = after === null ? 0 : place(after) + 1;
  const to = before === null ? entries.length : place(before);
  if (after !== null && from === 0) return err({ kind: "invalid_request", message: "after_id: no such model" });
  if (to === -1) return err({ kind: "invalid_request", message: "before_id: no such model" });
  const range = entries.slice(from, Math.max(from, to));
  const data = limit === null ? range : before === null ? range.slice(0, limit) : range.slice(-limit);
  return ok({
    object: "list",
    data,
    has_more: data.length < range.length,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
  });
}

function answer(record: CallRecord, body: object): Response {
  record.settle({ status: 200, outcome: "complete" });
  return new Response(JSON.stringify(body), {
    headers: { "content-type": "application/json", "cache-control": "no-store" },
  });
}
