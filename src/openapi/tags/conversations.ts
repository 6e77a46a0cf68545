import { parseCancel, parseChange, parseCreateFields, parseMessage } from "../../conversations/input.ts";
import { answer, PAGE, type Tag } from "../operation.ts";
import {
  anything,
  fieldsOfClaude,
  flag,
  just,
  list,
  object,
  oneOf,
  orNull,
  pageOf,
  readBy,
  ref,
  text,
  time,
  whole,
} from "../schema.ts";

const byHand = {
  system: orNull(ref("ClaudeContent")),
  tools: list(fieldsOfClaude),
  options: { ...fieldsOfClaude, description: "More fields of a Messages request, for every turn." },
  metadata: ref("Metadata"),
};
const usage = object(
  {
    input_tokens: whole,
    output_tokens: whole,
    cache_read_input_tokens: whole,
    cache_creation_input_tokens: whole,
    cache_read_share: { type: "number", minimum: 0, maximum: 1 },
  },
  { estimated: { const: true } },
);
const ONE = answer("The conversation.", ref("Conversation"));
const EVENTS = {
  "text/event-stream": { schema: { ...text, description: "Its numbered events (docs/conversations.md)." } },
};
const ids = list(text);
const template = object({ name: text, version: whole });
const listed = {
  id: text,
  type: just("conversation"),
  model: text,
  metadata: ref("Metadata"),
  created_at: time,
  updated_at: time,
  expires_at: time,
  turns: whole,
};
const turn = {
  id: text,
  type: just("turn"),
  state: oneOf("queued", "processing", "retrying", "cancelling", "completed", "failed", "cancelled", "interrupted"),
  client_id: orNull(text),
  key_id: text,
  model: text,
  created_at: time,
  started_at: orNull(time),
  ended_at: orNull(time),
  stop_reason: orNull(text),
  usage: ref("Usage"),
  cost_micro_usd: whole,
  cost_usd: { type: "number" },
  cut: orNull(ref("ContextCut")),
  error: orNull(object({ type: text, message: text }, { retry_after_seconds: whole })),
};

