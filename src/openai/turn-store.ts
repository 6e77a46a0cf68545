/**
 * What is kept of one key's conversations for clients that don't keep it themselves: turns with thinking by the ids of
 * their tool calls, and stored responses. One object per key, named by the key's id, so that nothing crosses keys.
 *
 * A write is stored before it is answered. What has expired is not given out any more; the alarm deletes it, at most an
 * hour later. Once a day the alarm asks the key's ledger whether the key has been revoked, and forgets everything if it
 * has: the control plane says so at once, but it may not have got through, and a call that was under way may have written
 * since.
 *
 * Accepted: a clock that leaps back makes rows live longer by as much; it is the platform's.
 */
import { DurableObject } from "cloudflare:workers";
import type { Ledger } from "../ledger/protocol.ts";
import { inPieces, joinedRows } from "../pieces.ts";
import {
  type Chain,
  MAX_CHAIN_BYTES,
  MAX_CHAIN_LENGTH,
  MAX_RECALLED_BYTES,
  MAX_RECALLED_CALLS,
  MAX_STORE_BYTES,
  RESPONSE_KEPT_MS,
  RESPONSE_PARTS,
  type ResponsePart,
  type ResponseToKeep,
  THINKING_KEPT_MS,
  type TurnRecalled,
  type TurnStoreObject,
  type TurnToRemember,
} from "./store-protocol.ts";

/** The alarm comes no sooner than this after the last one, so that rows that expire one after the other share one. */
const SWEEP_MS = 3_600_000;
/** And no later: whether the key is revoked is looked at this often. */
const LOOK_MS = 86_400_000;

const TABLES = `
  CREATE TABLE IF NOT EXISTS kept (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, about TEXT, parent INTEGER, bytes INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
  );
  CREATE INDEX IF NOT EXISTS kept_by_name ON kept (kind, name);
  CREATE INDEX IF NOT EXISTS kept_by_expiry ON kept (expires_at);
  CREATE TABLE IF NOT EXISTS call (id TEXT PRIMARY KEY, kept INTEGER NOT NULL) WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS call_by_kept ON call (kept);
  CREATE TABLE IF NOT EXISTS piece (
    kept INTEGER NOT NULL, part INTEGER NOT NULL, nth INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (kept, part, nth)
  ) WITHOUT ROWID;`;

/**
 * `about`: of a turn its model, of a response its parent's id. `parent`: that one's `seq`, which stays the same response
 * should its id ever be given again.
 */
type Row = {
  readonly seq: number;
  readonly about: string | null;
  readonly parent: number | null;
  readonly bytes: number;
};
type Kind = "turn" | "response";
const COLUMNS = "seq, about, parent, bytes";
/** Of a response that was not there when one went on from it. */
const NO_ROW = 0;

