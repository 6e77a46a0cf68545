/** The messages of a conversation as a tree, and the cuts that were made in it. */
import type { Content, ContextCut } from "../../clients/typescript/protocol.ts";
import type { Tables } from "./schema.ts";

export type StoredMessage = {
  readonly id: string;
  readonly role: "user" | "assistant";
  readonly content: Content;
  readonly turn: string;
  readonly parent: string | null;
  readonly createdAt: number;
  readonly model: string | null;
  readonly stopReason: string | null;
  readonly incomplete: boolean;
  /** Organization that signed its thinking. */
  readonly organization: string | null;
  /** Upstream's count of everything up to and with this message (an answer's: prompt + answer). Null: unknown. */
  readonly tokensThrough: number | null;
};
/** From the root to the leaf. `cut`: the newest cut whose `through` lies on it. */
export type Path = { readonly messages: readonly StoredMessage[]; readonly cut: StoredCut | null };
export type StoredCut = {
  readonly id: string;
  readonly through: string;
  readonly turn: string;
  readonly summary: string | null;
  readonly cut: ContextCut;
  readonly createdAt: number;
};

type MessageRow = {
  readonly n: number;
  readonly id: string;
  readonly parent: string | null;
  readonly role: "user" | "assistant";
  readonly turn: string;
  readonly created_at: number;
  readonly model: string | null;
  readonly stop_reason: string | null;
  readonly incomplete: number;
  readonly organization: string | null;
  readonly tokens_through: number | null;
  readonly bytes: number;
};
type CutRow = {
  readonly id: string;
  readonly through: string;
  /** 1: with a summary. */
  readonly summarized: number;
  readonly bytes: number;
};
type Sized = { readonly bytes: number };

export class Tree {
  readonly #tables: Tables;

  constructor(tables: Tables) {
    this.#tables = tables;
  }

  message(id: string): (StoredMessage & Sized) | undefined {
    const [row] = this.#rows("SELECT * FROM message WHERE id = ?", id);
    return row && this.#message(row);
  }

  /** JSON of a message's content. */
  contentText(id: string): string {
    return this.#tables.text(ownerOf(id));
  }

  /** Returns its bytes. */
  add(message: StoredMessage): number {
    const bytes = this.#tables.putText(ownerOf(message.id), JSON.stringify(message.content));
    this.#tables.sql.exec(
      `INSERT INTO message (id, parent, role, turn, created_at, model, stop_reason, incomplete, organization,
       tokens_through, bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      message.id,
      message.parent,
      message.role,
      message.turn,
      message.createdAt,
      message.model,
      message.stopReason,
      Number(message.incomplete),
      message.organization,
      message.tokensThrough,
      bytes,
    );
    return bytes;
  }

  /** Returns its bytes, or undefined where it stays. */
  remove(id: string): number | undefined {
    const [row] = this.#rows(
      "SELECT * FROM message WHERE id = ? AND NOT EXISTS (SELECT 1 FROM message AS next WHERE next.parent = message.id)",
      id,
    );
    if (!row) return undefined;
    this.#tables.sql.exec("DELETE FROM message WHERE n = ?", row.n);
    this.#tables.dropText(ownerOf(id));
    return row.bytes;
  }

  /** From the root to the leaf. */
  branch(leaf: string | null): readonly (StoredMessage & Sized)[] {
    if (leaf === null) return [];
    const rows = this.#rows(
      `WITH RECURSIVE up AS (
         SELECT * FROM message WHERE id = ? UNION ALL SELECT message.* FROM up CROSS JOIN message ON message.id = up.parent
       )
       SELECT * FROM up`,
      leaf,
    );
    // What goes on from a message came after it.
    return rows.sort((a, b) => a.n - b.n).map((row) => this.#message(row));
  }

  /** The newest message that goes on from this one, over however many others; itself, where none does. Null: it is not there. */
  newestFrom(id: string): string | null {
    const [row] = this.#rows(
      `WITH RECURSIVE down AS (
         SELECT * FROM message WHERE id = ?
         UNION ALL SELECT message.* FROM down CROSS JOIN message ON message.parent = down.id
       )
       SELECT * FROM down ORDER BY n DESC LIMIT 1`,
      id,
    );
    return row?.id ?? null;
  }

  /** Oldest first. */
  siblings(parent: string | null): readonly string[] {
    if (!this.#tables.made) return [];
    return this.#tables.sql
      .exec<{ id: string }>("SELECT id FROM message WHERE parent IS ? ORDER BY n", parent)
      .toArray()
      .map(({ id }) => id);
  }

  /** All of them in the order they were made, so many rows at a time. */
  *all(rows: number): Generator<StoredMessage> {
    for (let n = 0; ; ) {
      const found = this.#rows("SELECT * FROM message WHERE n > ? ORDER BY n LIMIT ?", n, rows);
      for (const row of found) yield this.#message(row);
      const last = found.at(-1);
      if (!last) return;
      n = last.n;
    }
  }

  /** Returns its bytes. */
  addCut(cut: StoredCut): number {
    const bytes = this.#tables.putText(ownerOf(cut.id), JSON.stringify(cut));
    this.#tables.sql.exec(
      "INSERT INTO cut (id, through, summarized, bytes) VALUES (?, ?, ?, ?)",
      cut.id,
      cut.through,
      Number(cut.summary !== null),
      bytes,
    );
    return bytes;
  }

  /** Oldest first. */
  cuts(): readonly CutRow[] {
    if (!this.#tables.made) return [];
    return this.#tables.sql.exec<CutRow>("SELECT id, through, summarized, bytes FROM cut ORDER BY n").toArray();
  }

  /** One of them. */
  cut(id: string): StoredCut {
    return JSON.parse(this.#tables.text(ownerOf(id))) as StoredCut;
  }

  #rows(statement: string, ...values: (string | number | null)[]): MessageRow[] {
    return this.#tables.made ? this.#tables.sql.exec<MessageRow>(statement, ...values).toArray() : [];
  }

  #message(row: MessageRow): StoredMessage & Sized {
    // Of a message that is gone by now nothing is left to say.
    const read = (): Content => JSON.parse(this.contentText(row.id) || '""') as Content;
    let content: Content | undefined;
    return {
      id: row.id,
      role: row.role,
      get content() {
        content ??= read();
        return content;
      },
      turn: row.turn,
      parent: row.parent,
      createdAt: row.created_at,
      model: row.model,
      stopReason: row.stop_reason,
      incomplete: row.incomplete === 1,
      organization: row.organization,
      tokensThrough: row.tokens_through,
      bytes: row.bytes,
    };
  }
}

function ownerOf(id: string): string {
  return `message ${id}`;
}
