import { answer, orStream, type Tag } from "../operation.ts";
import { anything, either, flag, just, list, object, orNull, ref, text, whole } from "../schema.ts";
import { CACHE, IDEMPOTENCY } from "./messages.ts";

const GOES_ON = "Fields that are not named here are OpenAI's; what can't be done for Claude is refused by name.";

export const openai: Tag = {
  name: "OpenAI's dialect",
  description: "The same calls as OpenAI's clients make them. Errors are in OpenAI's shape.",
  docs: "docs/openai.md",
  operations: [
    {
      id: "createChatCompletion",
      route: "POST /v1/chat/completions",
      summary: "A chat completion, made by Claude",
      description: GOES_ON,
      headers: { ...IDEMPOTENCY, ...CACHE },
      body: {
        schema: object(
          { model: text, messages: list(object({ role: text }, { content: anything })) },
          { stream: flag, tools: list(anything), max_tokens: orNull(whole), max_completion_tokens: orNull(whole) },
        ),
        example: { model: "opus", messages: [{ role: "user", content: "Hello!" }] },
      },
      answers: {
        200: orStream(answer("The completion.", ref("ChatCompletion")), "Chunks of a completion, then `[DONE]`."),
      },
      errors: [402, 409, 422, 502, 504, 529],
    },
    {
      id: "createResponse",
      route: "POST /v1/responses",
      summary: "A response, made by Claude",
      description: GOES_ON,
      headers: { ...IDEMPOTENCY, ...CACHE },
      body: {
        schema: object(
          { model: text },
          {
            input: either(text, list(anything)),
            instructions: orNull(text),
            previous_response_id: orNull(text),
            stream: orNull(flag),
            store: orNull(flag),
            tools: list(anything),
            max_output_tokens: orNull(whole),
          },
        ),
        example: { model: "opus", input: "Hello!" },
      },
      answers: { 200: orStream(answer("The response.", ref("Response")), "The events of a response.") },
      errors: [402, 409, 422, 502, 504, 529],
    },
    {
      id: "readResponse",
      route: "GET /v1/responses/:id",
      summary: "A stored response",
      answers: { 200: answer("The response.", ref("Response")) },
    },
    {
      id: "deleteResponse",
      route: "DELETE /v1/responses/:id",
      summary: "Deletes a stored response",
      answers: { 200: answer("It is gone.", object({ id: text, object: text, deleted: flag })) },
    },
    {
      id: "listInputItems",
      route: "GET /v1/responses/:id/input_items",
      summary: "What a stored response was asked",
      query: {
        limit: { schema: { type: "integer", minimum: 1, maximum: 100, default: 20 } },
        order: { schema: { type: "string", enum: ["asc", "desc"] } },
        after: { schema: text },
      },
      answers: {
        200: answer(
          "The items.",
          object({
            object: just("list"),
            data: list(anything),
            has_more: flag,
            first_id: orNull(text),
            last_id: orNull(text),
          }),
        ),
      },
    },
  ],
  schemas: {
    ChatCompletion: object({
      id: text,
      object: just("chat.completion"),
      created: whole,
      model: text,
      choices: list(anything),
      usage: anything,
    }),
    Response: object({
      id: text,
      object: just("response"),
      created_at: whole,
      status: text,
      model: text,
      output: list(anything),
      error: anything,
      usage: anything,
    }),
  },
};
