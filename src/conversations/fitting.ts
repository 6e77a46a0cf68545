/** Makes a branch fit into its model's context before it is sent: measures it, cuts it, has what is cut summarized. */
import type { ContextCut, Options } from "../../clients/typescript/protocol.ts";
import { err, ok, type Result } from "../result.ts";
import { asFields } from "../wire/anthropic/usage.ts";
import type { Failure } from "../wire/errors.ts";
import { newId } from "../wire/ids.ts";
import { parseJson } from "../wire/json.ts";
import { type Assembled, assemble } from "./context/assemble.ts";
import { withOptions } from "./context/options.ts";
import { readSummary, SUMMARY_HEADERS, SUMMARY_MODEL, summaryBody } from "./context/summary.ts";
import { type ContextPlan, planContext, reckonedTokens } from "./context/window.ts";
import { CANCELLED_EARLY } from "./failures.ts";
import type { Spec } from "./protocol.ts";
import type { Path, StoredCut } from "./tree.ts";
import type { TurnCalls } from "./turn-calls.ts";

/** A cut reaches far back, so a second one for the same message is rare, and more are a sign that none helps. */
const MAX_CUTS = 8;
/** So long a message waits for a count, which is a matter of a moment or of nothing, ms. */
const COUNT_MS = 5_000;
/** And for a summary, which is a page of text. */
const SUMMARY_MS = 60_000;

/** What is to be sent for a message. */
export type Wanted = {
  readonly spec: Spec;
  readonly options: Options;
  readonly path: Path;
  readonly turn: string;
  readonly now: number;
};
/** The newest summary, of what lies between two messages. Where its message is refused then, it comes again: that is paid for. */
export type Summarized = { readonly before: string | null; readonly through: string; readonly text: string };
export type Shelf = { get(): Summarized | undefined; put(made: Summarized): void };
export type Fitted = { readonly assembled: Assembled; readonly path: Path; readonly cut: StoredCut | null };

/**
 * What is to be sent, or why it can't be. Nothing is stored but a summary. Where the upstream does not count, no message is
 * refused for it: it is cut by what is reckoned, and then it is upstream's to say whether it fits.
 */
export async function fitIn(calls: TurnCalls, wanted: Wanted, shelf: Shelf): Promise<Result<Fitted, Failure>> {
  const spec = withOptions(wanted.spec, wanted.options);
  let { path } = wanted;
  let cut: StoredCut | null = null;
  let countable = true;
  for (let cuts = 0; cuts <= MAX_CUTS; cuts++) {
    const assembled = assemble(wanted.spec, wanted.options, path, { stream: true });
    if (!assembled.ok) return assembled;
    const bytes = assembled.value.body.byteLength;
    let plan = planContext(spec, path, bytes, null);
    // After a cut it is told how much is left, so it is counted in any case.
    if (plan.kind === "measure" || (plan.kind === "fits" && cut)) {
      const counted: number | null = countable ? await count(calls, { ...wanted, path }) : null;
      if (calls.cancelled) return err(CANCELLED_EARLY);
      countable = counted !== null;
      const tokens = counted ?? reckonedTokens(spec, path, bytes);
      plan = planContext(spec, path, bytes, tokens);
      if (plan.kind === "refuse" && !countable) plan = { kind: "fits" };
      if (cut) cut = { ...cut, cut: { ...cut.cut, tokens_after: tokens } };
    }
    if (plan.kind === "refuse") return err(plan.failure);
    if (plan.kind !== "cut") return ok({ assembled: assembled.value, path, cut });
    const next = await makeCut(calls, shelf, { ...wanted, spec, path }, plan, cut);
    if (!next.ok) return next;
    cut = next.value;
    path = { ...path, cut };
  }
  const message = "The conversation does not fit into its model's context, however it is cut.";
  return err({ kind: "invalid_request", message });
}

/** What the upstream counts. Null: it does not. */
async function count(calls: TurnCalls, { spec, options, path }: Wanted): Promise<number | null> {
  const assembled = assemble(spec, options, path, { stream: false, counting: true });
  if (!assembled.ok) return null;
  const answer = await calls.ask("count", assembled.value, COUNT_MS);
  const tokens = answer.ok ? asFields(parseJson(answer.value))?.input_tokens : null;
  return typeof tokens === "number" ? tokens : null;
}

/** `before`: one that was made for the same message, and did not reach far enough. */
async function makeCut(
  calls: TurnCalls,
  shelf: Shelf,
  { spec, path, turn, now }: Wanted,
  { through, messages, tokensBefore }: Extract<ContextPlan, { kind: "cut" }>,
  before: StoredCut | null,
): Promise<Result<StoredCut, Failure>> {
  const wantsSummary = spec.context.strategy === "summarize";
  const summary = wantsSummary ? await summarize(calls, shelf, spec, path, through) : ok(null);
  if (!summary.ok) return summary;
  const id = newId("msg", now);
  const cut: ContextCut = {
    strategy: summary.value === null ? "truncate" : "summarize",
    reason: wantsSummary && summary.value === null ? "summary_failed" : "max_input_tokens",
    messages: messages + (before?.cut.messages ?? 0),
    through,
    tokens_before: before?.cut.tokens_before ?? tokensBefore,
    tokens_after: 0,
    summary: summary.value === null ? null : id,
  };
  return ok({ id, through, turn, summary: summary.value, cut, createdAt: now });
}

/** Null: there is none to be had. A failure: nobody wants it any more. */
async function summarize(
  calls: TurnCalls,
  shelf: Shelf,
  spec: Spec,
  path: Path,
  through: string,
): Promise<Result<string | null, Failure>> {
  const before = path.cut?.through ?? null;
  const made = shelf.get();
  if (made?.through === through && made.before === before) return ok(made.text);
  const chosen = spec.context.summary_model;
  for (const model of chosen === null ? [SUMMARY_MODEL, spec.model] : [chosen]) {
    const call = { body: summaryBody(path, through, model), headers: SUMMARY_HEADERS };
    const answer = await calls.ask("summary", call, SUMMARY_MS);
    if (calls.cancelled) return err(CANCELLED_EARLY);
    if (answer.ok) {
      const text = readSummary(answer.value);
      if (text !== null) shelf.put({ before, through, text });
      return ok(text);
    }
    if (!lacksModel(answer.error)) return ok(null);
  }
  return ok(null);
}

/** A key may have no right to the cheaper model, or no upstream that has it. */
function lacksModel(failure: Failure): boolean {
  if (failure.kind === "upstream_error_event") return failure.type === "not_found_error";
  return failure.kind === "model_not_allowed" || failure.kind === "no_upstream";
}
