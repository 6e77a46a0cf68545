import { afterEach, describe, expect, it, vi } from "vitest";
import { fitIn, type Summarized } from "../../src/conversations/fitting.ts";
import type { Spec } from "../../src/conversations/protocol.ts";
import type { Path } from "../../src/conversations/tree.ts";
import { type Admit, TurnCalls } from "../../src/conversations/turn-calls.ts";
import type { Admitted, InnerCall } from "../../src/hotpath/inner-call.ts";
import { err, ok } from "../../src/result.ts";
import type { Failure } from "../../src/wire/errors.ts";
import { messageOf, specOf } from "./context/histories.ts";

const LIMIT = 1_000;
const spec = (strategy: Spec["context"]["strategy"], keepTurns = 1): Spec =>
  specOf({ context: { strategy, max_input_tokens: LIMIT, keep_turns: keepTurns, summary_model: null } });

/** Turns of so many bytes each, and a message that is to be answered. */
function pathOf(turns: number, bytes: number): Path {
  const messages = Array.from({ length: turns }, (_, i) => [
    messageOf({ id: `asked ${i}`, content: "x".repeat(bytes / 2), turn: `turn ${i}` }),
    messageOf({ id: `answered ${i}`, role: "assistant", content: "y".repeat(bytes / 2), turn: `turn ${i}` }),
  ]).flat();
  return { messages: [...messages, messageOf({ id: "now", content: "and now", turn: "now" })], cut: null };
}

type Upstream = (call: InnerCall) => Response | "hang" | Failure;

/** What became of a message with an upstream like that, and what it was asked. */
function tried(upstream: Upstream, path: Path, of: Spec, kept: { summary?: Summarized } = {}) {
  const asked: string[] = [];
  const admit: Admit = async (call) => {
    asked.push(`${call.route.split("/").at(-1)} ${JSON.parse(new TextDecoder().decode(call.body)).model}`);
    const answer = upstream(call);
    if (answer !== "hang" && !(answer instanceof Response)) return err(answer);
    const admitted: Admitted = {
      requestId: "req_1",
      release: () => {},
      ended: new Promise<never>(() => {}),
      send: (signal) =>
        answer === "hang"
          ? new Promise((done) => signal.addEventListener("abort", () => done(err("aborted"))))
          : Promise.resolve(ok(answer)),
    };
    return ok(admitted);
  };
  const caller = { conversation: "conv_1", turn: "now", fresh: true, signal: new AbortController().signal };
  const sender = { keyId: "key", secretSha256: "", workspace: "w", requestId: "r", traceId: "t", client: null };
  const shelf = {
    get: () => kept.summary,
    put: (summary: Summarized) => {
      kept.summary = summary;
    },
  };
  const wanted = { spec: of, options: {}, path, turn: "now", now: 0 };
  return { asked, kept, fitted: fitIn(new TurnCalls(admit, { ...caller, sender }), wanted, shelf) };
}

const json = (body: unknown, status = 200) => new Response(JSON.stringify(body), { status });
const refused = (status: number, type: string) => json({ type: "error", error: { type, message: "no" } }, status);
const count = (tokens: number) => json({ input_tokens: tokens });
const summary = (text: string) => json({ content: [{ type: "text", text }], stop_reason: "end_turn" });

describe("an upstream that does not count", () => {
  afterEach(() => {
    vi.useRealTimers();
  });

  it.each<[string, Upstream]>([
    ["has no such route", () => refused(404, "not_found_error")],
    ["is overloaded", () => refused(529, "overloaded_error")],
    ["says something else", () => json({})],
    ["is away", () => ({ kind: "upstream_unreachable" })],
    ["never answers", () => "hang"],
  ])("%s: no message is lost, and what is reckoned to be too much is cut", async (_name, upstream) => {
    vi.useFakeTimers();
    const long = tried(upstream, pathOf(8, 600), spec("truncate"));
    await vi.advanceTimersByTimeAsync(5_000);
    const cut = await long.fitted;
    expect(cut).toMatchObject({ ok: true, value: { cut: { cut: { strategy: "truncate" } } } });
    expect(cut.ok && cut.value.cut?.cut.tokens_after).toBeLessThanOrEqual(0.6 * LIMIT);
    // It is asked once for a message, not once for each cut.
    expect(long.asked).toHaveLength(1);
    // What can't be cut may fit all the same: that is for upstream to say.
    const kept = tried(upstream, pathOf(2, 6_000), spec("truncate", 9));
    await vi.advanceTimersByTimeAsync(5_000);
    expect(await kept.fitted).toMatchObject({ ok: true, value: { cut: null } });
  });
});

describe("a summary", () => {
  const counts = (call: InnerCall) => (call.path.endsWith("count_tokens") ? count(call.body.length / 4) : null);

  it.each<[string, Upstream, readonly string[], string | null]>([
    [
      "the key may not use the cheaper model",
      ({ body }) =>
        new TextDecoder().decode(body).includes("haiku")
          ? { kind: "model_not_allowed", model: "claude-haiku-5-5" }
          : summary("S"),
      ["summary claude-haiku-5-5", "summary claude-opus-5-5"],
      "S",
    ],
    [
      "the upstream does not know it",
      ({ body }) => (new TextDecoder().decode(body).includes("haiku") ? refused(404, "not_found_error") : summary("S")),
      ["summary claude-haiku-5-5", "summary claude-opus-5-5"],
      "S",
    ],
    ["the cheaper model is overloaded", () => refused(529, "overloaded_error"), ["summary claude-haiku-5-5"], null],
  ])("%s", async (_name, upstream, models, text) => {
    const { asked, fitted } = tried((call) => counts(call) ?? upstream(call), pathOf(20, 600), spec("summarize"));
    const done = await fitted;
    expect(done.ok && done.value.cut).toMatchObject({
      summary: text,
      cut: text === null ? { reason: "summary_failed" } : { strategy: "summarize" },
    });
    expect(asked.filter((one) => one.startsWith("summary"))).toEqual(models);
  });

  it("is not made again for a message that was refused after it", async () => {
    const kept = {};
    const upstream: Upstream = (call) => counts(call) ?? summary("Paid for.");
    await tried(upstream, pathOf(20, 600), spec("summarize"), kept).fitted;
    const again = tried(upstream, pathOf(20, 600), spec("summarize"), kept);
    const done = await again.fitted;
    expect(done.ok && done.value.cut?.summary).toBe("Paid for.");
    expect(again.asked.filter((one) => one.startsWith("summary"))).toEqual([]);
    const other = tried(upstream, pathOf(30, 600), spec("summarize"), kept);
    await other.fitted;
    expect(other.asked.filter((one) => one.startsWith("summary"))).toHaveLength(1);
  });
});
