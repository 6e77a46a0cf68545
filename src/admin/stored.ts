/**
 * What the control plane's records have in common. Two places know one: D1, for people, and the object that enforces
 * it, its ledger or the upstream pool. A change is stored first and enforced next. If the second step fails the answer
 * says so, and repeating the same change completes it: its version is higher, so the object takes it.
 */
import type { Change, Kind } from "../changes/change.ts";
import { type AppContext, fail, json } from "../context.ts";
import { type Admin, reachLedger, unavailable } from "../identity/admin-auth.ts";
import { BURSTS, type Budget, type KeyLimits, type Rules } from "../identity/key-record.ts";
import { page, readPageQuery, type Spec, type Values } from "../query.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";

type Enforced = { readonly id: string; readonly version: number; readonly updated_at: number };

/** A sort of record: how it is called, found, stored, enforced and answered. */
export type RecordKind<R extends Enforced> = {
  readonly noun: string;
  /** How the change log calls it. */
  readonly kind: Kind;
  readonly idPattern: RegExp;
  /** What enforces it, as a message names it. */
  readonly enforcer: string;
  /** Tells that what to enforce. Bears repeating. */
  readonly enforce: (c: AppContext, record: R) => Promise<Result<void, "unreachable">>;
  readonly get: (db: D1Database, id: string) => Promise<R | null>;
  /** Replaces the version before, and keeps the change; false when somebody else was faster. */
  readonly update: (db: D1Database, record: R, change: Change) => Promise<boolean>;
  /** The record as the change log has it: without secrets. */
  readonly told: (record: R) => object;
  /** The record as it is answered. */
  readonly shown: (record: R, c: AppContext) => object | Promise<object>;
};

/**
 * Runs what needs D1; a D1 that fails is a 503 and not a bug. Its words may hold SQL, so they stay in the log. `what`
 * tells what is and is not in force then.
 */
export async function stored(c: AppContext, run: () => Promise<Response>, what = "The database"): Promise<Response> {
  try {
    return await run();
  } catch (error) {
    console.error(
      JSON.stringify({ level: "error", msg: "d1_failed", request_id: c.var.call.requestId, error: String(error) }),
    );
    return fail(c, unavailable(what));
  }
}

/** Finds the record that the path names. An id that can't be one and an unknown one are the same 404. */
export async function withRecord<R extends Enforced>(
  c: AppContext,
  kind: RecordKind<R>,
  then: (record: R) => Response | Promise<Response>,
): Promise<Response> {
  const id = c.req.param("id") ?? "";
  return stored(c, async () => {
    const record = kind.idPattern.test(id) ? await kind.get(c.env.DB, id) : null;
    return record ? await then(record) : fail(c, { kind: "not_found", what: `There is no such ${kind.noun}.` });
  });
}

/**
 * Answers with one page of a list. `spec`: what it can be asked for beside `limit`. `read` takes the rows, one more than the
 * page has.
 */
export async function listed<S extends Spec, T>(
  c: AppContext,
  spec: S,
  read: (asked: Values<S>, rows: number) => Promise<readonly T[]>,
  idOf: (row: T) => string,
  show: (row: T) => object,
): Promise<Response> {
  const query = readPageQuery(c.req.url, spec);
  if (!query.ok) return fail(c, query.error);
  const { limit } = query.value;
  return stored(c, async () => json(c, 200, page(await read(query.value, limit + 1), limit, idOf, show)));
}

/** Has a record's rules enforced by the ledger of that name. */
export function byLedger<R extends Enforced>(ledgerOf: (id: string) => string, rulesOf: (record: R) => Rules) {
  return (c: AppContext, record: R): Promise<Result<void, "unreachable">> =>
    reachLedger(c, ledgerOf(record.id), (ledger) => ledger.putPolicy(rulesOf(record)));
}

