/**
 * What clients may say about conversations, field by field: bodies of the routes, and `send` frames, whose fields are the
 * same. What a Messages request may hold is an open list (`options`, blocks, tools); it is looked at only as far as the
 * gateway itself must understand it, and the upstream judges the rest.
 */
import * as z from "zod/mini";
import type { Content, ContextPolicy, OnBusy, Options, Tool } from "../../clients/typescript/protocol.ts";
import { matching, metadata, oneOf, parser, wholeNumber } from "../fields.ts";
import { err, ok, type Result } from "../result.ts";
import { TEMPLATE_NAME } from "../templates/content.ts";
import type { Failure } from "../wire/errors.ts";
import type { Change, Incoming, Spec } from "./protocol.ts";

export const MESSAGE_ID = /^msg_[0-9a-hjkmnp-tv-z]{26}$/;
const TURN_ID = /^turn_[0-9a-hjkmnp-tv-z]{26}$/;
/** As upstream may call a model one day: visible ASCII. */
const MODEL = /^[\x21-\x7e]{1,200}$/;
/** Also what an `Idempotency-Key` may be. */
export const CLIENT_ID = /^[\x20-\x7e]{1,255}$/;
const BETA = /^[A-Za-z0-9._-]{1,128}$/;
const MAX_BETAS = 50;
/** More than any model's answer. */
const MAX_MAX_TOKENS = 10_000_000;
const MAX_CONTEXT_TOKENS = 100_000_000;
const MAX_KEEP_TURNS = 1_000;
const DAY_SECONDS = 86_400;
const MAX_TTL_SECONDS = 400 * DAY_SECONDS;
/**
 * Deeper values are refused: what reads and writes them is recursive, and a body may have 100 levels in all
 * (wire/json-scan.ts), some of which are the conversation's own.
 */
export const MAX_DEPTH = 64;

export const DEFAULTS = {
  /** Room for an answer beside what most models think by default, and what each of them can say; it is reserved for each turn. */
  maxTokens: 8_192,
  ttlSeconds: 30 * DAY_SECONDS,
  onBusy: "queue",
  /** A chat goes on whatever its length, and what it was about is not forgotten. */
  context: { strategy: "summarize", max_input_tokens: null, keep_turns: 4, summary_model: null },
} as const satisfies { maxTokens: number; ttlSeconds: number; onBusy: OnBusy; context: ContextPolicy };

type Fields = Readonly<Record<string, unknown>>;

const isFields = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Whether a value has more than so many levels. Not recursive: the value may be what recursion must not be tried on. */
function isDeeper(value: unknown, most: number): boolean {
  let level: unknown[] = [value];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > most) return true;
    const next: unknown[] = [];
    for (const each of level) {
      if (typeof each === "object" && each !== null) for (const inner of Object.values(each)) next.push(inner);
    }
    level = next;
  }
  return false;
}

type Issue = (message: string, ...path: (string | number)[]) => void;

/** A value that is passed on as it came, once it has been looked at. Checked by hand: zod would make another of it. */
const asItCame = <T>(isOne: (value: unknown) => boolean, message: string, look: (value: T, issue: Issue) => void) =>
  z.custom<T>(isOne, message).check((context) => {
    const issue: Issue = (message, ...path) => {
      context.issues.push({ code: "custom", message, path, input: context.value });
    };
    if (isDeeper(context.value, MAX_DEPTH)) issue(`must not be nested deeper than ${MAX_DEPTH} levels`);
    else look(context.value, issue);
  });

const CONTENT_RULE = "must be a text or a list of content blocks";
const isContent = (value: unknown): boolean => typeof value === "string" || Array.isArray(value);

function lookAtContent(content: Content, issue: Issue): void {
  if (typeof content === "string") {
    if (content.trim() === "") issue("must not be empty");
    return;
  }
  if (content.length === 0) issue("must not be empty");
  content.forEach((block: unknown, i) => {
    if (!isFields(block)) issue("must be a content block", i);
    else if (typeof block.type !== "string" || block.type === "")
      issue("must be the type of a content block", i, "type");
  });
}

const content = asItCame<Content>(isContent, CONTENT_RULE, lookAtContent);
const system = asItCame<Content | null>(
  (value) => value === null || isContent(value),
  `${CONTENT_RULE}, or null`,
  (value, issue) => {
    if (value !== null) lookAtContent(value, issue);
  },
);

const tools = asItCame<readonly Tool[]>(Array.isArray, "must be a list of tools", (list, issue) => {
  list.forEach((tool: unknown, i) => {
    if (!isFields(tool)) issue("must be a tool", i);
  });
});

