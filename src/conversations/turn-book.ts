/**
 * The course of turns, written down. Each step is one transaction: the state, the messages, and the entry of the log that
 * tells of it; only then it is published. So whatever a viewer has heard of is there after a restart, and whatever ends
 * ends once: a step that the table does not have throws before it has written anything.
 */
import type { Content, ContextCut, TurnError, TurnState } from "../../clients/typescript/protocol.ts";
import { newId } from "../wire/ids.ts";
import type { AnswerBuilder } from "./context/builder.ts";
import { awaitingResults, type HeldResult } from "./context/tools.ts";
import type { Shelf, Summarized } from "./fitting.ts";
import type { History } from "./history.ts";
import type { EventLog, LogEntry, Numbered } from "./log.ts";
import type { Incoming, Sender } from "./protocol.ts";
import { isOpen, nextTurnState, type TurnEvent } from "./states.ts";
import type { StoredCut, StoredMessage } from "./tree.ts";
import type { StoredTurn } from "./turns.ts";
import { NOTHING_SPENT, type Spent } from "./usage.ts";

/** `turn.started` tells what was said if its JSON has no more characters than this. */
const MAX_TOLD_CHARS = 16 * 1024;
/** Key of what is kept beside the running turn. */
const RUNNING = "running";
/** Key of who brought the tool results that are, or were last, kept. */
const HELD = "held";
/** Key of the newest summary. */
const SUMMARY = "summary";
/** All keys that turns have. */
export const TURN_KEYS = [RUNNING, HELD, SUMMARY];
/** `clients`: ids of their messages. `turn`: the one that has them all; null: they are still kept. */
type Held = { readonly clients: readonly string[]; readonly turn: string | null };
/** `leaf`: the newest message before it began, which it is again if nothing comes of the turn. */
type Running = { readonly turn: string; readonly leaf: string | null };

export type BookParts = {
  readonly kv: DurableObjectStorage["kv"];
  /** All of it or nothing. */
  readonly transaction: <T>(act: () => T) => T;
  readonly log: EventLog;
  readonly history: History;
  readonly publish: (added: readonly Numbered[]) => void;
  readonly now: () => number;
};

export type NewTurn = {
  readonly id: string;
  readonly incoming: Incoming;
  readonly sender: Sender;
  readonly model: string;
};

export type Beginning = NewTurn & {
  /** Null: `answers` is answered anew. */
  readonly message: StoredMessage | null;
  readonly answers: string;
  readonly cut: StoredCut | null;
};

export type Ending = {
  readonly by: Extract<TurnEvent, "complete" | "fail" | "stopped" | "interrupt" | "cancel">;
  /** Null: it never ran. */
  readonly answer: Pick<AnswerBuilder, "content" | "model" | "stopReason" | "promptTokens" | "outputTokens"> | null;
  readonly organization: string | null;
  readonly spent: Spent;
  readonly error: TurnError | null;
};

export class TurnBook {
  readonly #parts: BookParts;
  /** A turn that is called for once more, until something of its answer is there. */
  #retrying: string | null = null;

  constructor(parts: BookParts) {
    this.#parts = parts;
  }

  /** The turn that is under way; at most one is. */
  get running(): StoredTurn | undefined {
    return this.#parts.history.openTurns().find(({ state }) => state !== "queued");
  }

  get queued(): readonly StoredTurn[] {
    return this.#parts.history.openTurns().filter(({ state }) => state === "queued");
  }

  /** Keeps some of the tool results that are awaited. */
  hold(results: readonly HeldResult[], { clientId }: Incoming): void {
    const { history, kv, now, transaction } = this.#parts;
    transaction(() => {
      history.holdResults(results);
      history.touch(now());
      if (clientId === null) return;
      const held = this.#held;
      kv.put<Held>(HELD, { clients: [...(held?.turn === null ? held.clients : []), clientId], turn: null });
    });
  }

  /** What became of the results that this message brought; null: it brought none. */
  heldOf(clientId: string): Held | null {
    const held = this.#held;
    return held?.clients.includes(clientId) ? held : null;
  }

  /** The newest summary. */
  get shelf(): Shelf {
    const { kv } = this.#parts;
    return { get: () => kv.get<Summarized>(SUMMARY), put: (made) => kv.put(SUMMARY, made) };
  }

  /** In a transaction: nobody waits for the others any more. */
  forgetHeld(): void {
    this.#parts.history.clearHeldResults();
    if (this.#held?.turn === null) this.#parts.kv.delete(HELD);
  }

  get #held(): Held | undefined {
    return this.#parts.kv.get<Held>(HELD);
  }