/** What a write does to a record of a kind, for the change log; null: there was none before, or is none after it. */
export function changeOf<R extends { readonly id: string }>(
  c: AppContext,
  { actor }: Admin,
  { kind, told }: { readonly kind: Kind; readonly told: (record: R) => object },
  action: string,
  before: R | null,
  after: R | null,
): Change {
  const { requestId, startedAt } = c.var.call;
  return {
    author: { actor, requestId },
    at: startedAt,
    action: `${kind}.${action}`,
    target: (after ?? before)?.id ?? "",
    before: before && told(before),
    after: after && told(after),
  };
}

type Changes<R> = {
  readonly changes: Partial<R>;
  /** What the change log calls it. Default: `change`. */
  readonly action?: string;
  /** A new secret, to be answered this once. */
  readonly key?: string;
};

/**
 * Stores a changed record, then has it enforced. With a new `key` that could not be put in force the change is taken
 * back: nobody has seen that key, and a repeated call must not push out the secret in use. (Left open: an isolate that
 * dies between the two steps; then the repeated call ends the older secret's grace.)
 */
export async function change<R extends Enforced>(
  c: AppContext,
  admin: Admin,
  kind: RecordKind<R>,
  record: R,
  { action = "change", changes, key }: Changes<R>,
): Promise<Response> {
  const { noun, enforcer } = kind;
  const next: R = { ...record, ...changes, version: record.version + 1, updated_at: c.var.call.startedAt };
  return stored(
    c,
    async () => {
      if (!(await kind.update(c.env.DB, next, changeOf(c, admin, kind, action, record, next)))) {
        const message = `The ${noun} was changed by somebody else in the meantime. Read it and try again.`;
        return fail(c, { kind: "conflict", message });
      }
      if ((await kind.enforce(c, next)).ok) {
        return json(c, 200, { ...(await kind.shown(next, c)), ...(key === undefined ? {} : { key }) });
      }
      if (key !== undefined) {
        const again = { ...record, version: next.version + 1 };
        if (await kind.update(c.env.DB, again, changeOf(c, admin, kind, `${action}_undo`, next, again))) {
          const what = "The rotation is taken back, for it could not be enforced. Repeat the call:";
          return fail(c, unavailable(`${what} ${enforcer}`));
        }
      }
      return fail(c, unavailable(`The change is stored but not yet enforced. Repeat the call: ${enforcer}`));
    },
    "The change may be stored but is not yet enforced. Repeat the call: the database",
  );
}

/** What an admin is told whose own key does not hold what it would give. */
export function grantExceeded(problems: readonly string[]): Failure {
  return { kind: "grant_exceeded", message: `Your own key can't grant this. ${problems.join("; ")}.` };
}

type LimitChanges = { readonly [K in keyof KeyLimits]?: number | null | undefined };

/** Limits with changes to some of them; null takes one away. A burst that has lost its limit, or never had it, fails. */
export function mergeLimits(limits: KeyLimits, changes: LimitChanges): Result<KeyLimits, Failure> {
  const merged: KeyLimits = Object.fromEntries(
    Object.entries({ ...limits, ...changes }).filter(([, value]) => typeof value === "number"),
  );
  const alone = BURSTS.filter(([burst, perMinute]) => merged[burst] !== undefined && merged[perMinute] === undefined);
  if (alone.length === 0) return ok(merged);
  const problems = alone.map(([burst, perMinute]) => `limits.${burst}: needs limits.${perMinute} beside it`);
  return err({ kind: "invalid_request", message: problems.join("; ") });
}

/** The fields that are there, without the undefined ones that an optional field may leave. */
export function defined<T extends object>(fields: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as never;
}

export const rfc3339 = (at: number | null): string | null => (at === null ? null : new Date(at).toISOString());

/** A budget as it is answered: in dollars, as people write it, and in the integer that is counted. */
export function shownBudget(budget: Budget | null) {
  return budget && { usd: budget.micro_usd / 1_000_000, ...budget };
}
