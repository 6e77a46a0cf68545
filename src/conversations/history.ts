/**
 * What is kept of a conversation beside its log: its settings, its messages as a tree, its turns, and what was cut out of
 * the model's sight. A message never changes; going on from another one is another leaf.
 *
 * Contents are read from storage when somebody looks at them, so that a path costs what is used of it.
 */
import type { Conversation, Message, Page, Usage } from "../../clients/typescript/protocol.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import type { HeldResult } from "./context/tools.ts";
import type { Change, MessagesQuery, Spec } from "./protocol.ts";
import type { Tables } from "./schema.ts";
import { type Path, type StoredCut, type StoredMessage, Tree } from "./tree.ts";
import { type StoredTurn, Turns } from "./turns.ts";
import { NOTHING_SPENT, type Spent, usageOf } from "./usage.ts";
import { conversationView, cutView, type Live, messageView, summaryView, turnView } from "./views.ts";

/** Contents of one page: what an object gives in one call is 32 MiB at most. A larger message comes alone. */
export const PAGE_BYTES = 8 * 1024 * 1024;
/** Rows that an export reads at once; their contents come one by one. */
const EXPORT_ROWS = 100;

type Head = {
  created_at: number;
  updated_at: number;
  leaf: string | null;
  bytes: number;
  turns: number;
  input_tokens: number;
  output_tokens: number;
  cache_read_input_tokens: number;
  cache_creation_input_tokens: number;
  /** Turns with an estimate. */
  estimated: number;
  micro_usd: number;
};
const NEW: Omit<Head, "created_at" | "updated_at"> = {
  leaf: null,
  bytes: 0,
  turns: 0,
  input_tokens: 0,
  output_tokens: 0,
  cache_read_input_tokens: 0,
  cache_creation_input_tokens: 0,
  estimated: 0,
  micro_usd: 0,
};
/** A conversation's settings, and since when they are so. */
export type KeptSpec = Spec & { readonly createdAt: number; readonly updatedAt: number };
type CountedTokens = Exclude<keyof Usage, "estimated" | "cache_read_share">;
type HeldRow = { readonly id: string; readonly bytes: number };

export class History {
  readonly #tables: Tables;
  readonly #tree: Tree;
  readonly #turns: Turns;
  /** Null: there is no conversation. */
  #head: Head | null | undefined;
  #spec: Spec | undefined;

  constructor(tables: Tables) {
    this.#tables = tables;
    this.#tree = new Tree(tables);
    this.#turns = new Turns(tables, this.#tree);
    tables.onReload(() => {
      this.#head = undefined;
      this.#spec = undefined;
    });
  }

