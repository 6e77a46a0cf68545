import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { ContentBlock } from "../../../clients/typescript/protocol.ts";
import { breakpointsOf } from "../../../simulator/cache.ts";
import { findModel, type Model } from "../../../simulator/models.ts";
import { verifySignatures } from "../../../simulator/signature.ts";
import { promptBlocks } from "../../../simulator/tokens.ts";
import { type Version, validatePrompt, validateSampling } from "../../../simulator/validate.ts";
import { assemble } from "../../../src/conversations/context/assemble.ts";
import { summaryBody } from "../../../src/conversations/context/summary.ts";
import { planContext } from "../../../src/conversations/context/window.ts";
import type { Spec } from "../../../src/conversations/protocol.ts";
import type { StoredMessage } from "../../../src/conversations/tree.ts";
import { problemsOf } from "../../support/messages-rules.ts";
import { type Call, type Fields, messageOf, play, specOf, steps } from "./histories.ts";

/** What the API, as far as it is known, and its stand-in say against a call. */
function problemsOfCall({ assembled, body, model: id }: Call): unknown[] {
  const version = assembled.headers["anthropic-version"] as Version;
  const model = findModel(id) as Model;
  const goesOn = (body.messages as Fields[]).at(-1)?.role === "assistant";
  // What the client itself asks for, or what a pause is answered with.
  const own = goesOn ? /end with a user|Expected|^thinking\.disabled/ : /^thinking\.disabled/;
  const breakpoints = breakpointsOf(body, promptBlocks(body));
  // Without the switch that has upstream drop what is wrong: all that is sent must be right.
  const { thinking, ...rest } = body;
  const { block_binding: _, ...plain } = (thinking ?? {}) as Fields;
  return [
    ...problemsOf(body, version).filter((problem) => !own.test(problem)),
    validatePrompt(body, version, model),
    goesOn ? undefined : validateSampling(body, version, model),
    Array.isArray(breakpoints) ? undefined : breakpoints,
    verifySignatures({ organization: assembled.thoughtsOf ?? "org-unknown", model: id }, { ...rest, thinking: plain }),
  ].filter((problem) => problem !== undefined);
}

const textOf = ({ assembled }: Call): string => new TextDecoder().decode(assembled.body);

/** The prompt block by block, as a cache sees it, and how many of them stand before each breakpoint. */
function cached(body: Fields): { readonly blocks: string[]; readonly breakpoints: number[] } {
  const blocks: string[] = [];
  const breakpoints: number[] = [];
  for (const { role, value } of promptBlocks(body)) {
    const { cache_control: control, ...block } = value;
    blocks.push(`${role} ${JSON.stringify(block, (name, inner) => (name === "cache_control" ? undefined : inner))}`);
    if (control) breakpoints.push(blocks.length);
  }
  return { blocks, breakpoints };
}

const bodyOf = (spec: Partial<Spec>, messages: readonly StoredMessage[], options: Fields = {}) => {
  const assembled = assemble(specOf(spec), options, { messages, cut: null }, { stream: false });
  if (!assembled.ok) throw new Error(JSON.stringify(assembled.error));
  return { ...assembled.value, body: JSON.parse(new TextDecoder().decode(assembled.value.body)) as Fields };
};
const user = (content: StoredMessage["content"], more: Partial<StoredMessage> = {}) => messageOf({ content, ...more });
const answer = (content: StoredMessage["content"], more: Partial<StoredMessage> = {}) =>
  messageOf({ role: "assistant", content, model: "claude-opus-5-5", ...more });

