/**
 * The chain of a key's audit rows. Each row has a number, from 1 and without gaps, and a hash over the hash before it and
 * everything that stands in the row. Who changes, deletes or adds a row in D1 breaks it, and can't mend it: the last number
 * and hash are kept by the key's ledger too (verify.ts compares).
 *
 * The rule by which it is made: a row's link is a function of what the ledger has noted with its place in the outbox (the
 * end of the chain up to there), of the rows delivered since, in their order, and of which of them D1 has under another
 * number or none. So
 * - a repeated delivery, after a crash or a lost answer, gives the same numbers and hashes, and D1 leaves its rows alone;
 * - a record that is parked, dropped at the outbox's cap or unreadable takes no number, since nothing behind it is
 *   delivered before that is settled;
 * - a row that D1 has already without this number (an earlier release stored it, or the record came twice) takes none
 *   either: the statement then stores nothing, and the rest is numbered without it (consumer.ts);
 * - an earlier release that runs again for a while stores rows without links, and the chain goes on behind them.
 *
 * Values are made before they are hashed what D1 will give back: texts whole characters without NUL, flags 0 and 1, what
 * is left out its default, and what has another type than its column as if it were left out.
 *
 * Left open: an error of D1 that it has no words for, on a row that is parked for it and stored by D1 later all the same,
 * leaves two rows with one number. The walk tells so.
 */
import { sha256Hex } from "../digest.ts";
import { parseJson } from "../wire/json.ts";
import type { AuditRecord } from "./record.ts";
import { COLUMNS } from "./store.ts";

type Linked = Exclude<keyof AuditRecord, "chain_seq" | "chain_hash">;
type Sort<T> = [T & string] extends [never] ? "number" : "text";

/** What a link covers, in this order, for ever: more columns, or another order, are another version beside this one. */
const VERSION_1: { readonly [K in Linked]: Sort<AuditRecord[K]> } = {
  request_id: "text",
  upstream_request_id: "text",
  key_id: "text",
  workspace: "text",
  at: "number",
  route: "text",
  method: "text",
  dialect: "text",
  model_requested: "text",
  model: "text",
  stream: "number",
  status: "number",
  error_type: "text",
  outcome: "text",
  estimated: "number",
  input_tokens: "number",
  output_tokens: "number",
  cache_creation_5m_input_tokens: "number",
  cache_creation_1h_input_tokens: "number",
  cache_read_input_tokens: "number",
  thinking_tokens: "number",
  web_search_requests: "number",
  web_fetch_requests: "number",
  cost_micro_usd: "number",
  ttfb_ms: "number",
  duration_ms: "number",
  stop_reason: "text",
  session_id: "text",
  agent_id: "text",
  parent_agent_id: "text",
  client: "text",
  requests: "number",
  denial: "text",
  admission: "text",
  ledger_ms: "number",
  drained: "number",
  upstream: "text",
  attempts: "number",
  cache: "text",
  replayed: "number",
  conversation_id: "text",
  turn_id: "text",
  subject: "text",
  template: "text",
  template_version: "number",
  findings: "text",
};
const LINKED = Object.keys(VERSION_1) as Linked[];
/**
 * The row of an empty record, to be copied. Read from JSON, for an object to which fields were added one by one is a
 * dictionary to V8, and dozens of looks into one of those for each row were most of what a link cost.
 */
const EMPTY = parseJson(JSON.stringify(Object.fromEntries(LINKED.map((name) => [name, absent(COLUMNS[name])])))) as Row;

function absent(missing: unknown): number | null {
  return typeof missing === "number" ? missing : null;
}

/** What an array begins with that holds the columns of version 1. */
const NAME = "audit-1";

/** The hash before the first row. */
export const NO_HASH = "0".repeat(64);

/** Where a chain ends, as its ledger knows it. */
export type ChainEnd = {
  readonly seq: number;
  readonly hash: string;
  /** When the call of the last row began. */
  readonly at: number;
  /** The newest row that was there without a link when the chain began; empty: none was. */
  readonly before: string;
  /** The rows before a pause longer than LONGEST_WAY_MS, the newest ones: retention may leave nothing in front of it. */
  readonly pauses?: readonly Pause[];
};
export type Pause = { readonly seq: number; readonly at: number };

