/**
 * The tables of one conversation (docs/storage-schema.md). An object has none until a conversation is made in it, so one
 * that a stranger could wake stays empty. Later releases change them by further steps, never by changing one that is here.
 */
import { inPieces, joinedRows } from "../pieces.ts";

/** Each is run once per object, in this order. */
const STEPS: readonly string[] = [
  `CREATE TABLE conversation (
     one INTEGER PRIMARY KEY CHECK (one = 1), created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, leaf TEXT,
     bytes INTEGER NOT NULL, turns INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
     cache_read_input_tokens INTEGER NOT NULL, cache_creation_input_tokens INTEGER NOT NULL, estimated INTEGER NOT NULL,
     micro_usd INTEGER NOT NULL
   );
   CREATE TABLE message (
     n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, parent TEXT, role TEXT NOT NULL, turn TEXT NOT NULL,
     created_at INTEGER NOT NULL, model TEXT, stop_reason TEXT, incomplete INTEGER NOT NULL, organization TEXT,
     tokens_through INTEGER, bytes INTEGER NOT NULL
   );
   CREATE INDEX message_by_parent ON message (parent);
   CREATE TABLE cut (
     n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, through TEXT NOT NULL, summarized INTEGER NOT NULL,
     bytes INTEGER NOT NULL
   );
   CREATE TABLE turn (
     n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, client TEXT, open INTEGER NOT NULL, message TEXT, said INTEGER
   );
   CREATE INDEX turn_by_client ON turn (client) WHERE client IS NOT NULL;
   CREATE INDEX turn_open ON turn (n) WHERE open = 1;
   CREATE TABLE held (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, bytes INTEGER NOT NULL);
   CREATE TABLE log (
     last INTEGER PRIMARY KEY, turn TEXT NOT NULL, entries INTEGER NOT NULL, events INTEGER NOT NULL,
     total INTEGER NOT NULL, body BLOB
   );
   CREATE TABLE log_turn (
     turn TEXT PRIMARY KEY, first INTEGER NOT NULL, began INTEGER, ended INTEGER, total INTEGER
   ) WITHOUT ROWID;
   CREATE TABLE log_floor (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, total INTEGER NOT NULL);
   CREATE TABLE piece (owner TEXT NOT NULL, nth INTEGER NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (owner, nth))
     WITHOUT ROWID;`,
];
const TABLES = ["conversation", "message", "cut", "turn", "held", "log", "log_turn", "log_floor", "piece"];
/** Platform notes name it so; `PRAGMA user_version` is refused in an object. */
const STEPS_TABLE = "_sql_schema_migrations";

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });

/**
 * What the log and the history of one object stand on. Both remember what is asked often; it is read anew after a
 * transaction that was rolled back.
 */
export class Tables {
  readonly sql: SqlStorage;
  readonly #storage: DurableObjectStorage;
  readonly #forget: (() => void)[] = [];
  /** Undefined: nobody has looked. */
  #made: boolean | undefined;

  constructor(storage: DurableObjectStorage) {
    this.#storage = storage;
    this.sql = storage.sql;
    if (this.made) this.make();
  }

  /** Whether there are any. */
  get made(): boolean {
    this.#made ??= this.sql.exec("SELECT 1 FROM sqlite_master WHERE name = ?", STEPS_TABLE).toArray().length > 0;
    return this.#made;
  }

  /** Makes them, or brings those that are there up to this release. */
  make(): void {
    this.transaction(() => {
      this.sql.exec(`CREATE TABLE IF NOT EXISTS ${STEPS_TABLE} (id INTEGER PRIMARY KEY)`);
      const [done] = this.sql.exec<{ id: number | null }>(`SELECT max(id) AS id FROM ${STEPS_TABLE}`).toArray();
      for (let id = (done?.id ?? 0) + 1; id <= STEPS.length; id++) {
        this.sql.exec(STEPS[id - 1] ?? "");
        this.sql.exec(`INSERT INTO ${STEPS_TABLE} (id) VALUES (?)`, id);
      }
      this.#made = true;
    });
  }

  /** Deletes everything. */
  drop(): void {
    this.transaction(() => {
      for (const table of [...TABLES, STEPS_TABLE]) this.sql.exec(`DROP TABLE IF EXISTS ${table}`);
    });
    this.reload();
  }

  /** All of it or nothing, in storage and in what is remembered. Rethrows. */
  transaction<T>(act: () => T): T {
    try {
      return this.#storage.transactionSync(act);
    } catch (error) {
      this.reload();
      throw error;
    }
  }

  /**
   * Forgets what is remembered: whoever rolls back, or deletes, by himself has to call it. Reads nothing: storage that has
   * just failed may fail again, and what was rolled back must not be remembered.
   */
  reload(): void {
    this.#made = undefined;
    for (const forget of this.#forget) forget();
  }

  onReload(forget: () => void): void {
    this.#forget.push(forget);
  }

  /** Keeps a text of any length in pieces, in place of what its owner had; returns its bytes. */
  putText(owner: string, text: string): number {
    return this.putBytes(owner, encoder.encode(text));
  }

  putBytes(owner: string, bytes: Uint8Array): number {
    this.dropText(owner);
    for (const [at, piece] of inPieces(bytes)) {
      this.sql.exec("INSERT INTO piece (owner, nth, bytes) VALUES (?, ?, ?)", owner, at, piece);
    }
    return bytes.byteLength;
  }

  /** Empty: there is none. */
  text(owner: string): string {
    return decoder.decode(this.bytes(owner));
  }

  bytes(owner: string): Uint8Array {
    if (!this.made) return new Uint8Array(0);
    return joinedRows(
      this.sql.exec<{ bytes: ArrayBuffer }>("SELECT bytes FROM piece WHERE owner = ? ORDER BY nth", owner),
    );
  }

  dropText(owner: string): void {
    this.sql.exec("DELETE FROM piece WHERE owner = ?", owner);
  }
}