/** Fields of a Messages request that are the gateway's own to fill in. */
const NOT_OPTIONS: Readonly<Record<string, string>> = {
  messages: "is made from the conversation",
  stream: "stands beside `options`",
};
/** What a conversation has as fields of its own. */
const OWN_FIELDS = ["model", "system", "max_tokens", "tools", "on_busy", "edit", "regenerate"];

const MODEL_RULE = "must be a model id";
export const MODEL_MISSING = "model: Field required";
const BETAS_RULE = `must be a list of up to ${MAX_BETAS} names of betas`;

/** What the gateway itself reads of options. */
function lookAtOptions(options: Fields, issue: Issue): void {
  for (const name of Object.keys(options)) {
    if (name === "__proto__") issue("can't be the name of an entry", name);
    else if (Object.hasOwn(NOT_OPTIONS, name)) issue(NOT_OPTIONS[name] ?? "", name);
  }
  const { betas } = options;
  const areBetas =
    Array.isArray(betas) &&
    betas.length <= MAX_BETAS &&
    betas.every((beta) => typeof beta === "string" && BETA.test(beta));
  if (betas !== undefined && !areBetas) issue(BETAS_RULE, "betas");
}

const OPTIONS_RULE = "must be an object of Messages fields";

const conversationOptions = asItCame<Options>(isFields, OPTIONS_RULE, (options, issue) => {
  lookAtOptions(options, issue);
  for (const name of OWN_FIELDS) if (Object.hasOwn(options, name)) issue("stands beside `options`", name);
});

const MAX_TOKENS_RULE = `must be a whole number from 1 to ${MAX_MAX_TOKENS}`;

const messageOptions = asItCame<Options>(isFields, OPTIONS_RULE, (options, issue) => {
  lookAtOptions(options, issue);
  if (Object.hasOwn(options, "system")) issue("is the conversation's own", "system");
  const { model, max_tokens: maxTokens, tools: some } = options;
  if (model !== undefined && !(typeof model === "string" && MODEL.test(model))) issue(MODEL_RULE, "model");
  const isCount = typeof maxTokens === "number" && Number.isInteger(maxTokens) && maxTokens >= 1;
  if (maxTokens !== undefined && !(isCount && maxTokens <= MAX_MAX_TOKENS)) issue(MAX_TOKENS_RULE, "max_tokens");
  if (some !== undefined && !(Array.isArray(some) && some.every(isFields))) issue("must be a list of tools", "tools");
});

const model = matching(MODEL, MODEL_RULE);
const onBusy = oneOf(["queue", "reject"]);
const context = z.strictObject(
  {
    strategy: z.optional(oneOf(["summarize", "truncate", "none"])),
    max_input_tokens: z.optional(z.nullable(wholeNumber(1, MAX_CONTEXT_TOKENS))),
    keep_turns: z.optional(wholeNumber(1, MAX_KEEP_TURNS)),
    summary_model: z.optional(z.nullable(model)),
  },
  "must be an object",
);

const ofConversation = {
  system: z.optional(system),
  max_tokens: z.optional(wholeNumber(1, MAX_MAX_TOKENS)),
  tools: z.optional(tools),
  options: z.optional(conversationOptions),
  context: z.optional(context),
  ttl_seconds: z.optional(wholeNumber(1, MAX_TTL_SECONDS)),
  on_busy: z.optional(onBusy),
  metadata: z.optional(metadata),
};
const messageId = matching(MESSAGE_ID, "must be the id of a message");

const Create = z.strictObject({
  ...ofConversation,
  model: z.optional(model),
  template: z.optional(
    z.strictObject(
      {
        name: matching(TEMPLATE_NAME, "must be the name of a template"),
        label: z.optional(z.unknown()),
        version: z.optional(z.unknown()),
        variables: z.optional(z.unknown()),
      },
      "must be {name, label? or version?, variables?}",
    ),
  ),
});
const ChangeIt = z.strictObject({ ...ofConversation, model: z.optional(model), leaf: z.optional(messageId) });
const Cancel = z.strictObject({ turn: z.optional(matching(TURN_ID, "must be the id of a turn")) });

const ofMessage = {
  on_busy: z.optional(onBusy),
  edit: z.optional(messageId),
  regenerate: z.optional(
    z.union([z.literal(true), z.string().check(z.regex(MESSAGE_ID))], "must be true or the id of a message"),
  ),
};
const Message = z.strictObject({
  ...ofMessage,
  role: z.optional(z.literal("user", "must be user")),
  content: z.optional(content),
  id: z.optional(matching(CLIENT_ID, "must be 1 to 255 printable ASCII characters")),
  options: z.optional(messageOptions),
  stream: z.optional(z.boolean("must be true or false")),
});
const InOptions = z.object(ofMessage);

/** As it was sent: defaults and what it stands for are filled in by whoever knows them. */
export type CreateInput = z.infer<typeof Create>;
export type ChangeInput = z.infer<typeof ChangeIt>;