describe("assemble", () => {
  it("makes a body that the API takes of any history", () => {
    fc.assert(
      fc.property(steps(), (all) => {
        for (const call of play(all)) expect(problemsOfCall(call)).toEqual([]);
      }),
      { numRuns: 300 },
    );
  });

  it("makes the same bytes of the same path, and of a path that goes on the same prefix for every breakpoint", () => {
    fc.assert(
      fc.property(steps(true), (all) => {
        const calls = play(all);
        expect(play(all).map(textOf)).toEqual(calls.map(textOf));
        for (const [i, { body }] of calls.entries()) {
          const next = calls[i + 1];
          const { blocks, breakpoints } = cached(body);
          expect(breakpoints.length).toBeGreaterThan(0);
          expect(breakpoints.length).toBeLessThanOrEqual(4);
          if (!next || next.path.messages.length <= (calls[i]?.path.messages.length ?? 0)) continue;
          expect(next.body.thinking).toEqual(body.thinking);
          const later = cached(next.body).blocks;
          // An answer that was gone on with, and then broken off, loses the call that it had paused at.
          const lasting = blocks.at(-1)?.startsWith("assistant") ? breakpoints.slice(0, -1) : breakpoints;
          for (const at of lasting) expect(later.slice(0, at).join("\n")).toBe(blocks.slice(0, at).join("\n"));
        }
      }),
      { numRuns: 80 },
    );
  });
});

/** Blocks in any order and place, as no conversation has them: what a bug elsewhere, or an older release, may have left. */
const ids = fc.constantFrom("a", "b", "c");
const oddBlock: fc.Arbitrary<ContentBlock> = fc.oneof(
  fc.record({ type: fc.constant("text"), text: fc.constantFrom("", " ", "words", "\udc00") }),
  fc.record({ type: fc.constant("tool_use"), id: ids, name: fc.constant("look"), input: fc.constant({}) }),
  fc.record({
    type: fc.constant("tool_result"),
    tool_use_id: ids,
    content: fc.constantFrom("r", [{ type: "text", text: " " }], []),
  }),
  fc.record({ type: fc.constant("server_tool_use"), id: ids, name: fc.constant("web_search"), input: fc.constant({}) }),
  fc.record({ type: fc.constant("web_search_tool_result"), tool_use_id: ids, content: fc.constant([]) }),
  fc.record({ type: fc.constant("thinking"), thinking: fc.constant("hm"), signature: fc.constantFrom("", "c2ln") }),
  fc.record({ type: fc.constant("redacted_thinking"), data: fc.constant("x") }),
);
const oddMessage: fc.Arbitrary<StoredMessage> = fc
  .record({
    role: fc.constantFrom("user" as const, "assistant" as const),
    content: fc.array(oddBlock, { maxLength: 6 }),
    model: fc.constantFrom("claude-opus-5-5", "claude-opus-5", null),
    organization: fc.constantFrom("org-a", null),
  })
  .map((message) => messageOf({ ...message, content: message.content.filter(({ type }) => isOf(message.role, type)) }));

function isOf(role: string, type: string): boolean {
  return type === "text" || (role === "user") === (type === "tool_result");
}

/** Tools that ran at Anthropic's, and their results, which have not found each other. */
function unpaired(body: Fields): unknown[] {
  const uses = new Set<unknown>();
  const wrong: unknown[] = [];
  for (const { content } of body.messages as { content: ContentBlock[] }[]) {
    const results = new Set(
      content.filter(({ type }) => type === "web_search_tool_result").map((block) => block.tool_use_id),
    );
    for (const block of content) {
      if (block.type === "server_tool_use") uses.add(block.id);
      if (block.type === "server_tool_use" && !results.has(block.id)) wrong.push(block);
      if (block.type === "web_search_tool_result" && !uses.has(block.tool_use_id)) wrong.push(block);
    }
  }
  return wrong;
}

