/**
 * Guardrails on the path of a call: which hold for it, and its answer on the way out. All that looks into texts is loaded
 * by the first call whose policy asks for it; where neither key nor workspace has guardrails, nothing is, and nothing waits.
 *
 * What upstream said is what is kept for others (idempotency keys, the response cache), in the form with placeholders.
 * Values are put back from the table of the very call that is answered: two callers whose masked bodies are the same share
 * an answer, and each sees its own values in it.
 */
import type { Counts } from "../guardrails/detector.ts";
import type { Acts, Guardrails } from "../guardrails/policy.ts";
import type { Rails, Rewriter } from "../guardrails/rails.ts";
import type { PlaceholderTable, TableData } from "../guardrails/table.ts";
import type { KeyPolicy, Rules } from "../identity/key-record.ts";
import type { Access } from "../ledger/lease-book.ts";
import { LEASE_MS } from "../ledger/protocol.ts";
import { Recent } from "../recent.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { BINDING_BETA } from "../wire/openai/thinking.ts";
import { within } from "../within.ts";
import { type Caller, LEDGER_AWAY } from "./authenticate.ts";
import { isEventStream } from "./forward.ts";
import { clock, leaseBook } from "./leases.ts";
import type { CallRecord, Seen } from "./settle.ts";

/** Policies that are kept ready, and workspaces that something is known of. */
const MAX_READY = 500;
/** The cells of all ready policies' tables: 8 MB. */
const MAX_READY_CELLS = 4 * 1024 * 1024;

let loaded: typeof import("../guardrails/all.ts") | null = null;
/** Kept, since even a module that is there is looked up anew by each `import()`. */
const guardrails = async () => {
  loaded ??= await import("../guardrails/all.ts");
  return loaded;
};

/** By what key and workspace ask for: keys that ask for the same share it. */
const ready = new Recent<Rails | null>(MAX_READY, MAX_READY_CELLS);

/** Where a table outlives its call. */
export type Shelf = {
  read(): TableData | undefined;
  write(data: TableData): void;
};

/** What is to be guarded. */
export type Asked = {
  readonly bytes: Uint8Array;
  readonly kind?: "messages" | "batch";
  /** Of its `anthropic-beta`. */
  readonly betas: string | null;
  /** Left out: the table is this call's alone. */
  readonly shelf?: Shelf | undefined;
};

/** A request that may go out. */
export type GuardedCall = {
  readonly bytes: Uint8Array;
  /** Guards the answer; null: it may come back as it is. */
  readonly answer: GuardAnswer | null;
};
export type GuardAnswer = (response: Response) => Promise<Result<Response, Failure>>;

/**
 * The guardrails of a key and its workspace; null: there are none. A workspace that nobody has heard of for a lease's time is
 * asked for its own before anything goes out, as it is before it lends anything.
 */
export async function railsFor(policy: KeyPolicy, access: Access): Promise<Result<Rails | null, Failure>> {
  const rules = await workspaceRules(policy.workspace, access);
  if (rules === "unreachable") return err(LEDGER_AWAY);
  const shared = rules?.guardrails ?? null;
  if (policy.guardrails === null && shared === null) return ok(null);
  const name = JSON.stringify([policy.guardrails, shared]);
  const known = ready.get(name);
  if (known !== undefined) return ok(known);
  const made = await make(policy.guardrails, shared);
  ready.set(name, made, made?.cells);
  return ok(made);
}

/** Whether it is known without asking anybody that a key has none, as of most calls. */
function hasNone({ guardrails, workspace: id }: KeyPolicy): boolean {
  if (guardrails !== null) return false;
  const { policy, policyUntil } = leaseBook.workspace(id);
  return policy !== undefined && !policy.guardrails && leaseBook.now < policyUntil;
}

/** What a workspace asks for is never guessed: where its ledger is away, D1 is asked. */
async function workspaceRules(id: string, access: Access): Promise<Rules | null | "unreachable"> {
  const rules = await leaseBook.rulesOf(id, access);
  return rules === "unreachable" ? storedRules(id, access) : rules;
}

