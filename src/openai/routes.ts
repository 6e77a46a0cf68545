/** The routes of OpenAI's dialect, and the lists of models that it shares with Claude's: one chunk, loaded when it is first spoken. */
import { relayed } from "../hotpath/relay.ts";
import { ok } from "../result.ts";
import { chat, responses } from "./dialect.ts";

export { listModels, readModel } from "./models.ts";
export { storedInput, storedResponse } from "./stored-responses.ts";

const MESSAGES = { scope: "messages", hasBody: true, billed: true, cached: true } as const;

/** `POST /v1/chat/completions`: a Chat body in, or whatever else Cursor sends there; a completion or its chunks out. */
export const createChatCompletion = relayed({
  ...MESSAGES,
  name: "/v1/chat/completions",
  upstreamPath: () => ok("/v1/messages"),
  dialect: chat,
});

/** `POST /v1/responses`: a Responses body in, a Response or its events out. */
export const createResponse = relayed({
  ...MESSAGES,
  name: "/v1/responses",
  upstreamPath: () => ok("/v1/messages"),
  dialect: responses,
});
