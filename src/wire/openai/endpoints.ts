/** OpenAI's own paths: which there are, and why most of them have nothing behind them here. */
import type { Failure } from "../errors.ts";

const STATELESS = "It keeps nothing of its callers but stored responses.";
const NO_MODEL = "Claude has no model for it.";

/** First segments below `/v1` that are OpenAI's alone, and why what is not served below each is not. */
const ROOTS: Readonly<Record<string, string>> = {
  chat: "Only `POST /v1/chat/completions` is: finished completions are not stored.",
  responses: "Only creating, reading and deleting a response is.",
  completions: "Legacy completions have no counterpart at Claude: use `POST /v1/chat/completions`.",
  embeddings: NO_MODEL,
  audio: NO_MODEL,
  images: NO_MODEL,
  videos: NO_MODEL,
  moderations: NO_MODEL,
  realtime: NO_MODEL,
  edits: "Edits are gone at OpenAI too: use `POST /v1/chat/completions`.",
  engines: "Engines are gone at OpenAI too: use `GET /v1/models`.",
  batches: "Batches are served in Anthropic's form alone: `POST /v1/messages/batches`.",
  uploads: "Files are served in Anthropic's form alone: `POST /v1/files`.",
  fine_tuning: "Claude models can't be tuned here.",
  assistants: STATELESS,
  threads: STATELESS,
  vector_stores: STATELESS,
  containers: STATELESS,
  evals: STATELESS,
};

export const OPENAI_SEGMENTS: readonly string[] = Object.keys(ROOTS);

/** The root that a path of the gateway is below; null: it is not one of OpenAI's own. */
export function openAIRoot(path: string): string | null {
  if (!path.startsWith("/v1/")) return null;
  const end = path.indexOf("/", 4);
  const root = end === -1 ? path.slice(4) : path.slice(4, end);
  return Object.hasOwn(ROOTS, root) ? root : null;
}

/** What is answered below a root where nothing is served. */
export function notServed(path: string, root: string): Failure {
  return { kind: "not_served", path, why: ROOTS[root] ?? null };
}