  /** Results that are kept become a turn's, or are kept again since nothing came of it. */
  #giveHeld(from: string | null, to: string | null): void {
    const held = this.#held;
    if (held?.turn === from) this.#parts.kv.put<Held>(HELD, { ...held, turn: to });
  }

  /** Returns the number that its events come after. */
  queue(turn: NewTurn): number {
    const { log, history, now } = this.#parts;
    const after = log.lastSeq;
    this.#step(() => {
      const at = now();
      history.putTurn({ ...fresh(turn, at), state: nextTurnState("none", "wait") });
      history.touch(at);
      return [entry("turn.queued", turn.id, { id: turn.incoming.clientId })];
    });
    return after;
  }

  /** Returns the number that its events come after. */
  begin({ message, answers, cut, ...turn }: Beginning): number {
    const { log, history, now, kv } = this.#parts;
    const waited = history.turn(turn.id);
    const after = waited ? log.before(turn.id) : log.lastSeq;
    this.#step(() => {
      const at = now();
      const state = waited ? nextTurnState(waited.state, "begin") : nextTurnState("none", "arrived");
      kv.put<Running>(RUNNING, { turn: turn.id, leaf: history.leaf });
      if (message) history.addMessage(message);
      if (cut) history.addCut(cut);
      const told: ContextCut | null = cut?.cut ?? null;
      const { model } = turn;
      history.putTurn({ ...(waited ?? fresh(turn, at)), model, state, message: answers, startedAt: at, cut: told });
      history.setLeaf(answers);
      if (turn.incoming.edit === null && message) this.#giveHeld(null, turn.id);
      history.touch(at);
      const started = { id: turn.incoming.clientId, message: answers, ...shortEnough(message?.content) };
      const entries = [entry("turn.started", turn.id, started)];
      if (told) entries.push(entry("context.cut", turn.id, { cut: told }));
      return entries;
    });
    return after;
  }

  /** The object died before anything of the answer was there. */
  restart(turn: StoredTurn): void {
    this.#retrying = turn.id;
    this.#step(() => {
      const state = nextTurnState(turn.state, "restart");
      this.#parts.history.putTurn({ ...turn, state, restarts: turn.restarts + 1 });
      return [];
    });
  }

  /** Events as they came: `data` is JSON text on one line. */
  events(id: string, texts: readonly string[]): void {
    if (texts.length === 0) return;
    const { history, log } = this.#parts;
    const entries = texts.map((data): LogEntry => ({ kind: "event", turn: id, data }));
    const turn = this.#retrying === id ? history.turn(id) : undefined;
    this.#retrying = null;
    // Nearly always. A row is whole or not there, and a transaction around it would cost more than the row.
    if (turn?.state !== "retrying") this.#publish(log.append(entries));
    else
      this.#step(() => {
        history.putTurn({ ...turn, state: nextTurnState(turn.state, "answered") });
        return entries;
      });
  }

  /** Somebody wants the running turn stopped. */
  cancelling(turn: StoredTurn): void {
    if (turn.state === "cancelling") return;
    this.#step(() => {
      this.#parts.history.putTurn({ ...turn, state: nextTurnState(turn.state, "cancel") });
      return [];
    });
  }

  /** Ends a turn that is open; one that has ended stays as it is. */
  end(id: string, { by, answer, organization, spent, error }: Ending): void {
    const { history, log, now, kv, transaction } = this.#parts;
    const turn = history.turn(id);
    if (!turn || !isOpen(turn.state)) return;
    this.#step(() => {
      const at = now();
      const state = nextTurnState(turn.state, by);
      const whole = state === "completed";
      const content = answer?.content() ?? [];
      const message: StoredMessage | null =
        answer && turn.message !== null && (whole || content.length > 0)
          ? {
              id: newId("msg", at),
              role: "assistant",
              content,
              turn: id,
              parent: turn.message,
              createdAt: at,
              model: answer.model ?? turn.model,
              stopReason: answer.stopReason,
              incomplete: !whole,
              organization,
              tokensThrough: answer.promptTokens === null ? null : answer.promptTokens + answer.outputTokens,
            }
          : null;
      if (message) history.addMessage(message);
      const kept = kv.get<Running>(RUNNING);
      if (message) {
        history.setLeaf(message.id);
        this.forgetHeld();
      } else if (kept?.turn === id) this.#takeBack(turn, kept.leaf, state);
      if (kept?.turn === id) kv.delete(RUNNING);
      history.putTurn({
        ...turn,
        state,
        endedAt: at,
        stopReason: answer?.stopReason ?? null,
        usage: spent.usage,
        microUsd: spent.microUsd,
        error,
        answer: message?.id ?? null,
      });
      history.touch(at);
      const told = { state, message: message?.id ?? null, usage: spent.usage, cost_usd: spent.microUsd / 1_000_000 };
      if (!whole) return [entry("turn.failed", id, { ...told, error })];
      const awaiting = awaitingResults(history.path(history.leaf));
      const ended = { ...told, stop_reason: answer?.stopReason ?? null, awaiting_tool_results: awaiting };
      return [entry("turn.completed", id, ended)];
    });
    transaction(() => log.compact(this.running?.id ?? null));
  }

  /** Nothing came of it: the branch is as it was. What was said goes, too, unless it was its sender who stopped it. */
  #takeBack({ id, message }: StoredTurn, leaf: string | null, state: TurnState): void {
    const { history } = this.#parts;
    history.setLeaf(leaf);
    this.#giveHeld(id, null);
    if (state === "cancelled" || message === null) return;
    if (history.message(message)?.turn === id) history.removeMessage(message);
  }

  #step(act: () => readonly LogEntry[]): void {
    const { transaction, log } = this.#parts;
    const added = transaction(() => {
      const entries = act();
      return entries.length === 0 ? [] : log.append(entries);
    });
    if (added.length > 0) this.#publish(added);
  }

  /** What is written down stands: whoever could not be told is behind, and is brought up to date later. */
  #publish(added: readonly Numbered[]): void {
    try {
      this.#parts.publish(added);
    } catch (bug) {
      console.error(JSON.stringify({ level: "error", msg: "not_published", error: String(bug) }));
    }
  }
}

function fresh({ id, incoming, sender, model }: NewTurn, now: number): StoredTurn {
  return {
    id,
    state: "queued",
    incoming,
    sender,
    message: null,
    createdAt: now,
    startedAt: null,
    endedAt: null,
    restarts: 0,
    model,
    stopReason: null,
    ...NOTHING_SPENT,
    cut: null,
    error: null,
    answer: null,
  };
}

function entry(kind: LogEntry["kind"], turn: string, members: Readonly<Record<string, unknown>>): LogEntry {
  return { kind, turn, data: JSON.stringify(members) };
}

function shortEnough(content: Content | undefined): { readonly content?: Content } {
  if (content === undefined || JSON.stringify(content).length > MAX_TOLD_CHARS) return {};
  return { content };
}
