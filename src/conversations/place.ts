/** Where a message stands in the tree: what comes before it, and whether it may be said there. */
import type { Content } from "../../clients/typescript/protocol.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { awaitingResults, checkIncoming, type HeldResult } from "./context/tools.ts";
import type { History } from "./history.ts";
import type { Incoming } from "./protocol.ts";
import type { Path, StoredMessage } from "./tree.ts";

export type Said =
  | {
      readonly kind: "turn";
      /** What the model is to answer, the new message included. */
      readonly path: Path;
      /** The new message; null: one of the history is answered anew. */
      readonly message: StoredMessage | null;
      /** The message that is answered. */
      readonly answers: string;
    }
  | { readonly kind: "partial"; readonly results: readonly HeldResult[]; readonly awaiting: readonly string[] };

type NewMessage = Pick<StoredMessage, "id" | "turn" | "createdAt">;

const refuse = (message: string) => err<Failure>({ kind: "invalid_request", message });

/** Checks nothing that lies outside of the conversation. */
export function place(history: History, incoming: Incoming, about: NewMessage): Result<Said, Failure> {
  if (incoming.regenerate !== null) return anew(history, incoming.regenerate);
  if (incoming.edit === null) return behind(history, history.leaf, history.heldResults, incoming, about);
  const old = history.message(incoming.edit);
  if (old?.role !== "user") return refuse(`edit: \`${incoming.edit}\` is no user message of this conversation.`);
  const said = behind(history, old.parent, [], incoming, about);
  if (!said.ok || said.value.kind === "turn") return said;
  return refuse(`edit: results of ${said.value.awaiting.join(", ")} are missing.`);
}

function anew(history: History, which: string | true): Result<Said, Failure> {
  const { messages } = history.path(history.leaf);
  const named = which === true ? messages.findLast(({ role }) => role === "user") : history.message(which);
  const answered = named?.role === "assistant" && named.parent !== null ? history.message(named.parent) : named;
  if (answered?.role !== "user") {
    return refuse(
      which === true
        ? "regenerate: nothing has been said yet."
        : `regenerate: \`${which}\` is no message of this conversation.`,
    );
  }
  return ok({ kind: "turn", path: history.path(answered.id), message: null, answers: answered.id });
}

function behind(
  history: History,
  parent: string | null,
  held: readonly HeldResult[],
  incoming: Incoming,
  about: NewMessage,
): Result<Said, Failure> {
  const path = history.path(parent);
  const checked = checkIncoming(incoming, awaitingResults(path), held);
  if (!checked.ok) return checked;
  if (checked.value.kind === "partial") return ok(checked.value);
  const { content } = checked.value;
  if (content === null) return refuse("content: nothing is said.");
  const message = userMessage(about, parent, content);
  const messages = [...path.messages, message];
  return ok({ kind: "turn", path: { ...path, messages }, message, answers: message.id });
}

function userMessage(about: NewMessage, parent: string | null, content: Content): StoredMessage {
  return {
    ...about,
    role: "user",
    content,
    parent,
    model: null,
    stopReason: null,
    incomplete: false,
    organization: null,
    tokensThrough: null,
  };
}