describe("a history with anything in it", () => {
  it("becomes a body that the API takes, or there is nothing to answer", () => {
    fc.assert(
      fc.property(
        fc.array(oddMessage, { maxLength: 8 }),
        fc.constantFrom("claude-opus-5-5", "claude-sonnet-4-5"),
        (messages, model) => {
          const spec = specOf({
            model,
            options: model === "claude-sonnet-4-5" ? { thinking: { type: "enabled", budget_tokens: 1_024 } } : {},
          });
          const assembled = assemble(spec, {}, { messages, cut: null }, { stream: true });
          if (!assembled.ok) {
            expect(assembled.error).toMatchObject({ kind: "invalid_request" });
            return;
          }
          const body = JSON.parse(new TextDecoder().decode(assembled.value.body)) as Fields;
          expect(problemsOf(body, "2026-10-21").filter((problem) => !/the id .* twice/.test(problem))).toEqual([]);
          expect(validatePrompt(body, "2026-10-21", findModel(model) as Model)).toBeUndefined();
          expect(breakpointsOf(body, promptBlocks(body))).toBeInstanceOf(Array);
          expect(unpaired(body)).toEqual([]);
        },
      ),
      { numRuns: 3_000 },
    );
  });
});

describe("a body", () => {
  const thought = { type: "thinking", thinking: "hm", signature: "c2ln" };
  const yes = { type: "text", text: "yes" };
  const history = [user("one"), answer([thought, yes], { organization: "org-a" }), user("two")];
  const thinkingIn = (body: Fields) => JSON.stringify(body.messages).includes('"thinking"');

  it("says what the conversation and the message ask for, the message last", () => {
    const { body, headers } = bodyOf(
      { options: { temperature: 0.5, top_k: 7, betas: ["b-2"] }, tools: [], model: "claude-opus-4-6" },
      [user("hi")],
      { top_k: null, max_tokens: 9, betas: ["b-1", "a-1"], tool_choice: { type: "auto" }, container: "c" },
    );
    expect(body).toEqual({
      model: "claude-opus-4-6",
      max_tokens: 9,
      temperature: 0.5,
      container: "c",
      system: [{ type: "text", text: "Be brief.", cache_control: { type: "ephemeral" } }],
      messages: [{ role: "user", content: [{ type: "text", text: "hi", cache_control: { type: "ephemeral" } }] }],
    });
    expect(headers).toEqual({ "anthropic-version": "2023-06-01", "anthropic-beta": "a-1,b-1" });
    expect(bodyOf({}, [user("hi")]).headers).toEqual({ "anthropic-version": "2026-10-21" });
  });

  it("passes on what is no block inside of a result, be it marked or too long", () => {
    const content = [null, "x", {}, { type: "text", text: "r", cache_control: { type: "ephemeral" } }];
    const messages = [
      user("hi", { id: "one" }),
      answer([{ type: "tool_use", id: "a", name: "look", input: {} }], { id: "two" }),
      user([{ type: "tool_result", tool_use_id: "a", content }], { id: "three" }),
    ];
    expect(JSON.stringify(bodyOf({}, messages).body.messages)).toContain(JSON.stringify(content));
    expect(planContext(specOf(), { messages, cut: null }, 100, null)).toEqual({ kind: "fits" });
    expect(summaryBody({ messages, cut: null }, "three", "claude-haiku-5-5").byteLength).toBeGreaterThan(0);
  });

  it("is not there where nobody has said anything", () => {
    for (const messages of [[], [user(" ")], [user("hi"), answer("yes")]]) {
      const refused = assemble(specOf(), {}, { messages, cut: null }, { stream: false });
      expect(refused).toMatchObject({ ok: false, error: { kind: "invalid_request" } });
    }
  });

  it("holds thinking of its own model, of one account, while it thinks itself", () => {
    expect(bodyOf({}, history)).toMatchObject({ hasThinking: true, thoughtsOf: "org-a" });
    const lost = (spec: Partial<Spec>, options: Fields = {}, messages = history) => {
      const { body, hasThinking, thoughtsOf } = bodyOf(spec, messages, options);
      expect([thinkingIn(body), hasThinking, thoughtsOf]).toEqual([false, false, null]);
    };
    lost({ model: "claude-opus-5" });
    lost({ model: "claude-haiku-5-5" }, { thinking: { type: "disabled" } });
    lost({ model: "claude-opus-5" }, { tool_choice: { type: "any" } }, [
      user("one"),
      answer([thought, yes], { model: "claude-opus-5" }),
      user("two"),
    ]);
    const dated = [
      user("one"),
      answer([thought, yes], { model: "claude-sonnet-4-5-20250929", organization: "o" }),
      user("two"),
    ];
    const asked = { thinking: { type: "enabled", budget_tokens: 1_024 } };
    expect(bodyOf({ model: "claude-sonnet-4-5" }, dated, asked)).toMatchObject({ hasThinking: true, thoughtsOf: "o" });

    const moved = bodyOf({}, [...history, answer([thought, yes], { organization: "org-b" }), user("three")]);
    expect(moved.thoughtsOf).toBe("org-b");
    const cutOff = bodyOf({}, [...history, answer([{ ...thought, thinking: "torn" }, yes]), user("three")]);
    expect(cutOff).toMatchObject({ hasThinking: true, thoughtsOf: "org-a" });
    expect(JSON.stringify(cutOff.body)).not.toContain("torn");
    expect((moved.body.messages as { content: Fields[] }[]).map(({ content }) => content.length)).toEqual([
      1, 1, 1, 2, 1,
    ]);
  });

  it("has upstream leave out thinking that a change of system or tools has unbound", () => {
    const { body, headers } = bodyOf({}, history);
    expect(body.thinking).toEqual({ type: "adaptive", block_binding: { prefix_mismatch_behavior: "drop_block" } });
    expect(headers["anthropic-beta"]).toBe("thinking-binding-controls-2026-08-01");
    // From the first call on where thinking is asked for: the cached prefix depends on it.
    const first = bodyOf({ options: { thinking: { type: "adaptive", display: "omitted" } } }, [user("one")]).body
      .thinking;
    expect(first).toEqual({
      type: "adaptive",
      display: "omitted",
      block_binding: { prefix_mismatch_behavior: "drop_block" },
    });
    expect(bodyOf({}, [user("one")]).body.thinking).toBeUndefined();
    expect(bodyOf({ model: "claude-opus-5" }, [user("one")], { thinking: { type: "adaptive" } }).body.thinking).toEqual(
      { type: "adaptive" },
    );
  });

  it("begins behind a cut, with its summary before what is said first; thinking from before is gone, later stays", () => {
    const at = (id: string, turn: number, more: StoredMessage) => ({ ...more, id, turn: `t${turn}`, createdAt: turn });
    const later = { ...thought, thinking: "later" };
    const messages = [
      at("u1", 1, user("one")),
      at("a1", 1, answer([thought, yes])),
      at("u2", 2, user("two")),
      at("a2", 2, answer([thought, yes])),
      at("u3", 3, user("three")),
      at("a3", 3, answer([later, yes])),
      at("u4", 4, user("four")),
    ];
    const told = {
      strategy: "summarize",
      reason: "max_input_tokens",
      messages: 2,
      through: "a1",
      tokens_before: 9,
      tokens_after: 5,
      summary: null,
    } as const;
    const cut = { id: "c", through: "a1", turn: "t3", summary: "They said one.", cut: told, createdAt: 3 };
    const assembled = assemble(specOf(), {}, { messages, cut }, { stream: false });
    if (!assembled.ok) throw new Error(JSON.stringify(assembled.error));
    const body = JSON.parse(new TextDecoder().decode(assembled.value.body)) as Fields;
    expect(body.messages).toMatchObject([
      {
        role: "user",
        content: [{ text: "[Summary of the earlier part of this conversation]\nThey said one." }, { text: "two" }],
      },
      { role: "assistant", content: [yes] },
      { role: "user", content: [{ text: "three" }] },
      { role: "assistant", content: [later, yes] },
      { role: "user", content: [{ text: "four" }] },
    ]);
  });

  it("goes on with an answer that paused", () => {
    const use = { type: "server_tool_use", id: "s", name: "web_search", input: {} };
    const more = { stream: true, continued: [thought, use], continuedBy: "org-b" };
    const assembled = assemble(specOf(), {}, { messages: history, cut: null }, more);
    if (!assembled.ok) throw new Error(JSON.stringify(assembled.error));
    const body = JSON.parse(new TextDecoder().decode(assembled.value.body)) as Fields;
    expect(body.messages).toMatchObject([
      {},
      { content: [yes] },
      { content: [{ text: "two", cache_control: { type: "ephemeral" } }] },
      { role: "assistant", content: [thought, { ...use, cache_control: { type: "ephemeral" } }] },
    ]);
    expect(assembled.value.thoughtsOf).toBe("org-b");
  });

  it("is counted without what says nothing about the prompt", () => {
    const options = { temperature: 1, thinking: { type: "adaptive" }, metadata: {}, tool_choice: { type: "auto" } };
    const assembled = assemble(specOf(), options, { messages: history, cut: null }, { stream: true, counting: true });
    const body = JSON.parse(assembled.ok ? new TextDecoder().decode(assembled.value.body) : "{}") as Fields;
    expect(Object.keys(body).sort()).toEqual(["messages", "model", "system", "thinking", "tool_choice", "tools"]);
  });
});

