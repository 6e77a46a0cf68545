/**
 * What of a batch has been paid for: one object per batch, named by its upstream and its id. Whoever fetches results tells
 * it each line as it passes; it keeps the custom ids it has seen, and books what is new to the key that made the batch, so
 * each request is booked once, however often, by whomever and how far its results are read.
 *
 * A line is noted, and what is due for it stored, in one transaction before the call is answered. What is due is told to the
 * key's ledger and the workspace's until they have it, each message under an id of its own, which a ledger knows for ten
 * minutes. Left open: a ledger that takes a message, whose answer is lost, and that can't be reached for ten minutes after,
 * books that message twice.
 *
 * Money alone is booked at the ledgers. The tokens of a batch stand in the audit and in no bucket: a batch has no minute.
 */
import { DurableObject } from "cloudflare:workers";
import type { AuditRecord } from "../audit/record.ts";
import { limitsNothing } from "../identity/key-record.ts";
import { NOTHING } from "../ledger/amounts.ts";
import { type Ledger, ledgerName, type Message } from "../ledger/protocol.ts";
import { newId } from "../wire/ids.ts";

/** Results can be fetched for 29 days after a batch was made; after that nothing more can come. */
const KEPT_MS = 35 * 86_400_000;
const RETRY_MS = [1_000, 5_000, 15_000, 60_000] as const;
const ROUTE = "/v1/messages/batches/:id/results";

/** Sums that a line adds to, named as in the audit. */
export const COUNTS = [
  "input_tokens",
  "output_tokens",
  "cache_creation_5m_input_tokens",
  "cache_creation_1h_input_tokens",
  "cache_read_input_tokens",
  "thinking_tokens",
  "web_search_requests",
  "web_fetch_requests",
  "cost_micro_usd",
] as const satisfies readonly (keyof AuditRecord)[];

/** One paid line of a batch's results. */
export type ResultLine = {
  readonly customId: string;
  readonly model: string;
  /** In the order of COUNTS. */
  readonly counts: readonly number[];
  readonly estimated: boolean;
};

export type Booking = {
  /** The key that made the batch, and its workspace. */
  readonly keyId: string;
  readonly workspace: string;
  readonly upstream: string;
  readonly lines: readonly ResultLine[];
};

type Due = { id: string; key_id: string; workspace: string; key_told: number; micro_usd: number; record: string };

