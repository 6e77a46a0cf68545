import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { ContextPolicy } from "../../../clients/typescript/protocol.ts";
import { promptBlocks, sumTokens } from "../../../simulator/tokens.ts";
import { assemble } from "../../../src/conversations/context/assemble.ts";
import { withOptions } from "../../../src/conversations/context/options.ts";
import { MAX_ASSEMBLED_BYTES, maxInputTokens, planContext } from "../../../src/conversations/context/window.ts";
import type { Spec } from "../../../src/conversations/protocol.ts";
import type { Path, StoredCut, StoredMessage } from "../../../src/conversations/tree.ts";
import { describeFailure } from "../../../src/wire/errors.ts";
import { messageOf, specOf } from "./histories.ts";

const policy = (more: Partial<ContextPolicy>): ContextPolicy => ({
  strategy: "truncate",
  max_input_tokens: 1_000,
  keep_turns: 1,
  summary_model: null,
  ...more,
});

/** What the simulated Claude would count. */
function measure(spec: Spec, path: Path): { readonly bytes: number; readonly tokens: number } {
  const assembled = assemble(spec, {}, path, { stream: true });
  if (!assembled.ok) throw new Error(JSON.stringify(assembled.error));
  const { body } = assembled.value;
  return { bytes: body.length, tokens: sumTokens(promptBlocks(JSON.parse(new TextDecoder().decode(body)))) };
}

type Told = { readonly words: number; readonly calls: number; readonly answer: number };
const told: fc.Arbitrary<Told> = fc.record({
  words: fc.oneof(fc.nat(300), fc.nat(3_000)),
  calls: fc.constantFrom(0, 0, 0, 1, 3),
  answer: fc.nat(1_000),
});

/** Runs of turns as a conversation has them, each call planned and counted as the object would. */
function talk(spec: Spec, all: readonly Told[]) {
  let path: Path = { messages: [], cut: null };
  let now = 0;
  const outcomes: { readonly tokens: number; readonly cuts: number; readonly measured: number; readonly path: Path }[] =
    [];
  const refused: { readonly path: Path; readonly message: string }[] = [];
  const ask = (message: StoredMessage): boolean => {
    const before = path;
    path = { ...path, messages: [...path.messages, message] };
    let measured: number | null = null;
    let cuts = 0;
    let asked = 0;
    for (;;) {
      const { bytes, tokens } = measure(spec, path);
      const plan = planContext(spec, path, bytes, measured);
      if (plan.kind === "fits") {
        outcomes.push({ tokens, cuts, measured: asked, path });
        return true;
      }
      if (plan.kind === "refuse") {
        refused.push({ path, message: describeFailure(plan.failure).message });
        path = before;
        return false;
      }
      if (plan.kind === "measure") {
        expect(measured).toBeNull();
        measured = tokens;
        asked++;
        continue;
      }
      expect(plan.tokensBefore).toBe(tokens);
      measured = null;
      cuts++;
      const { through } = plan;
      const cut = { strategy: "truncate", reason: "max_input_tokens", messages: plan.messages, through } as const;
      const stored: StoredCut = {
        id: `cut_${now}`,
        through,
        turn: message.turn,
        summary: spec.context.strategy === "summarize" ? "In short: words." : null,
        cut: { ...cut, tokens_before: tokens, tokens_after: 0, summary: null },
        createdAt: now,
      };
      path = { ...path, cut: stored };
    }
  };
  const answered = (content: StoredMessage["content"]): void => {
    const tokensThrough = (outcomes.at(-1)?.tokens ?? 0) + Math.ceil(JSON.stringify(content).length / 4);
    const turn = path.messages.at(-1)?.turn ?? "";
    const message = messageOf({ id: `answer_${now}`, role: "assistant", content, turn, createdAt: now, tokensThrough });
    path = { ...path, messages: [...path.messages, { ...message, model: spec.model }] };
  };
  const user = (content: StoredMessage["content"]): StoredMessage => {
    now++;
    return messageOf({ id: `msg_${now}`, content, turn: `turn_${now}`, createdAt: now });
  };
  for (const { words, calls, answer } of all) {
    if (!ask(user("word ".repeat(words / 5 + 1)))) continue;
    if (calls === 0) {
      answered("said ".repeat(answer / 5 + 1));
      continue;
    }
    const uses = Array.from({ length: calls }, (_, i) => ({
      type: "tool_use",
      id: `toolu_${now}_${i}`,
      name: "look",
      input: {},
    }));
    answered(uses);
    if (ask(user(uses.map(({ id }) => ({ type: "tool_result", tool_use_id: id, content: "r".repeat(answer) }))))) {
      answered("So.");
    } else path = { ...path, messages: path.messages.slice(0, -2) };
  }
  return { outcomes, refused };
}