  /** Null: no conversation here (never made, expired, deleted). */
  get spec(): KeptSpec | null {
    const head = this.#read();
    if (!head) return null;
    this.#spec ??= JSON.parse(this.#tables.text("spec")) as Spec;
    return { ...this.#spec, createdAt: head.created_at, updatedAt: head.updated_at };
  }

  get leaf(): string | null {
    return this.#read()?.leaf ?? null;
  }

  get bytes(): number {
    return this.#read()?.bytes ?? 0;
  }

  get turns(): number {
    return this.#read()?.turns ?? 0;
  }

  /** In an object that may have no tables yet. */
  create(spec: Spec, now: number): void {
    this.#tables.make();
    this.#head = { created_at: now, updated_at: now, ...NEW };
    const names = Object.keys(this.#head);
    this.#tables.sql.exec(
      `INSERT INTO conversation (one, ${names.join(", ")}) VALUES (1${", ?".repeat(names.length)})`,
      ...Object.values(this.#head),
    );
    this.#putSpec(spec);
  }

  change({ leaf, ...changes }: Change, now: number): void {
    const { spec } = this;
    if (!spec) return;
    const { createdAt: _, updatedAt: __, ...before } = spec;
    if (Object.keys(changes).length > 0) this.#putSpec({ ...before, ...changes });
    this.touch(now);
    if (leaf !== undefined) this.setLeaf(leaf);
  }

  /** Never back, whatever the clock says: lists take what is newer. */
  touch(now: number): void {
    this.#save({ updated_at: Math.max(now, this.#read()?.updated_at ?? 0) });
  }

  setLeaf(message: string | null): void {
    this.#save({ leaf: message });
  }

  message(id: string): StoredMessage | undefined {
    return this.#tree.message(id);
  }

  /** Checks nothing; see `checkIncoming`. */
  addMessage(message: StoredMessage): void {
    this.#weigh(this.#tree.add(message));
  }

  /** Takes a message back that nothing goes on from; false: something does, or it is not there. */
  removeMessage(id: string): boolean {
    const bytes = this.#tree.remove(id);
    this.#weigh(-(bytes ?? 0));
    return bytes !== undefined;
  }

  addCut(cut: StoredCut): void {
    this.#weigh(this.#tree.addCut(cut));
  }

  /** From the root to a leaf, with the newest cut that lies on it. */
  path(leaf: string | null): Path {
    const messages = this.#tree.branch(leaf);
    const on = new Set(messages.map(({ id }) => id));
    const cut = this.#tree.cuts().findLast(({ through }) => on.has(through));
    return { messages, cut: cut ? this.#tree.cut(cut.id) : null };
  }

  turn(id: string): StoredTurn | undefined {
    return this.#turns.get(id);
  }

  turnByClientId(clientId: string): StoredTurn | undefined {
    return this.#turns.byClientId(clientId);
  }

  putTurn(turn: StoredTurn): void {
    const { before, bytes } = this.#turns.put(turn);
    const head = this.#read();
    if (!head) return;
    this.#save({ bytes: head.bytes + bytes, turns: head.turns + (before ? 0 : 1) });
    this.charge(turn, before);
  }

  /** Adds what a turn has used, or what was used for a message that was refused then. `then`: what of it was known. */
  charge({ usage: now, microUsd }: Spent, { usage: then, microUsd: before }: Spent = NOTHING_SPENT): void {
    const head = this.#read();
    if (!head) return;
    const added = (name: CountedTokens): number => head[name] + now[name] - then[name];
    this.#save({
      input_tokens: added("input_tokens"),
      output_tokens: added("output_tokens"),
      cache_read_input_tokens: added("cache_read_input_tokens"),
      cache_creation_input_tokens: added("cache_creation_input_tokens"),
      estimated: head.estimated + Number(now.estimated ?? 0) - Number(then.estimated ?? 0),
      micro_usd: head.micro_usd + microUsd - before,
    });
  }

  /** Not ended, oldest first. */
  openTurns(): readonly StoredTurn[] {
    return this.#turns.open();
  }

  /** Tool results that wait for others of the same answer. */
  get heldResults(): readonly HeldResult[] {
    return this.#heldRows().map(({ id }) => ({ id, block: this.#tables.text(`held ${id}`) }));
  }

  holdResults(results: readonly HeldResult[]): void {
    for (const { id, block } of results) {
      const bytes = this.#tables.putText(`held ${id}`, block);
      this.#tables.sql.exec("INSERT INTO held (id, bytes) VALUES (?, ?)", id, bytes);
      this.#weigh(bytes);
    }
  }

  clearHeldResults(): void {
    for (const { id, bytes } of this.#heldRows()) {
      this.#tables.dropText(`held ${id}`);
      this.#tables.sql.exec("DELETE FROM held WHERE id = ?", id);
      this.#weigh(-bytes);
    }
  }

  page({ after, limit, leaf }: MessagesQuery): Result<Page<Message>, Failure> {
    const end = leaf === null ? this.leaf : this.#tree.newestFrom(leaf);
    if (leaf !== null && end === null) return unknown("leaf", "no such message");
    const entries = this.#entries(end);
    const start = after === null ? 0 : entries.findIndex(({ id }) => id === after) + 1;
    if (after !== null && start === 0) return unknown("after", "no such message in this branch");
    let room = PAGE_BYTES;
    const data: Message[] = [];
    for (const { bytes, show } of entries.slice(start, start + limit)) {
      room -= bytes;
      if (data.length > 0 && room < 0) break;
      data.push(show());
    }
    const hasMore = start + data.length < entries.length;
    return ok({ data, has_more: hasMore, next_cursor: hasMore ? (data.at(-1)?.id ?? null) : null });
  }

  /** The whole branch, as pages show it. */
  branch(leaf: string | null): readonly Message[] {
    return this.#entries(leaf).map(({ show }) => show());
  }

  view(live: Live): Conversation {
    const head = this.#read();
    const { spec } = this;
    if (!head || !spec) throw new Error("there is no conversation");
    return conversationView(
      {
        spec,
        createdAt: head.created_at,
        updatedAt: head.updated_at,
        queued: this.openTurns().flatMap(({ id, state }) => (state === "queued" ? [id] : [])),
        leaf: head.leaf,
        turns: head.turns,
        usage: usageOf(head, head.estimated > 0),
        cost_micro_usd: head.micro_usd,
      },
      live,
    );
  }

  messageView(message: StoredMessage): Message {
    const turn = message.role === "assistant" ? this.#turns.get(message.turn) : undefined;
    return messageView(message, this.#tree.siblings(message.parent), turn);
  }

  /** JSON of everything, in pieces. */
  *export(view: Conversation): Iterable<string> {
    yield `{"conversation":${JSON.stringify(view)},"messages":[`;
    yield* listed(this.#tree.all(EXPORT_ROWS), (message) => this.messageView(message));
    yield '],"turns":[';
    yield* listed(this.#turns.all(EXPORT_ROWS), turnView);
    yield '],"cuts":[';
    yield* listed(this.#tree.cuts(), ({ id }) => cutView(this.#tree.cut(id)));
    yield "]}";
  }

  /** Messages of a branch, with the summaries where they belong. */
  #entries(leaf: string | null): readonly { readonly id: string; readonly bytes: number; show(): Message }[] {
    const summaries = Map.groupBy(
      this.#tree.cuts().filter(({ summarized }) => summarized === 1),
      ({ through }) => through,
    );
    return this.#tree.branch(leaf).flatMap((message) => [
      { id: message.id, bytes: message.bytes, show: () => this.messageView(message) },
      ...(summaries.get(message.id) ?? []).map((cut) => ({
        id: cut.id,
        bytes: cut.bytes,
        show: () => summaryView(this.#tree.cut(cut.id)),
      })),
    ]);
  }

  #heldRows(): readonly HeldRow[] {
    return this.#tables.made ? this.#tables.sql.exec<HeldRow>("SELECT id, bytes FROM held ORDER BY n").toArray() : [];
  }

  #putSpec(spec: Spec): void {
    this.#tables.putText("spec", JSON.stringify(spec));
    this.#spec = spec;
  }

  #weigh(bytes: number): void {
    const head = this.#read();
    if (head && bytes !== 0) this.#save({ bytes: head.bytes + bytes });
  }

  #read(): Head | null {
    if (this.#head === undefined) {
      const rows = this.#tables.made ? this.#tables.sql.exec<Head>("SELECT * FROM conversation").toArray() : [];
      this.#head = rows[0] ?? null;
    }
    return this.#head;
  }

  #save(changes: Partial<Head>): void {
    const head = this.#read();
    if (!head) return;
    this.#head = { ...head, ...changes };
    const names = Object.keys(changes);
    this.#tables.sql.exec(
      `UPDATE conversation SET ${names.map((name) => `${name} = ?`).join(", ")}`,
      ...Object.values(changes),
    );
  }
}

function* listed<T>(all: Iterable<T>, show: (one: T) => unknown): Generator<string> {
  let between = "";
  for (const one of all) {
    yield between + JSON.stringify(show(one));
    between = ",";
  }
}

function unknown(parameter: string, problem: string): Result<never, Failure> {
  return err({ kind: "invalid_request", message: `${parameter}: ${problem}` });
}
