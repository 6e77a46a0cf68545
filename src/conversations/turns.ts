/** The turns of a conversation, and what was said in those that wait. */
import type { Content, ContextCut, TurnError, TurnState, Usage } from "../../clients/typescript/protocol.ts";
import type { Incoming, Sender } from "./protocol.ts";
import type { Tables } from "./schema.ts";
import { isOpen } from "./states.ts";
import type { Tree } from "./tree.ts";

export type StoredTurn = {
  readonly id: string;
  readonly state: TurnState;
  readonly incoming: Incoming;
  /** Who pays. */
  readonly sender: Sender;
  /** The user message that it answers; null while it waits in the queue. */
  readonly message: string | null;
  readonly createdAt: number;
  readonly startedAt: number | null;
  readonly endedAt: number | null;
  /** Upstream calls begun because the object restarted. */
  readonly restarts: number;
  readonly model: string;
  readonly stopReason: string | null;
  readonly usage: Usage;
  readonly microUsd: number;
  readonly cut: ContextCut | null;
  readonly error: TurnError | null;
  /** The answer. */
  readonly answer: string | null;
};

type Row = {
  readonly n: number;
  readonly id: string;
  readonly message: string | null;
  /** Bytes of its own copy of what was said; 0: its message has the same; null: nothing was said. */
  readonly said: number | null;
};
const COLUMNS = "n, id, message, said";

export class Turns {
  readonly #tables: Tables;
  readonly #tree: Tree;

  constructor(tables: Tables, tree: Tree) {
    this.#tables = tables;
    this.#tree = tree;
  }

  get(id: string): StoredTurn | undefined {
    return this.#first(`SELECT ${COLUMNS} FROM turn WHERE id = ?`, id);
  }

  /** The newest one. */
  byClientId(clientId: string): StoredTurn | undefined {
    return this.#first(
      `SELECT ${COLUMNS} FROM turn WHERE client = ? ORDER BY n DESC LIMIT 1`,
      JSON.stringify(clientId),
    );
  }

  open(): readonly StoredTurn[] {
    return this.#rows(`SELECT ${COLUMNS} FROM turn WHERE open = 1 ORDER BY n`).map((row) => this.#turn(row));
  }

  /** All of them in the order they were made, so many rows at a time. */
  *all(rows: number): Generator<StoredTurn> {
    for (let n = 0; ; ) {
      const found = this.#rows(`SELECT ${COLUMNS} FROM turn WHERE n > ? ORDER BY n LIMIT ?`, n, rows);
      for (const row of found) yield this.#turn(row);
      const last = found.at(-1);
      if (!last) return;
      n = last.n;
    }
  }

  /** Returns what it replaces, and by how many bytes what its sender gave has grown here. */
  put(turn: StoredTurn): { readonly before: StoredTurn | undefined; readonly bytes: number } {
    const { clientId, options, onBusy, edit, regenerate } = turn.incoming;
    const about = { ...turn, incoming: { clientId, options, onBusy, edit, regenerate } };
    const [known] = this.#rows(`SELECT ${COLUMNS} FROM turn WHERE id = ?`, turn.id);
    const before = known && this.#turn(known);
    const said = known ? this.#settled(known, turn.message) : this.#say(turn);
    this.#tables.sql.exec(
      `INSERT INTO turn (id, client, open, message, said) VALUES (?, ?, ?, ?, ?)
       ON CONFLICT (id) DO UPDATE SET open = excluded.open, message = excluded.message, said = excluded.said`,
      turn.id,
      clientId === null ? null : JSON.stringify(clientId),
      Number(isOpen(turn.state)),
      turn.message,
      said,
    );
    this.#tables.putText(`turn ${turn.id}`, JSON.stringify(about));
    const given = known || Object.keys(options).length === 0 ? 0 : JSON.stringify(options).length;
    return { before, bytes: given + (said ?? 0) - (known?.said ?? 0) };
  }

  /** A new turn's words, unless its message has them already. */
  #say({ id, message, incoming }: StoredTurn): number | null {
    if (incoming.content === null) return null;
    const text = JSON.stringify(incoming.content);
    return message !== null && this.#tree.contentText(message) === text ? 0 : this.#tables.putText(saidBy(id), text);
  }

  /** Once its message has the very words that waited, they are not kept twice. */
  #settled({ id, message: before, said }: Row, message: string | null): number | null {
    if (!said || message === null || message === before) return said;
    if (this.#tree.contentText(message) !== this.#tables.text(saidBy(id))) return said;
    this.#tables.dropText(saidBy(id));
    return 0;
  }

  #first(statement: string, value: string): StoredTurn | undefined {
    const [row] = this.#rows(statement, value);
    return row && this.#turn(row);
  }

  #rows(statement: string, ...values: (string | number)[]): Row[] {
    return this.#tables.made ? this.#tables.sql.exec<Row>(statement, ...values).toArray() : [];
  }

  #turn(row: Row): StoredTurn {
    const turn = JSON.parse(this.#tables.text(`turn ${row.id}`)) as StoredTurn;
    const read = (): Content | null => this.#said(row.id);
    let content: Content | null | undefined;
    return {
      ...turn,
      incoming: {
        ...turn.incoming,
        get content() {
          if (content === undefined) content = read();
          return content;
        },
      },
    };
  }

  /** As it is kept by now. Null also where its message was taken back. */
  #said(turn: string): Content | null {
    const [row] = this.#rows(`SELECT ${COLUMNS} FROM turn WHERE id = ?`, turn);
    if (!row || row.said === null) return null;
    const text = row.said > 0 ? this.#tables.text(saidBy(turn)) : this.#tree.contentText(row.message ?? "");
    return text === "" ? null : (JSON.parse(text) as Content);
  }
}

function saidBy(turn: string): string {
  return `said ${turn}`;
}