describe("breakpoints", () => {
  const long = { type: "ephemeral", ttl: "1h" };
  const short = { type: "ephemeral" };
  const marks = (spec: Partial<Spec>, messages: readonly StoredMessage[], options: Fields = {}) =>
    promptBlocks(bodyOf(spec, messages, options).body).map(({ value }) => value.cache_control ?? null);
  const said = (text: string, control?: Fields) => [{ type: "text", text, ...(control && { cache_control: control }) }];

  it("stand at the end of system, of what was asked before, and of what is asked", () => {
    const messages = [user("1"), answer("2"), user("3"), answer("4"), user([...said("5"), ...said("6")])];
    expect(marks({}, messages)).toEqual([null, null, short, null, null, short, null, null, short]);
    expect(marks({ system: null }, messages)).toEqual([null, short, null, null, short, null, null, short]);
    expect(marks({ system: null, tools: [{ name: "a" }, { name: "b", defer_loading: true }] }, [user("1")])).toEqual([
      short,
      null,
      short,
    ]);
    expect(marks({ tools: [] }, [user("1"), answer("2"), user("3")])).toEqual([short, short, null, short]);
  });

  it("leave the client's own where they are, and their number to it", () => {
    const own = said("1", short);
    expect(marks({ tools: [], options: { cache_control: short } }, [user(own), answer("2"), user("3")])).toEqual([
      null,
      short,
      null,
      null,
    ]);
    const six = Array.from({ length: 6 }, (_, i) => [user(said(String(i), short)), answer("a")]).flat();
    expect(marks({ tools: [], system: said("s", short) }, [...six, user("x")])).toEqual([
      short,
      null,
      null,
      null,
      null,
      null,
      null,
      short,
      null,
      short,
      null,
      short,
      null,
      null,
    ]);
    const inside = [{ type: "tool_result", tool_use_id: "a", content: said("r", short) }];
    const call = answer([{ type: "tool_use", id: "a", name: "look", input: {} }]);
    const body = bodyOf({ tools: [], system: null }, [user("1"), call, user(inside)]).body;
    expect(body.messages).toMatchObject([{ content: [{ cache_control: short }] }, {}, { content: inside }]);
  });

  it("live an hour in front of one that does", () => {
    expect(marks({ tools: [] }, [user("1"), answer("2"), user(said("3", long))])).toEqual([long, long, null, long]);
    expect(marks({ tools: [], system: said("s", long) }, [user("1")])).toEqual([long, short]);
    expect(
      marks({ tools: [], system: said("s", { ...short, ttl: "5m" }), options: { cache_control: long } }, [user("1")]),
    ).toEqual([long, null]);
  });
});