/** What D1 has said of workspaces whose ledgers are away. */
const stored = new Recent<{ readonly rules: Rules | null | "unreachable" | "asked"; readonly until: number }>(
  MAX_READY,
);
/** How often somebody looks whether another request's question has been answered. */
const LOOK_MS = 10;

/**
 * Nobody has been admitted yet who asks this, so that D1 is asked by one request at a time and once in a lease's time,
 * whatever it says, and no longer than a ledger would be. Another request's promise is never waited for.
 */
async function storedRules(id: string, access: Access): Promise<Rules | null | "unreachable"> {
  const began = leaseBook.now;
  for (let known = stored.get(id); known && leaseBook.now < known.until; known = stored.get(id)) {
    if (known.rules !== "asked") return known.rules;
    if (leaseBook.now - began >= access.deadlineMs) return "unreachable";
    await clock.wait(LOOK_MS);
  }
  // A request that is cancelled meanwhile does not keep the others out for long.
  stored.set(id, { rules: "asked", until: leaseBook.now + 2 * access.deadlineMs });
  const rules = await within(access.deadlineMs, access.storedRules(id)).catch(() => "unreachable" as const);
  stored.set(id, { rules, until: leaseBook.now + LEASE_MS });
  return rules;
}

async function make(own: Guardrails | null, shared: Guardrails | null): Promise<Rails | null> {
  const { stricter, Rails } = await guardrails();
  const policy = stricter(own, shared);
  return policy && new Rails(policy);
}

/**
 * The betas of a call: those of its client's header, and those that the gateway asks for because of what the client wants,
 * such as a long context in OpenAI's dialect. What the gateway needs for its own handling of thoughts is nobody's wish.
 */
export function betasAsked(ofClient: string | undefined, added: string | undefined): string | null {
  const wanted = added?.split(",").filter((beta) => beta !== BINDING_BETA);
  return [ofClient ?? [], wanted ?? []].flat().join(",") || null;
}

/**
 * What of a caller's request may go out, and what its answer goes through. What is found in the two is noted for the audit,
 * whatever becomes of them.
 */
export async function guardCall(
  { policy, access }: Caller,
  { bytes, kind = "messages", betas, shelf }: Asked,
  record: CallRecord,
): Promise<Result<GuardedCall, Failure>> {
  if (hasNone(policy)) return ok({ bytes, answer: null });
  const found = await railsFor(policy, access);
  if (!found.ok) return found;
  const rails = found.value;
  if (rails === null) return ok({ bytes, answer: null });
  const { PlaceholderTable, findingsText } = await guardrails();
  const kept = shelf?.read();
  const table = kept ? PlaceholderTable.from(kept) : new PlaceholderTable();
  const guarded = rails.request({ bytes, kind, betas }, table);
  record.facts.findings = findingsText(guarded.counts);
  if (guarded.refused) return err(guarded.refused);
  if (table.size > 0) shelf?.write(table.data);
  if (kind === "batch" || !rails.looksAtAnswers(table)) return ok({ bytes: guarded.bytes, answer: null });
  record.facts.watchFor = rails.watchFor;
  return ok({ bytes: guarded.bytes, answer: await guardAnswer(rails, table, record) });
}

/**
 * Guards an upstream's answer on its way out. Errors are not looked into: they say nothing of a model's. `acts`: what of
 * its findings means that it is withheld.
 */
