/**
 * Who paid for what, after everything was killed. Each call that came to the upstream must be in the books once: as a row
 * of the audit, or, where whatever ran it was killed before it could give account, in the ledger's `unreported` rows.
 *
 * An `unreported` row does not say which calls it stands for. So each conversation has a key of its own, and a key that
 * nothing is lent to beyond the call that waits at that moment: what is booked as unreported are reservations of its calls
 * and of nothing else, and can be counted against the calls that no row tells of.
 */
import { COST, type Told } from "../test/support/telling-claude.ts";
import { SubjectFailed } from "./load.ts";
import type { Ready } from "./serve.ts";

/** The last loans run out 30 s after the last kill; rows follow within seconds. */
const DEADLINE_MS = 60_000;
const LOOK_EVERY_MS = 1_000;

/** With fewer than ten requests at hand a ledger lends none that nobody waits for; they come back within a millisecond. */
const FIELDS = {
  name: "pays for one conversation",
  limits: { requests_per_minute: 1_000_000, requests_burst: 9 },
  budget: { usd: 1_000, period: "total", mode: "strict" },
};

export type Payer = {
  readonly id: string;
  readonly key: string;
  /** Runtimes and objects that were killed under it. */
  kills: number;
};

export type Paid = {
  /** Upstream calls, and how many of them came to their end. */
  readonly calls: number;
  readonly whole: number;
  /** Calls with a row of their own in the audit. */
  readonly settled: number;
  /** Calls without one that are booked as unreported, and what was booked for them in µUSD. */
  readonly unreported: number;
  readonly unreportedMicroUsd: number;
  /** Reservations booked as unreported of calls that were killed before they came to the upstream. */
  readonly unsent: number;
  /** Calls that were free, and calls that were paid for twice. */
  readonly neither: number;
  readonly twice: number;
  readonly spentMicroUsd: number;
};

type Row = {
  readonly request_id: string;
  readonly upstream_request_id: string | null;
  readonly turn_id: string | null;
  readonly outcome: string;
  readonly requests: number;
  readonly cost_micro_usd: number;
};

export async function makePayer(ready: Ready): Promise<Payer> {
  const response = await fetch(`${at(ready)}/admin/keys`, {
    method: "POST",
    headers: { ...admin(ready), "content-type": "application/json" },
    body: JSON.stringify(FIELDS),
  });
  if (response.status !== 201) throw new SubjectFailed(`no key: ${await response.text()}`);
  const { id, key } = (await response.json()) as { readonly id: string; readonly key: string };
  return { id, key, kills: 0 };
}

/** Waits until all loans are accounted for or booked. Rejects when the books of a key are wrong. */
export async function account(
  ready: Ready,
  payers: readonly (Payer & { readonly calls: readonly Told[] })[],
): Promise<Paid> {
  const deadline = performance.now() + DEADLINE_MS;
  const sums = { calls: 0, whole: 0, settled: 0, unreported: 0, unreportedMicroUsd: 0, unsent: 0 };
  const total = { ...sums, neither: 0, twice: 0, spentMicroUsd: 0 };
  for (const payer of payers) {
    const { rows, spent } = await closedBooks(ready, payer, deadline);
    total.spentMicroUsd += spent;
    const one = balance(rows, payer.calls, payer.kills);
    for (const [name, value] of Object.entries(one)) total[name as keyof typeof one] += value;
  }
  if (total.neither > 0 || total.twice > 0) throw new SubjectFailed(`the books are wrong: ${JSON.stringify(total)}`);
  return total;
}

/** A key's audit rows and what it has spent, when nothing of it is reserved any more and both agree. */
async function closedBooks(
  ready: Ready,
  { id, key }: Payer,
  deadline: number,
): Promise<{ readonly rows: readonly Row[]; readonly spent: number }> {
  for (;;) {
    const [standing, audit] = await Promise.all([
      fetch(`${at(ready)}/v1/key`, { headers: { "x-api-key": key } }),
      fetch(`${at(ready)}/admin/audit.ndjson?key=${id}`, { headers: admin(ready) }),
    ]);
    const { budget } = (await standing.json()) as {
      readonly budget: { readonly spent_micro_usd: number; readonly reserved_micro_usd: number };
    };
    const lines = (await audit.text()).split("\n").filter((line) => line !== "");
    const rows = lines.map((line) => JSON.parse(line) as Row);
    const spent = sum(rows, ({ cost_micro_usd }) => cost_micro_usd);
    if (budget.reserved_micro_usd === 0 && budget.spent_micro_usd === spent) return { rows, spent };
    if (performance.now() > deadline) {
      throw new SubjectFailed(`${id}: the rows sum up to ${spent} µUSD, and its ledger says ${JSON.stringify(budget)}`);
    }
    await new Promise((done) => setTimeout(done, LOOK_EVERY_MS));
  }
}

/** Rejects with the price or the number of a row that can't be right. */
function balance(
  all: readonly Row[],
  calls: readonly Pick<Told, "id" | "state">[],
  kills: number,
): Omit<Paid, "spentMicroUsd"> {
  const lost = all.filter(({ outcome }) => outcome === "unreported");
  const rows = all.filter(({ upstream_request_id }) => upstream_request_id !== null);
  if (new Set(all.map(({ request_id }) => request_id)).size !== all.length) {
    throw new SubjectFailed("a row is in the audit twice");
  }
  const told = new Set(rows.map(({ upstream_request_id }) => upstream_request_id));
  const whole = rows.filter(({ outcome }) => outcome === "complete");
  const dear = whole.find(({ cost_micro_usd }) => cost_micro_usd !== COST);
  if (dear) throw new SubjectFailed(`a call has cost ${dear.cost_micro_usd} µUSD instead of ${COST}`);
  if (new Set(whole.map(({ turn_id }) => turn_id)).size !== whole.length) {
    throw new SubjectFailed("a turn was answered and paid for twice");
  }
  const settled = calls.filter(({ id }) => told.has(id)).length;
  const untold = calls.length - settled;
  const booked = sum(lost, ({ requests }) => requests);
  const unreportedMicroUsd = sum(lost, ({ cost_micro_usd }) => cost_micro_usd);
  // What is booked is the most that a call can cost, so less than its price for each means that one was free.
  const priced = Math.min(booked, Math.floor(unreportedMicroUsd / COST));
  const unreported = Math.min(untold, priced);
  return {
    calls: calls.length,
    whole: calls.filter(({ state }) => state === "complete").length,
    settled,
    unreported,
    unreportedMicroUsd,
    unsent: Math.min(booked, kills) - unreported,
    neither: untold - unreported,
    // A conversation has one call under way, so no kill makes more than one unreported.
    twice: rows.length - told.size + Math.max(0, booked - kills),
  };
}

function sum<T>(of: readonly T[], pick: (one: T) => number): number {
  return of.reduce((total, one) => total + pick(one), 0);
}

const at = ({ port }: Ready): string => `http://127.0.0.1:${port}`;
const admin = ({ adminToken }: Ready): Record<string, string> => ({ authorization: `Bearer ${adminToken}` });