/** Between the beginning of a call and its row in D1: the longest streams take minutes, an outage of D1 hours. */
export const LONGEST_WAY_MS = 24 * 60 * 60 * 1_000;
/** Pauses of more than a day that are kept: those of three years at the least. */
const MAX_PAUSES = 1_000;

/** What a key's ledger is asked by who walks the key's chain. */
export interface ChainKeeper {
  /** Where the chain of a key ends, as far as D1 is known to have it. Null: it has not begun. */
  chainEnd(key: string): Promise<ChainEnd | null>;
}

/** The ends of chains, by key. A ledger has one key, so one. */
export type ChainEnds = Readonly<Record<string, ChainEnd>>;

/** A row as D1 will store it. */
export type Row = { readonly [K in Linked]: string | number | null };
/** With its place in its key's chain; null: in none. */
export type LinkedRow = { readonly row: Row; readonly chain_seq: number | null; readonly chain_hash: string | null };

/** What D1 will give back of a record's fields. */
export function rowOf(record: unknown): Row {
  const row: Record<Linked, string | number | null> = { ...EMPTY };
  if (typeof record !== "object" || record === null) return row;
  for (const name in record) {
    if (Object.hasOwn(VERSION_1, name)) row[name as Linked] = storedValue(name as Linked, Reflect.get(record, name));
  }
  return row;
}

function storedValue(name: Linked, value: unknown): string | number | null {
  if (VERSION_1[name] === "text") return typeof value === "string" ? wholeText(value) : null;
  // Adding 0 leaves no minus before it.
  if (typeof value === "number" && Number.isFinite(value)) return value + 0;
  return typeof value === "boolean" ? Number(value) : EMPTY[name];
}

/** Halves of characters do not come back from D1 as they went in, and whether NUL does depends on who reads it. */
function wholeText(text: string): string {
  const whole = text.isWellFormed() ? text : text.toWellFormed();
  return whole.includes("\0") ? whole.replaceAll("\0", "\ufffd") : whole;
}

/** The hash of a row at this place of a chain: of the hash before, a line feed, and the row as canonical JSON. */
export function linkHash(before: string, seq: unknown, row: Readonly<Record<Linked, unknown>>): Promise<string> {
  return sha256Hex(`${before}\n${JSON.stringify([NAME, seq, ...LINKED.map((name) => row[name])])}`);
}

/** Rows that D1 has, by request id, and their numbers. */
export type Known = ReadonlyMap<string, number | null>;

/**
 * Gives rows their links, in their order, each behind its key's end; returns them with the ends that follow. A row that is
 * known under another number, or comes for the second time, is left out; one without a key gets none, and D1 refuses it.
 */
export async function link(
  rows: readonly Row[],
  ends: ChainEnds,
  known: Known,
): Promise<{ readonly rows: LinkedRow[]; readonly ends: ChainEnds }> {
  const next: Record<string, ChainEnd> = { ...ends };
  const linked: LinkedRow[] = [];
  const seen = new Set<unknown>();
  for (const row of rows) {
    const { key_id, request_id, at } = row;
    if (typeof key_id !== "string" || typeof request_id !== "string") {
      linked.push({ row, chain_seq: null, chain_hash: null });
      continue;
    }
    const end = next[key_id] ?? { seq: 0, hash: NO_HASH, at: 0, before: "" };
    const chain_seq = end.seq + 1;
    const stored = known.get(request_id);
    if (seen.has(request_id) || (stored !== undefined && stored !== chain_seq)) continue;
    seen.add(request_id);
    const chain_hash = await linkHash(end.hash, chain_seq, row);
    linked.push({ row, chain_seq, chain_hash });
    next[key_id] = { ...end, ...paused(end, Number(at)), seq: chain_seq, hash: chain_hash, at: Number(at) };
  }
  return { rows: linked, ends: next };
}

function paused({ seq, at, pauses = [] }: ChainEnd, next: number): Pick<ChainEnd, "pauses"> {
  if (seq === 0 || next - at <= LONGEST_WAY_MS) return {};
  return { pauses: [...pauses, { seq, at }].slice(-MAX_PAUSES) };
}

/** The ends in a ledger's note; none in an empty one. */
export function readEnds(note: string): ChainEnds {
  return (parseJson(note) as ChainEnds | undefined) ?? {};
}
