import { answer, orStream, type Parameter, type Tag } from "../operation.ts";
import { anything, either, fieldsOfClaude, just, list, object, oneOf, orNull, ref, text, whole } from "../schema.ts";

export const BETA_HEADER: Readonly<Record<string, Parameter>> = {
  "anthropic-beta": { schema: text, description: "Names of betas, separated by commas." },
};
/** What Claude's API wants of every call; the gateway hands it on. */
export const VERSION_HEADER: Readonly<Record<string, Parameter>> = {
  "anthropic-version": { schema: text, required: true, example: "2023-06-01" },
  ...BETA_HEADER,
};
export const IDEMPOTENCY: Readonly<Record<string, Parameter>> = {
  "idempotency-key": {
    schema: { type: "string", minLength: 1, maxLength: 255 },
    description: "Makes repeating the call safe: it is made once and paid for once.",
  },
};
export const CACHE: Readonly<Record<string, Parameter>> = {
  "x-sluice-cache": {
    schema: text,
    description: "`ttl=<seconds>` or `ttl` asks for the response cache, `bypass` or `off` passes it by.",
    example: "ttl=300",
  },
};
/** The whole of a message may stand in several events of a stream. */
export const EVENTS = "The events of Claude's API, byte for byte.";

export const HELLO = {
  model: "claude-opus-5-5",
  max_tokens: 200,
  messages: [{ role: "user", content: "Hello!" }],
};

const MESSAGE = {
  id: "msg_01sima7d0c1f6a3be1c2d3e4",
  type: "message",
  role: "assistant",
  model: "claude-opus-5-5",
  content: [{ type: "text", text: "Hello from the simulated Claude!" }],
  stop_reason: "end_turn",
  stop_sequence: null,
  usage: { input_tokens: 11, output_tokens: 9 },
};

export const messages: Tag = {
  name: "Messages",
  description: "Claude's own API: relayed byte for byte, streams as streams.",
  docs: "docs/api.md#the-wire",
  operations: [
    {
      id: "createMessage",
      route: "POST /v1/messages",
      summary: "A call to a model, relayed byte for byte",
      description: 'A stream if the body says `"stream": true`. Fields that are not named here are the API\'s, too.',
      headers: { ...VERSION_HEADER, ...IDEMPOTENCY, ...CACHE },
      body: { schema: ref("MessagesRequest"), example: HELLO },
      answers: { 200: orStream(answer("Claude's message.", ref("ClaudeMessage"), MESSAGE), EVENTS) },
      errors: [402, 409, 422, 502, 504, 529],
    },
    {
      id: "countTokens",
      route: "POST /v1/messages/count_tokens",
      summary: "How many input tokens a call would have",
      description: "It costs nothing, and no budget blocks it.",
      headers: VERSION_HEADER,
      body: {
        schema: object({ model: text, messages: list(ref("ClaudeTurn")) }),
        example: { model: HELLO.model, messages: HELLO.messages },
      },
      answers: { 200: answer("The count.", object({ input_tokens: whole }), { input_tokens: 11 }) },
      errors: [502, 504, 529],
    },
  ],
  schemas: {
    ClaudeTurn: object({ role: oneOf("user", "assistant", "system"), content: ref("ClaudeContent") }),
    ClaudeContent: either(text, list(ref("ClaudeBlock"))),
    ClaudeBlock: object({ type: text }),
    MessagesRequest: object(
      { model: text, max_tokens: whole, messages: list(ref("ClaudeTurn")) },
      {
        system: ref("ClaudeContent"),
        tools: list(fieldsOfClaude),
        tool_choice: fieldsOfClaude,
        stream: { type: "boolean" },
        metadata: fieldsOfClaude,
        thinking: fieldsOfClaude,
        temperature: anything,
        stop_sequences: list(text),
      },
    ),
    ClaudeMessage: object({
      id: text,
      type: just("message"),
      role: just("assistant"),
      model: text,
      content: list(ref("ClaudeBlock")),
      stop_reason: orNull(text),
      usage: fieldsOfClaude,
    }),
  },
};
