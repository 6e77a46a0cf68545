/** `/v1/messages/batches` and what is below it. A key sees what its workspace made, and nothing else. */
import { readJsonBytes } from "../body.ts";
import type { AppContext } from "../context.ts";
import type { Caller } from "../hotpath/authenticate.ts";
import { guardCall, guardResults } from "../hotpath/guard.ts";
import { leaseBook } from "../hotpath/leases.ts";
import { guess, JUST_A_REQUEST, needOf } from "../hotpath/need.ts";
import { priceTable } from "../hotpath/price-table.ts";
import { type Prepared, queryOf, type RelayRoute, relayed } from "../hotpath/relay.ts";
import type { CallRecord } from "../hotpath/settle.ts";
import { modelRefused, type Rules } from "../identity/key-record.ts";
import { MAX_AMOUNT } from "../ledger/amounts.ts";
import { err, ok, type Result } from "../result.ts";
import { type BatchBody, readBatchBody } from "../wire/anthropic/batch.ts";
import { modelsOf } from "../wire/anthropic/request.ts";
import type { Failure } from "../wire/errors.ts";
import { type Duty, hooksOf, shownAt } from "./duty.ts";
import { preparePage } from "./list.ts";
import { ownedOne, takeOne } from "./one.ts";
import { type Book, ResultsReader } from "./results.ts";
import { ownedUpstream } from "./store.ts";
import { here } from "./where.ts";

const NAME = "/v1/messages/batches";
/** Requests of a batch cost this much less (wire notes §5.4), and so does their worst case. */
const HUNDREDTHS = 100;

const route = (name: string, prepare: NonNullable<RelayRoute["prepare"]>) =>
  relayed({ name, scope: "batches", hasBody: false, billed: false, prepare });

/** `POST /v1/messages/batches`. */
export const createBatch = route(NAME, async (c, caller, record) => {
  const { settings, headers } = c.var.call;
  const { policy } = caller;
  const limit = Math.min(settings.maxRequestBytes, policy.limits.max_request_bytes ?? settings.maxRequestBytes);
  const bytes = await readJsonBytes(c.req.raw, headers, limit);
  if (!bytes.ok) return bytes;
  const betas = headers.get("anthropic-beta") ?? null;
  const guarded = await guardCall(caller, { bytes: bytes.value, kind: "batch", betas }, record);
  if (!guarded.ok) return guarded;
  const read = readBatchBody(guarded.value.bytes);
  if (!read.ok) return read;
  const looked = lookThrough(c, caller, record, read.value);
  if (!looked.ok) return looked;
  const holder = await ownedUpstream(c.env.DB, policy.workspace, read.value.fileIds);
  if (!holder.ok) return holder;
  const { worstMicroUsd, bound } = looked.value;
  const duty: Duty = { kind: "batches", row: null, origin: originOf(c) };
  return ok({
    path: NAME + queryOf(c.req.url),
    body: guarded.value.bytes,
    unique: true,
    wanted: { pinned: holder.value, bound, model: record.facts.modelRequested },
    needFor: (rules) => ({ ...JUST_A_REQUEST, microUsd: rules?.budget?.mode === "strict" ? worstMicroUsd : 1 }),
    duty,
    ...hooksOf(duty, here(c, record)),
  });
});

/** `GET /v1/messages/batches`. */
export const listBatches = route(NAME, (c, caller, record) => {
  const show = shownAt("batches", originOf(c));
  return preparePage(
    c,
    { kind: "batches", path: (id) => `${NAME}/${id}`, show: (text, id) => show(text, id) ?? text },
    caller,
    record,
  );
});

/** `GET` and `DELETE /v1/messages/batches/:id`. */
export const oneBatch = route(`${NAME}/:id`, (c, caller, record) => prepareOne(c, caller, record, ""));

/** `POST /v1/messages/batches/:id/cancel`. */
export const cancelBatch = route(`${NAME}/:id/cancel`, (c, caller, record) => prepareOne(c, caller, record, "/cancel"));

/** `GET /v1/messages/batches/:id/results`: JSON lines, booked while they pass. */
export const readResults = route(`${NAME}/:id/results`, async (c, caller, record) => {
  const row = await ownedOne(c, "batches", caller);
  if (!row.ok) return row;
  const { seq, id, upstream } = row.value;
  const guard = await guardResults(caller, record);
  if (!guard.ok) return guard;
  const books = c.env.BATCH_BOOK;
  const book = (): Book => books.getByName(`${upstream}:${id}`);
  return ok({
    path: `${NAME}/${id}/results${queryOf(c.req.url)}`,
    wanted: { pinned: upstream },
    take: takeOne(here(c, record), "batches", { seq, id, itself: false }, () => null),
    flow: new ResultsReader(row.value, await priceTable.upToDate(c.env.DB), book),
    guard: guard.value,
  });
});

async function prepareOne(
  c: AppContext,
  caller: Caller,
  record: CallRecord,
  action: string,
): Promise<Result<Prepared, Failure>> {
  const row = await ownedOne(c, "batches", caller);
  if (!row.ok) return row;
  const { seq, id, upstream } = row.value;
  const duty: Duty = { kind: "batches", row: { seq, id, itself: action === "" }, origin: originOf(c) };
  return ok({
    path: `${NAME}/${id}${action}${queryOf(c.req.url)}`,
    wanted: { pinned: upstream },
    duty,
    ...hooksOf(duty, here(c, record)),
  });
}

function originOf(c: AppContext): string {
  return new URL(c.req.url).origin;
}

/** Rules of a strict budget, to ask for a worst case by. */
const STRICT: Rules = { id: "", version: 0, limits: {}, budget: { micro_usd: 1, period: "total", mode: "strict" } };

/** Checks each request's model; sums up what all of them may cost at the worst. */
function lookThrough(
  c: AppContext,
  { policy, access }: Caller,
  record: CallRecord,
  body: BatchBody,
): Result<{ readonly worstMicroUsd: number; readonly bound: boolean }, Failure> {
  const { startedAt } = c.var.call;
  const { usual } = leaseBook.key(policy.id);
  const prices = priceTable.current();
  const refresh = priceTable.refreshIfDue(c.env.DB);
  if (refresh) access.background(refresh);
  const models = new Set<string>();
  let microUsd = 0;
  let bound = false;
  for (const facts of body.requests()) {
    if (!facts.ok) return facts;
    const { model } = facts.value;
    const refused = modelRefused(policy, modelsOf(facts.value));
    if (refused) return err(refused);
    models.add(model);
    bound ||= facts.value.bound;
    const guessed = guess(facts.value, usual, prices, startedAt);
    microUsd += needOf(STRICT, facts.value, guessed, usual, prices, startedAt).microUsd;
  }
  const [first = null] = models;
  record.facts.modelRequested = models.size === 1 ? first : null;
  const worstMicroUsd = Math.max(1, Math.ceil((microUsd * prices.batchHundredths) / HUNDREDTHS));
  return ok({ worstMicroUsd: Math.min(worstMicroUsd, MAX_AMOUNT), bound });
}