export const conversations: Tag = {
  name: "Conversations",
  description: "Dialogues that the gateway keeps.",
  docs: "docs/conversations.md",
  operations: [
    {
      id: "createConversation",
      route: "POST /v1/conversations",
      summary: "Makes a conversation; repeated, another one",
      description: "`model` is required, unless a template names one.",
      body: {
        schema: readBy(parseCreateFields, {
          ...byHand,
          "template.label": text,
          "template.version": { ...whole, minimum: 1 },
          "template.variables": { type: "object" },
        }),
        example: { model: "claude-opus-5-5", system: "Be brief.", metadata: { customer: "42" } },
      },
      answers: { 201: ONE },
    },
    {
      id: "listConversations",
      route: "GET /v1/conversations",
      summary: "The workspace's conversations, newest first",
      query: PAGE,
      answers: { 200: answer("A page of them.", pageOf(ref("ConversationSummary"))) },
    },
    { id: "readConversation", route: "GET /v1/conversations/:id", summary: "One", answers: { 200: ONE } },
    {
      id: "changeConversation",
      route: "PATCH /v1/conversations/:id",
      summary: "Changes the fields given; those of `context` one by one",
      body: { schema: readBy(parseChange, byHand), example: { max_tokens: 1000 } },
      answers: { 200: ONE },
      errors: [409],
    },
    {
      id: "deleteConversation",
      route: "DELETE /v1/conversations/:id",
      summary: "Deletes it and every trace of it, stops its turn, closes its sockets",
      answers: { 200: answer("It is gone.", object({ id: text, type: just("conversation_deleted") })) },
    },
    {
      id: "sendMessage",
      route: "POST /v1/conversations/:id/messages",
      summary: "Says something",
      description: 'With `"stream": true` or `accept: text/event-stream` the answer is its events.',
      headers: {
        "idempotency-key": { schema: text, description: "Stands for `id` where the body has none." },
      },
      body: {
        schema: readBy(parseMessage, { content: ref("ClaudeContent"), options: fieldsOfClaude }),
        example: { content: "Hello!" },
      },
      answers: {
        200: {
          description: "The turn with its answer when it has ended, or its events.",
          content: { "application/json": { schema: ref("TurnResult") }, ...EVENTS },
        },
        202: answer(
          "Results of other tools are missing.",
          object({ state: just("awaiting_tool_results"), awaiting_tool_results: ids }),
        ),
      },
      errors: [402, 409, 422, 502, 504, 529],
    },
    {
      id: "readMessages",
      route: "GET /v1/conversations/:id/messages",
      summary: "The history of the present branch, oldest first",
      query: {
        ...PAGE,
        after: { schema: text, description: "The same as `cursor`: a message's id." },
        leaf: { schema: text, description: "A message whose branch is meant instead." },
      },
      answers: { 200: answer("A page of it.", pageOf(ref("Message"))) },
    },
    {
      id: "readEvents",
      route: "GET /v1/conversations/:id/events",
      summary: "Everything after a number, live to the end of the running turn",
      query: { after: { schema: { type: "integer", minimum: 0, default: 0 }, example: 0 } },
      headers: { "last-event-id": { schema: text, description: "Counts before `after`." } },
      answers: { 200: { description: "The events.", content: EVENTS } },
    },
    {
      id: "cancelTurn",
      route: "POST /v1/conversations/:id/cancel",
      summary: "Stops the running turn, or takes one out of the queue",
      body: { optional: true, schema: readBy(parseCancel) },
      answers: { 200: ONE },
    },
    {
      id: "openSocket",
      route: "GET /v1/conversations/:id/socket",
      summary: "The WebSocket",
      description:
        "Its subprotocol is `sluice.v1`; a credential may stand in another one behind `sluice.auth.` (docs/conversations.md#the-socket).",
      answers: { 101: { description: "The socket is open." } },
      errors: [426],
    },
    {
      id: "exportConversation",
      route: "GET /v1/conversations/:id/export",
      summary: "Everything there is of it, as one JSON document",
      answers: {
        200: answer(
          "A file, with the messages of all branches.",
          object({
            conversation: ref("Conversation"),
            messages: list(ref("Message")),
            turns: list(ref("Turn")),
            cuts: list(anything),
          }),
        ),
      },
    },
  ],
  schemas: {
    Usage: usage,
    Turn: object(turn),
    TurnResult: object({ ...turn, message: orNull(ref("Message")) }),
    ConversationSummary: object(listed),
    Conversation: object(
      {
        ...listed,
        state: oneOf("idle", "processing", "retrying", "cancelling"),
        system: orNull(ref("ClaudeContent")),
        max_tokens: whole,
        tools: list(fieldsOfClaude),
        options: fieldsOfClaude,
        context: object({
          strategy: oneOf("summarize", "truncate", "none"),
          max_input_tokens: orNull(whole),
          keep_turns: whole,
          summary_model: orNull(text),
        }),
        ttl_seconds: whole,
        on_busy: oneOf("queue", "reject"),
        seq: whole,
        turn: orNull(text),
        turn_seq: orNull(whole),
        queued: ids,
        awaiting_tool_results: ids,
        leaf: orNull(text),
        usage: ref("Usage"),
        cost_micro_usd: whole,
      },
      { template },
    ),
    Message: object(
      {
        id: text,
        type: oneOf("message", "summary"),
        role: oneOf("user", "assistant"),
        content: ref("ClaudeContent"),
        turn: text,
        parent: orNull(text),
        siblings: ids,
        created_at: time,
      },
      { model: text, stop_reason: orNull(text), usage: ref("Usage"), cost_micro_usd: whole, incomplete: flag },
    ),
    ContextCut: object({
      strategy: oneOf("summarize", "truncate"),
      reason: oneOf("max_input_tokens", "summary_failed"),
      messages: whole,
      through: text,
      tokens_before: whole,
      tokens_after: whole,
      summary: orNull(text),
    }),
  },
};
