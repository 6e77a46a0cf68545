/** The routes of the native wire whose bodies are Messages bodies. */
import { relayed } from "./relay.ts";

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
