/** What the gateway wants to know of an answer, whether it came as JSON or as a stream. */
import { parseJson } from "../json.ts";
import { applyUsage, asFields, asText, emptyUsage, servingModel, type Usage } from "./usage.ts";

export type AnswerFacts = {
  usage: Usage;
  /** The model that answered, as upstream names it. */
  model: string | null;
  stopReason: string | null;
  /** `error.type` of an error body or of an `error` event. */
  errorType: string | null;
};

export function noFacts(): AnswerFacts {
  return { usage: emptyUsage(), model: null, stopReason: null, errorType: null };
}

/** Reads a Message, a token count or an error body. What is not JSON has no facts. Never throws. */
export function readAnswer(text: string): AnswerFacts {
  const body = asFields(parseJson(text));
  return body ? readMessage(body) : noFacts();
}

/** The same of a body that has been parsed. */
export function readMessage(body: Readonly<Record<string, unknown>>): AnswerFacts {
  const facts = noFacts();
  facts.errorType = asText(asFields(body.error)?.type);
  facts.stopReason = asText(body.stop_reason);
  if (body.type === "message") applyUsage(facts.usage, body.usage);
  facts.model = servingModel(facts.usage) ?? asText(body.model);
  return facts;
}
