/**
 * Conversations that the server holds (beta `message-threads-2026-08-12`; the SDK's tool runner uses them by itself).
 * `thread: {"type":"create"}` keeps a conversation under its answer's id; `{"type":"continue"}` then brings only the new
 * messages. Each answer can be continued once. In the isolate's memory, per credential; the oldest are forgotten first,
 * and the SDK replays a conversation that was forgotten. Source: the types and error details of SDK 1.11.0.
 */
import { type ApiError, apiError, invalid } from "./errors.ts";
import { asFields, asList, asText, type Fields } from "./json.ts";

/** Threads kept by one isolate. */
const MAX_THREADS = 200;
/** What the thread keeps and a later turn may not change. */
const KEPT = ["system", "tools"] as const;

type Held = { readonly body: Fields; continued: boolean };

export class Threads {
  readonly #held = new Map<string, Held>();

  /** The request with the whole conversation in it, or what is wrong with its thread. */
  resume(scope: string, body: Fields): { readonly body: Fields } | ApiError {
    const thread = asFields(body.thread);
    if (!thread || thread.type === "create") return { body };
    if (thread.type !== "continue") return invalid("thread.type: Input should be 'create' or 'continue'");
    const previous = asText(thread.previous_message_id);
    if (previous === undefined) return invalid("thread.continue.previous_message_id: Field required");
    const held = this.#held.get(`${scope}|${previous}`);
    if (!held) {
      const error = apiError(404, `thread: no usable state was found for previous_message_id ${previous}`);
      return { ...error, code: "thread_not_found" };
    }
    if (held.continued) {
      return {
        ...invalid(`thread: ${previous} has already been continued; continue from the most recent response`),
        code: "thread_already_continued",
      };
    }
    for (const name of KEPT) {
      if (body[name] === undefined || JSON.stringify(body[name]) === JSON.stringify(held.body[name])) continue;
      return {
        ...invalid(`thread: \`${name}\` differs from the value stored with the thread`),
        code: "thread_fingerprint_mismatch",
      };
    }
    const messages = [...asList(held.body.messages), ...asList(body.messages)];
    return { body: { ...body, system: held.body.system, tools: held.body.tools, messages } };
  }

  /** Keeps a conversation with its answer, when its request asks for that. `body`: as `resume` gave it. */
  hold(scope: string, body: Fields, id: string, content: unknown): void {
    const thread = asFields(body.thread);
    if (!thread) return;
    const previous = this.#held.get(`${scope}|${thread.previous_message_id}`);
    if (previous) previous.continued = true;
    if (this.#held.size >= MAX_THREADS) this.#held.delete(this.#held.keys().next().value ?? "");
    const messages = [...asList(body.messages), { role: "assistant", content }];
    this.#held.set(`${scope}|${id}`, { body: { ...body, messages }, continued: false });
  }
}