async function guardAnswer(
  rails: Rails,
  table: PlaceholderTable,
  record: CallRecord,
  acts: Acts | null = rails.watchFor,
): Promise<GuardAnswer> {
  const { findingsWith } = await guardrails();
  record.watched();
  const saw = (counts: Counts, isCut: boolean, ending: Seen["ending"]): void => {
    const isWithheld = isCut || Object.keys(counts).some((type) => acts?.[type] === "block");
    const findings = findingsWith(record.facts.findings ?? null, counts);
    record.saw({ findings, ending: isWithheld ? ending : null });
  };
  return async (response) => {
    if (!response.ok || response.body === null) {
      record.saw(null);
      return ok(response);
    }
    if (isEventStream(response)) {
      const rewriter = rails.stream(table);
      const over = (): void => saw(rewriter.counts, rewriter.ended, WITHHELD);
      return ok(answerWith(response, rewritten(response.body, rewriter, over)));
    }
    const { bytes, withheld, counts } = rails.message(new Uint8Array(await response.arrayBuffer()), table);
    saw(counts, false, { ...WITHHELD, status: 400, errorType: "invalid_request_error" });
    // No client asks again for what is the caller's own fault: it would be paid for anew.
    return withheld === null ? ok(answerWith(response, bytes)) : err({ kind: "guardrails", message: withheld });
  };
}

/** What becomes of a stream: its status has been told by then. */
const WITHHELD = { outcome: "error", errorType: "api_error", denial: "guardrails" } as const;

/**
 * Notes what is in an answer that an object makes for a call. The answer stays as it is: each of its callers has guardrails
 * of its own.
 */
export async function watchAnswer(record: CallRecord): Promise<GuardAnswer | null> {
  const { watchFor } = record.facts;
  if (!watchFor) return null;
  const { counting, Rails, PlaceholderTable } = await guardrails();
  return guardAnswer(new Rails(counting(watchFor)), new PlaceholderTable(), record, watchFor);
}

/**
 * What a batch's results go through, a message to each line; null: they may come back as they are. Values are not put back:
 * no table outlives the batch's request.
 */
export async function guardResults(
  { policy, access }: Caller,
  record: CallRecord,
): Promise<Result<GuardAnswer | null, Failure>> {
  const found = await railsFor(policy, access);
  if (!found.ok) return found;
  const rails = found.value;
  if (rails === null) return ok(null);
  const { PlaceholderTable, findingsWith } = await guardrails();
  if (!rails.looksAtAnswers(new PlaceholderTable())) return ok(null);
  record.watched();
  return ok(async (response) => {
    if (!response.ok || response.body === null) {
      record.saw(null);
      return ok(response);
    }
    const rewriter = rails.results();
    const over = (): void => record.saw({ findings: findingsWith(null, rewriter.counts), ending: null });
    return ok(answerWith(response, rewritten(response.body, rewriter, over)));
  });
}

/** The same answer with another body, of whatever length. */
function answerWith({ status, headers }: Response, body: BodyInit): Response {
  const answer = new Response(body, { status, headers });
  answer.headers.delete("content-length");
  return answer;
}

/**
 * A stream with its words changed, at its reader's pace; `over` is told when nothing more will be seen of it. What breaks off breaks off, and a reader that leaves cancels the
 * source.
 */
function rewritten(
  source: ReadableStream<Uint8Array>,
  rewriter: Rewriter,
  over: () => void,
): ReadableStream<Uint8Array> {
  const { readable, writable } = new IdentityTransformStream();
  void pump(source, writable.getWriter(), rewriter, over);
  return readable;
}

async function pump(
  source: ReadableStream<Uint8Array>,
  writer: WritableStreamDefaultWriter<Uint8Array>,
  rewriter: Rewriter,
  over: () => void,
): Promise<void> {
  const reader = source.getReader();
  // One that leaves while nothing comes is noticed, too.
  writer.closed.catch((reason: unknown) => reader.cancel(reason).catch(() => {}));
  try {
    for (;;) {
      const { done, value } = await reader.read();
      const said = done ? rewriter.end() : rewriter.push(value);
      if (done || rewriter.ended) over();
      if (said.length > 0) await writer.write(said);
      if (done || rewriter.ended) break;
    }
    await writer.close();
    await reader.cancel();
  } catch (reason) {
    over();
    await Promise.allSettled([writer.abort(reason), reader.cancel(reason)]);
  }
}