export const parseCreateFields = parser<CreateInput>(Create);
export const parseChange = parser<ChangeInput>(ChangeIt);
export const parseCancel = parser<z.infer<typeof Cancel>>(Cancel);
export const parseMessage = parser<z.infer<typeof Message>>(Message);

/** Refuses what has no model, where no template can name one. */
export function parseCreate(value: unknown): Result<CreateInput, Failure> {
  const read = parseCreateFields(value);
  const lacksModel = isFields(value) && !Object.hasOwn(value, "model") && !Object.hasOwn(value, "template");
  if (!lacksModel) return read;
  return invalid([...(read.ok ? [] : [messageOf(read.error)]), MODEL_MISSING]);
}

/** A conversation as it was asked for, with what is usual for the rest. */
export function specOf(id: string, input: CreateInput & { readonly model: string }): Spec {
  return {
    id,
    model: input.model,
    system: input.system ?? null,
    maxTokens: input.max_tokens ?? DEFAULTS.maxTokens,
    tools: input.tools ?? [],
    options: input.options ?? {},
    context: withContext(DEFAULTS.context, input.context ?? {}),
    ttlSeconds: input.ttl_seconds ?? DEFAULTS.ttlSeconds,
    onBusy: input.on_busy ?? DEFAULTS.onBusy,
    metadata: input.metadata ?? {},
  };
}

/** The fields that are to change. `context` is what it is at present: it changes field by field. */
export function changeOf(input: ChangeInput, present: ContextPolicy): Change {
  const { max_tokens: maxTokens, ttl_seconds: ttlSeconds, on_busy: busy, context: policy, ...same } = input;
  const all = {
    ...same,
    maxTokens,
    ttlSeconds,
    onBusy: busy,
    context: policy && withContext(present, policy),
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}

function withContext(policy: ContextPolicy, changes: z.infer<typeof context>): ContextPolicy {
  const {
    strategy = policy.strategy,
    max_input_tokens = policy.max_input_tokens,
    keep_turns = policy.keep_turns,
    summary_model = policy.summary_model,
  } = changes;
  return { strategy, max_input_tokens, keep_turns, summary_model };
}

/** A message, and whether its answer is to be streamed; null: that is not said. */
export type ReadMessage = { readonly incoming: Incoming; readonly stream: boolean | null };

/**
 * Reads a message: `{content, id?, role?, on_busy?, edit?, regenerate?, options?, stream?}`. `on_busy`, `edit` and
 * `regenerate` may stand inside `options`, too. Refuses with everything that is wrong, each with its path.
 */
export function readMessage(value: unknown): Result<ReadMessage, Failure> {
  const read = parseMessage(value);
  if (!isFields(value)) return read.ok ? invalid([]) : read;
  const options = isFields(value.options) ? value.options : {};
  const inOptions = InOptions.safeParse(options);
  const problems = [...(read.ok ? [] : [messageOf(read.error)]), ...atOdds(value, options)];
  for (const { path, message } of inOptions.error?.issues ?? []) problems.push(`options.${path.join(".")}: ${message}`);
  if (!read.ok || !inOptions.success || problems.length > 0) return invalid(problems);
  const { id = null, content: said = null, stream = null } = read.value;
  const { on_busy: busy = null, edit = null, regenerate = null } = { ...inOptions.data, ...read.value };
  const { on_busy: _busy, edit: _edit, regenerate: _regenerate, ...fields } = options;
  return ok({
    incoming: { clientId: id, content: said, options: fields, onBusy: busy, edit, regenerate },
    stream,
  });
}

/** Fields that do not go together, and the one that is missing. */
function atOdds(fields: Fields, options: Fields): readonly string[] {
  const has = (name: string): boolean => Object.hasOwn(fields, name) || Object.hasOwn(options, name);
  const problems: string[] = [];
  for (const name of Object.keys(ofMessage)) {
    if (Object.hasOwn(fields, name) && Object.hasOwn(options, name)) problems.push(`options.${name}: given twice`);
  }
  if (!has("regenerate")) return Object.hasOwn(fields, "content") ? problems : [...problems, "content: Field required"];
  if (Object.hasOwn(fields, "content")) problems.push("content: not together with `regenerate`");
  if (has("edit")) problems.push("edit: not together with `regenerate`");
  return problems;
}

/** The same, where nothing but the message counts: a `send` frame's fields, its `type` left out. */
export function readIncoming(fields: unknown): Result<Incoming, Failure> {
  const read = readMessage(fields);
  return read.ok ? ok(read.value.incoming) : read;
}

const messageOf = (failure: Failure): string => ("message" in failure ? failure.message : failure.kind);

function invalid(problems: readonly string[]): Result<never, Failure> {
  return err({ kind: "invalid_request", message: problems.join("; ") });
}