export class BatchBook extends DurableObject<Env> {
  #failures = 0;
  #telling: Promise<void> | null = null;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    this.#open();
  }

  #open(): void {
    this.ctx.storage.sql.exec(
      `CREATE TABLE IF NOT EXISTS booked (custom_id TEXT PRIMARY KEY) WITHOUT ROWID;
       CREATE TABLE IF NOT EXISTS due (
         id TEXT PRIMARY KEY, key_id TEXT NOT NULL, workspace TEXT NOT NULL, key_told INTEGER NOT NULL DEFAULT 0,
         micro_usd INTEGER NOT NULL, record TEXT NOT NULL
       ) WITHOUT ROWID;`,
    );
  }

  /** Books those of the lines that have not been booked yet. When it returns, what is due for them is stored. */
  async book({ keyId, workspace, upstream, lines }: Booking): Promise<void> {
    const { sql } = this.ctx.storage;
    // It may have forgotten everything since it was started.
    this.#open();
    const now = Date.now();
    const sums = new Map<string, { counts: number[]; estimated: boolean }>();
    for (const { customId, model, counts, estimated } of lines) {
      const { rowsWritten } = sql.exec("INSERT OR IGNORE INTO booked (custom_id) VALUES (?)", customId);
      if (rowsWritten === 0) continue;
      const sum = sums.get(model);
      sums.set(model, {
        counts: COUNTS.map((_, i) => (sum?.counts[i] ?? 0) + (counts[i] ?? 0)),
        estimated: estimated || sum?.estimated === true,
      });
    }
    for (const [model, { counts, estimated }] of sums) {
      const id = newId("req", now);
      const record: Partial<AuditRecord> = {
        request_id: id,
        key_id: keyId,
        workspace,
        at: now,
        route: ROUTE,
        method: "GET",
        dialect: "anthropic",
        status: 200,
        outcome: "complete",
        // Not a call of its own: the one that fetched the results has its own row.
        requests: 0,
        model,
        upstream,
        ...(estimated ? { estimated: 1 } : {}),
        ...Object.fromEntries(COUNTS.map((name, i) => [name, counts[i] ?? 0])),
      };
      sql.exec(
        "INSERT INTO due (id, key_id, workspace, micro_usd, record) VALUES (?, ?, ?, ?, ?)",
        id,
        keyId,
        workspace,
        counts[COUNTS.indexOf("cost_micro_usd")] ?? 0,
        JSON.stringify(record),
      );
    }
    if (sums.size === 0) return;
    // Should this object end before it has told the ledgers, it is woken for it.
    await this.ctx.storage.setAlarm(now + RETRY_MS[0]);
    this.ctx.waitUntil(this.#tell());
  }

  /** Never throws: an alarm that throws is given up after six tries. */
  override async alarm(): Promise<void> {
    if (this.#owes()) await this.#tell();
    else await this.ctx.storage.deleteAll();
  }

  #owes(): boolean {
    return this.ctx.storage.sql.exec("SELECT 1 FROM due LIMIT 1").toArray().length > 0;
  }

  /** Tells what is due, and sets the alarm: to tell the rest of it, or to be forgotten. One at a time. */
  async #tell(): Promise<void> {
    while (this.#telling) await this.#telling;
    this.#telling = this.#tellAll();
    await this.#telling;
    this.#telling = null;
  }

  async #tellAll(): Promise<void> {
    const { sql } = this.ctx.storage;
    try {
      for (const due of sql.exec<Due>("SELECT * FROM due ORDER BY id").toArray()) {
        if (due.key_told === 0) {
          await this.#exchange(ledgerName.key(due.key_id), due, `[${due.record}]`);
          sql.exec("UPDATE due SET key_told = 1 WHERE id = ?", due.id);
        }
        await this.#tellWorkspace(ledgerName.workspace(due.workspace), due);
        sql.exec("DELETE FROM due WHERE id = ?", due.id);
      }
      this.#failures = 0;
      await this.ctx.storage.setAlarm(Date.now() + (this.#owes() ? RETRY_MS[0] : KEPT_MS));
    } catch (error) {
      console.error(JSON.stringify({ level: "error", msg: "batch_booking_delayed", error: String(error) }));
      const wait = RETRY_MS[Math.min(this.#failures++, RETRY_MS.length - 1)] ?? RETRY_MS[0];
      await this.ctx.storage.setAlarm(Date.now() + wait);
    }
  }

  /** A workspace that limits nothing is told nothing, as of any other call (see lease-book.ts). */
  async #tellWorkspace(name: string, due: Due): Promise<void> {
    const asked = await this.#ledger(name).exchange(message(name, `${due.id}:?`, [], ""));
    if (!limitsNothing(asked?.policy)) await this.#exchange(name, due, "");
  }

  async #exchange(name: string, due: Due, records: string): Promise<void> {
    const used = { inputTokens: 0, outputTokens: 0, microUsd: due.micro_usd, learned: null };
    const report = { loan: null, unused: null, closed: true, ended: NOTHING, used };
    await this.#ledger(name).exchange(message(name, due.id, [report], records));
  }

  #ledger(name: string): Ledger {
    return this.env.KEY_LEDGER.getByName(name) as unknown as Ledger;
  }
}

function message(to: string, id: string, loans: Message["loans"], records: string): Message {
  return { id, to, isolate: "batch", ask: null, loans, holding: [], records, openStreams: 0 };
}