describe("planContext", () => {
  it("keeps every call within its limit, cuts no pair apart and keeps the newest turns, or refuses", () => {
    fc.assert(
      fc.property(
        fc.array(told, { minLength: 1, maxLength: 20 }),
        fc.integer({ min: 1, max: 4 }),
        fc.constantFrom<ContextPolicy["strategy"]>("truncate", "summarize"),
        (all, keepTurns, strategy) => {
          const spec = specOf({ context: policy({ strategy, keep_turns: keepTurns, max_input_tokens: 1_000 }) });
          const { outcomes, refused } = talk(spec, all);
          for (const { tokens, cuts, path } of outcomes) {
            expect(tokens).toBeLessThanOrEqual(1_000);
            expect(cuts).toBeLessThanOrEqual(3);
            const { messages, cut } = path;
            if (cut === null) continue;
            const at = messages.findIndex(({ id }) => id === cut.through) + 1;
            const first = messages[at];
            expect(first?.role).toBe("user");
            expect(typeof first?.content).toBe("string");
            if (cuts > 0) {
              const turns = new Set(messages.map(({ turn }) => turn));
              const left = new Set(messages.slice(at).map(({ turn }) => turn));
              expect(left.size).toBeGreaterThanOrEqual(Math.min(keepTurns, turns.size));
            }
          }
          for (const { message } of refused) expect(message).toMatch(/^The newest .* context takes 1000 /);
        },
      ),
      { numRuns: 150 },
    );
  });

  it("asks upstream only when it gets close, and cuts so far back that many turns go by before the next cut", () => {
    const spec = specOf({ context: policy({ max_input_tokens: 20_000 }) });
    const even = Array.from({ length: 200 }, () => ({ words: 500, calls: 0, answer: 500 }));
    const { outcomes, refused } = talk(spec, even);
    expect(refused).toEqual([]);
    const cuts = outcomes.flatMap(({ cuts: made }, i) => (made > 0 ? [i] : []));
    expect(outcomes.every(({ tokens }) => tokens <= 20_000)).toBe(true);
    for (const [i, at] of cuts.entries()) {
      expect(outcomes[at]?.tokens).toBeLessThanOrEqual(12_200);
      expect(outcomes[at]?.tokens).toBeGreaterThan(10_000);
      if (i > 0) expect(at - (cuts[i - 1] ?? 0)).toBeGreaterThan(20);
    }
    expect(cuts.length).toBeGreaterThan(1);
    const measured = outcomes.reduce((sum, outcome) => sum + outcome.measured, 0);
    expect(measured).toBeLessThan(outcomes.length / 4);
  });

  it("counts a message that was answered anew once", () => {
    const spec = specOf({ context: policy({ keep_turns: 2, max_input_tokens: 10 }) });
    const messages = ["one", "two", "three"].flatMap((content) => [
      messageOf({ id: content, content, turn: `asked ${content}` }),
      messageOf({ id: `${content} answered`, role: "assistant", content: "yes", turn: `anew ${content}` }),
    ]);
    const plan = planContext(spec, { messages: messages.slice(0, 5), cut: null }, 500, 50);
    expect(plan).toMatchObject({ kind: "cut", through: "one answered", messages: 2, tokensBefore: 50 });
  });

  it("takes a large limit from the model where the conversation names none", () => {
    const limit = (more: Partial<Spec>) => maxInputTokens(specOf(more));
    const free = policy({ max_input_tokens: null });
    expect(limit({ model: "claude-opus-5-5", maxTokens: 100_000, context: free })).toBe(900_000);
    expect(limit({ model: "claude-haiku-4-5-20251001", maxTokens: 50_000, context: free })).toBe(150_000);
    expect(limit({ model: "claude-haiku-4-5", context: policy({ max_input_tokens: 500_000 }) })).toBe(200_000);
    expect(limit({ model: "claude-of-tomorrow", maxTokens: 1, context: free })).toBe(999_999);
    const asked = withOptions(specOf({ context: free }), { model: "claude-haiku-4-5", max_tokens: 1_000 });
    expect(maxInputTokens(asked)).toBe(199_000);
  });

  it("goes by no count of another model, nor by one from before the system prompt grew", () => {
    const spec = specOf({ model: "claude-opus-5-5", context: policy({ max_input_tokens: 5_000 }) });
    const messages = [
      messageOf({ id: "asked", content: "x".repeat(4_000) }),
      messageOf({ id: "said", role: "assistant", content: "y", model: "claude-opus-5-5", tokensThrough: 1_000 }),
      messageOf({ id: "now", content: "z".repeat(2_000) }),
    ];
    const plan = (more: Partial<Spec>) => planContext({ ...spec, ...more }, { messages, cut: null }, 7_000, null).kind;
    expect(plan({})).toBe("fits");
    expect(plan({ model: "claude-haiku-4-5" })).toBe("measure");
    expect(plan({ system: "s".repeat(2_000) })).toBe("measure");
    expect(plan(withOptions(spec, { tools: [{ name: "t", description: "d".repeat(2_000) }] }))).toBe("measure");
  });

  it("has media counted whose size their bytes don't tell", () => {
    const spec = specOf({ context: policy({ max_input_tokens: 100_000 }) });
    const plan = (content: StoredMessage["content"]) =>
      planContext(spec, { messages: [messageOf({ content })], cut: null }, 500, null).kind;
    const source = (type: string) => ({ type, data: "AAAA", media_type: "image/png" });
    expect(plan("hi")).toBe("fits");
    expect(plan([{ type: "image", source: source("base64") }])).toBe("fits");
    expect(plan([{ type: "document", source: source("text") }])).toBe("fits");
    expect(plan([{ type: "image", source: source("url") }])).toBe("measure");
    expect(plan([{ type: "document", source: source("base64") }])).toBe("measure");
    expect(
      plan([{ type: "tool_result", tool_use_id: "a", content: [{ type: "image", source: source("file") }] }]),
    ).toBe("measure");
  });

  it("leaves everything to upstream where nothing is to be cut, up to what can be sent at all", () => {
    const none = specOf({ context: policy({ strategy: "none", max_input_tokens: 10 }) });
    const messages = Array.from({ length: 6 }, (_, i) =>
      messageOf({
        id: `m${i}`,
        role: i % 2 === 0 ? "user" : "assistant",
        turn: `t${i >> 1}`,
        content: "x".repeat(5_000_000),
      }),
    ).slice(0, 5);
    const path: Path = { messages, cut: null };
    expect(planContext(none, path, 1_000_000, 1_000_000)).toEqual({ kind: "fits" });
    expect(planContext(none, path, MAX_ASSEMBLED_BYTES + 1, null)).toMatchObject({
      kind: "refuse",
      failure: { kind: "request_too_large" },
    });
    const truncate = specOf({ context: policy({ max_input_tokens: null }) });
    expect(planContext(truncate, path, 25_000_100, null)).toMatchObject({ kind: "cut", through: "m3", messages: 4 });
    expect(
      planContext(truncate, { messages: messages.slice(0, 1), cut: null }, MAX_ASSEMBLED_BYTES + 1, null),
    ).toMatchObject({ kind: "refuse" });
  });
});