export class TurnStore extends DurableObject<Env> implements TurnStoreObject {
  readonly #sql: SqlStorage;
  /** An object that nothing was ever written to has no tables. */
  #made: boolean;
  /** Of all that is kept; undefined until somebody needs to know. */
  #bytes: number | undefined;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    this.#sql = ctx.storage.sql;
    this.#made = this.#sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'kept'").toArray().length > 0;
  }

  async remember({ id, model, calls, said }: TurnToRemember): Promise<void> {
    this.#write(() => {
      for (const row of this.#named("turn", id)) this.#remove(row);
      const seq = this.#insert("turn", id, model, null, THINKING_KEPT_MS);
      this.#fill(seq, [said]);
      this.#sql.exec(
        "INSERT OR REPLACE INTO call (id, kept) SELECT DISTINCT value, ? FROM json_each(?)",
        seq,
        JSON.stringify(calls),
      );
    });
    this.#armSoon();
  }

  async recall(calls: readonly string[]): Promise<readonly TurnRecalled[]> {
    if (!this.#made) return [];
    const rows = this.#sql.exec<Row>(
      `SELECT DISTINCT kept.seq, kept.about, kept.parent, kept.bytes FROM json_each(?) AS asked
       CROSS JOIN call ON call.id = asked.value CROSS JOIN kept ON kept.seq = call.kept
       WHERE expires_at > ? ORDER BY seq DESC`,
      JSON.stringify(calls.slice(0, MAX_RECALLED_CALLS)),
      Date.now(),
    );
    const turns: TurnRecalled[] = [];
    let room = MAX_RECALLED_BYTES;
    for (const { seq, about, bytes } of rows.toArray()) {
      room -= bytes;
      if (room < 0) break;
      turns.push({ model: about ?? "", said: this.#part(seq, 0) });
    }
    return turns;
  }

  async keep({ id, parent, parts }: ResponseToKeep): Promise<void> {
    const values = parts ? RESPONSE_PARTS.map((part) => parts[part]) : [];
    this.#write(() => {
      const before = parent === null ? null : (this.#find(parent)?.seq ?? NO_ROW);
      // Told again, as a replay is, it stays the same response for those that go on from it.
      const known = this.#find(id);
      if (known && known.parent === before) this.#fill(this.#emptied(known), values);
      else this.#fill(this.#insert("response", id, parent, before, RESPONSE_KEPT_MS), values);
    });
    this.#armSoon();
  }

  async chain(id: string): Promise<Chain> {
    const turns: Uint8Array[] = [];
    let bytes = 0;
    let row = this.#find(id);
    if (!row) return { kind: "missing", id };
    for (;;) {
      if (turns.length === MAX_CHAIN_LENGTH) return { kind: "too_long" };
      bytes += this.#partBytes(row.seq, 0);
      if (row.bytes === 0 || bytes > MAX_CHAIN_BYTES) return { kind: "too_large" };
      turns.push(this.#part(row.seq, 0));
      if (row.parent === null) break;
      const before = this.#live(row.parent);
      if (!before) return { kind: "missing", id: row.about ?? id };
      row = before;
    }
    return { kind: "whole", turns: turns.reverse() };
  }

  async read(id: string, part: ResponsePart): Promise<Uint8Array | null> {
    const row = this.#find(id);
    return row && row.bytes > 0 ? this.#part(row.seq, RESPONSE_PARTS.indexOf(part)) : null;
  }

  async drop(id: string): Promise<boolean> {
    if (!this.#find(id)) return false;
    this.#write(() => {
      for (const row of this.#named("response", id)) this.#remove(row);
    });
    return true;
  }

  async empty(): Promise<void> {
    if (!this.#made) return;
    await this.ctx.storage.deleteAll();
    this.#made = false;
    this.#bytes = undefined;
  }

  /** Never throws: an alarm that throws is given up after six tries. */
  override async alarm(): Promise<void> {
    try {
      if (await this.#isRevoked()) return await this.empty();
      if (!this.#made) return;
      const now = Date.now();
      const expired = this.#sql.exec<Row>(`SELECT ${COLUMNS} FROM kept WHERE expires_at <= ?`, now).toArray();
      this.#write(() => {
        for (const row of expired) this.#remove(row);
      });
      const [next] = this.#sql.exec<{ at: number | null }>("SELECT min(expires_at) AS at FROM kept").toArray();
      if (typeof next?.at !== "number") return await this.empty();
      await this.ctx.storage.setAlarm(Math.min(Math.max(next.at, now + SWEEP_MS), now + LOOK_MS));
    } catch (error) {
      console.error(JSON.stringify({ level: "error", msg: "turn_store_alarm_failed", error: String(error) }));
      await this.ctx.storage.setAlarm(Date.now() + SWEEP_MS);
    }
  }

  /** False where the ledger can't say: there is another alarm. */
  async #isRevoked(): Promise<boolean> {
    const { name } = this.ctx.id;
    if (name === undefined) return false;
    try {
      const ledger = this.env.KEY_LEDGER.getByName(name) as unknown as Ledger;
      const policy = await ledger.policy(name);
      return typeof policy?.revoked_at === "number";
    } catch {
      return false;
    }
  }

  /** All of it or nothing. */
  #write(act: () => unknown): void {
    if (!this.#made) {
      this.#sql.exec(TABLES);
      this.#made = true;
    }
    try {
      this.ctx.storage.transactionSync(act);
    } catch (error) {
      this.#bytes = undefined;
      throw error;
    }
  }

  #insert(kind: Kind, name: string, about: string | null, parent: number | null, keptMs: number): number {
    return this.#sql
      .exec<{ seq: number }>(
        "INSERT INTO kept (kind, name, about, parent, bytes, expires_at) VALUES (?, ?, ?, ?, 0, ?) RETURNING seq",
        kind,
        name,
        about,
        parent,
        Date.now() + keptMs,
      )
      .one().seq;
  }

  #fill(seq: number, parts: readonly Uint8Array[]): void {
    const bytes = parts.reduce((sum, part) => sum + part.byteLength, 0);
    this.#makeRoom(bytes, seq);
    this.#sql.exec("UPDATE kept SET bytes = ? WHERE seq = ?", bytes, seq);
    for (const [part, value] of parts.entries()) {
      for (const [at, piece] of inPieces(value)) {
        this.#sql.exec("INSERT INTO piece (kept, part, nth, bytes) VALUES (?, ?, ?, ?)", seq, part, at, piece);
      }
    }
  }

  #emptied({ seq, bytes }: Row): number {
    this.#sql.exec("DELETE FROM piece WHERE kept = ?", seq);
    this.#sql.exec("UPDATE kept SET bytes = 0 WHERE seq = ?", seq);
    if (this.#bytes !== undefined) this.#bytes -= bytes;
    return seq;
  }

  #remove(row: Row): void {
    const seq = this.#emptied(row);
    this.#sql.exec("DELETE FROM call WHERE kept = ?", seq);
    this.#sql.exec("DELETE FROM kept WHERE seq = ?", seq);
  }

  /** For so many bytes of this one: the oldest others go. */
  #makeRoom(bytes: number, seq: number): void {
    this.#bytes ??= this.#sql.exec<{ sum: number }>("SELECT coalesce(sum(bytes), 0) AS sum FROM kept").one().sum;
    while (this.#bytes + bytes > MAX_STORE_BYTES) {
      const [oldest] = this.#sql
        .exec<Row>(`SELECT ${COLUMNS} FROM kept WHERE seq <> ? ORDER BY seq LIMIT 1`, seq)
        .toArray();
      if (!oldest) break;
      this.#remove(oldest);
    }
    this.#bytes += bytes;
  }

  #named(kind: Kind, name: string): Row[] {
    return this.#sql
      .exec<Row>(`SELECT ${COLUMNS} FROM kept WHERE kind = ? AND name = ? ORDER BY seq DESC`, kind, name)
      .toArray();
  }

  /** The newest response of this id. */
  #find(id: string): Row | undefined {
    const [newest] = this.#made ? this.#named("response", id) : [];
    return newest && this.#live(newest.seq);
  }

  #live(seq: number): Row | undefined {
    return this.#sql
      .exec<Row>(`SELECT ${COLUMNS} FROM kept WHERE seq = ? AND expires_at > ?`, seq, Date.now())
      .toArray()[0];
  }

  #partBytes(seq: number, part: number): number {
    return this.#sql
      .exec<{ sum: number }>(
        "SELECT coalesce(sum(length(bytes)), 0) AS sum FROM piece WHERE kept = ? AND part = ?",
        seq,
        part,
      )
      .one().sum;
  }

  #part(seq: number, part: number): Uint8Array {
    const sql = "SELECT bytes FROM piece WHERE kept = ? AND part = ? ORDER BY nth";
    return joinedRows(this.#sql.exec<{ bytes: ArrayBuffer }>(sql, seq, part));
  }

  /** An alarm that is set already stays: it is never more than a day away, and nothing is kept for less. */
  #armSoon(): void {
    const { storage } = this.ctx;
    this.ctx.waitUntil(
      storage.getAlarm().then((at) => (at === null ? storage.setAlarm(Date.now() + LOOK_MS) : undefined)),
    );
  }
}
