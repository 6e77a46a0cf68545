/** Thinking put back where a client has dropped it: exactly what was said, where it was said, and nowhere else. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { modelFacts } from "../../../src/wire/anthropic/model-facts.ts";
import type { Block, Turn } from "../../../src/wire/openai/draft.ts";
import {
  BINDING_BETA,
  bindThinking,
  callsToRecall,
  callsToRemember,
  isSameModel,
  keepOneOrganization,
  type RecalledTurn,
  restoreThinking,
} from "../../../src/wire/openai/thinking.ts";
import { assistant, call, draftOf, messageOf, result, text, thought, user } from "../../support/drafts.ts";

const free = modelFacts("claude-opus-5");
const bound = modelFacts("claude-opus-5-5");
const budget = modelFacts("claude-haiku-4-5");
const recalled = (...blocks: Block[]): RecalledTurn => ({ model: free.id, organization: null, blocks });

const words = fc.oneof(fc.constantFrom("", " ", "\n\n", "é\u{1f600}"), fc.string({ maxLength: 12 }));
const block: fc.Arbitrary<Block> = fc.oneof(
  words.map(text),
  words.map((said) => ({ type: "text", text: said, citations: null })),
  words.map(thought),
  fc.string({ minLength: 1 }).map((data) => ({ type: "redacted_thinking", data })),
  fc.dictionary(fc.string({ maxLength: 5 }), fc.jsonValue()).map((input) => call("", input)),
  fc.constant({ type: "server_tool_use", id: "srvtoolu_1", name: "web_search", input: { query: "q" } }),
  fc.constant({ type: "web_search_tool_result", tool_use_id: "srvtoolu_1", content: [] }),
);

/** What a model has said in a tool loop: some thinking, some calls, anything between them. */
const said: fc.Arbitrary<Block[]> = fc
  .tuple(fc.array(block, { maxLength: 8 }), fc.nat(), fc.nat())
  .map(([blocks, thinkingAt, callAt]) => {
    const all = [...blocks];
    all.splice(thinkingAt % (all.length + 1), 0, thought("t"));
    all.splice(callAt % (all.length + 1), 0, call(""));
    return all.map((one, nth) => (one.type === "tool_use" ? { ...one, id: `toolu_${nth}` } : one));
  });

/** What a client of OpenAI's keeps of it. */
function drop(blocks: readonly Block[]): Block[] {
  const all = blocks.flatMap((one) => (one.type === "text" ? [String(one.text)] : [])).join("");
  const calls = blocks.filter(({ type }) => type === "tool_use");
  return [...(all.trim() === "" ? [] : [text(all)]), ...structuredClone(calls)];
}

const resultsOf = (blocks: readonly Block[]): Turn =>
  user(...blocks.flatMap(({ type, id }) => (type === "tool_use" ? [result(String(id))] : [])));

describe("restoring", () => {
  it("undoes dropping, block for block, in one turn or in one for each block", () => {
    fc.assert(
      fc.property(
        fc.array(said, { minLength: 1, maxLength: 3 }),
        fc.boolean(),
        fc.boolean(),
        (messages, apart, binds) => {
          const model = binds ? { ...free, boundThinking: true } : free;
          const named = messages.map((blocks, nth) =>
            blocks.map((one) => (one.type === "tool_use" ? { ...one, id: `${one.id}_${nth}` } : one)),
          );
          const told = (blocks: Block[]): Turn[] =>
            apart ? drop(blocks).map((one) => assistant(one)) : [assistant(...drop(blocks))];
          const draft = draftOf({
            turns: [user(text("w?")), ...named.flatMap((blocks) => [...told(blocks), resultsOf(blocks)])],
          });
          const kept = named.map((blocks) => recalled(...structuredClone(blocks)));
          const asked = callsToRecall(draft, model);
          for (const blocks of named) {
            for (const id of callsToRemember(messageOf(blocks))) expect(asked).toContain(id);
          }
          restoreThinking(draft, kept, model);
          expect(draft.turns).toEqual([
            user(text("w?")),
            ...named.flatMap((blocks) => [assistant(...blocks), resultsOf(blocks)]),
          ]);
          expect(callsToRecall(draft, model)).toEqual([]);
        },
      ),
    );
  });

  it("loses no call and touches no other role, whatever the client sends and whatever is remembered", () => {
    const turn = fc.record({
      role: fc.constantFrom<Turn["role"]>("user", "assistant", "system"),
      content: fc.array(block, { minLength: 1, maxLength: 4 }),
    });
    const named = (turns: Turn[]): Turn[] =>
      turns.map(({ role, content }, at) => ({
        role,
        content: content.map((one, nth) => (one.type === "tool_use" ? { ...one, id: `toolu_${(at + nth) % 4}` } : one)),
      }));
    const calls = (turns: readonly Turn[]) =>
      turns.flatMap(({ role, content }) =>
        role === "assistant" ? content.filter(({ type }) => type === "tool_use") : [],
      );
    fc.assert(
      fc.property(fc.array(turn).map(named), fc.array(said), fc.boolean(), (turns, remembered, binds) => {
        const draft = draftOf({ turns: structuredClone(turns) });
        const model = { ...free, boundThinking: binds };
        restoreThinking(
          draft,
          remembered.map((blocks) => recalled(...blocks)),
          model,
        );
        expect(new Set(calls(draft.turns).map((one) => JSON.stringify(one)))).toEqual(
          new Set(calls(turns).map((one) => JSON.stringify(one))),
        );
        expect(draft.turns.filter(({ role }) => role !== "assistant")).toEqual(
          turns.filter(({ role }) => role !== "assistant"),
        );
      }),
    );
  });

  const spoken = [thought("a"), text("Let me "), thought("b"), text("look."), call("toolu_1"), call("toolu_2")];
  const loop = (...turn: Block[]): Turn[] => [
    user(text("w?")),
    assistant(...turn),
    user(result("toolu_1"), result("toolu_2")),
  ];
  const restored = (turns: Turn[], model = free, ...kept: RecalledTurn[]): Turn[] => {
    const draft = draftOf({ turns });
    restoreThinking(draft, kept.length > 0 ? kept : [recalled(...spoken)], model);
    return draft.turns;
  };

  it("puts the thinking in front where the client tells the turn otherwise", () => {
    const thinking = [thought("a"), thought("b")];
    for (const told of [
      [text("Let me see."), call("toolu_1"), call("toolu_2")],
      [call("toolu_1"), call("toolu_2")],
      [text("Let me look."), call("toolu_2")],
      [text("Let me look."), call("toolu_1"), call("toolu_2"), call("call_3")],
    ]) {
      expect(restored(loop(...told))[1]).toEqual(assistant(...thinking, ...told));
    }
  });

  it("takes calls as the client tells them, in the order in which they were said, and its breakpoint with the text", () => {
    const [one, two] = [call("toolu_1", { a: 1, b: [{ c: null }] }), call("toolu_2")];
    const marked: Block = { ...text(" Let me look.\n"), cache_control: { type: "ephemeral" } };
    const said = recalled(...spoken.slice(0, 4), call("toolu_1", { b: [{ c: null }], a: 1 }), two);
    expect(restored(loop(marked, two, one), free, said)[1]?.content).toEqual([
      thought("a"),
      text("Let me "),
      thought("b"),
      { ...text("look."), cache_control: { type: "ephemeral" } },
      one,
      two,
    ]);
  });

  it("leaves a turn alone that has other calls under the same ids; of several remembered turns the last one counts", () => {
    const { name, input } = call("toolu_1");
    for (const other of [
      { ...call("toolu_1"), name: `${name}s` },
      call("toolu_1", { ...(input as object), again: 1 }),
      call("toolu_1", { list: [1] }),
    ]) {
      const turns = loop(text("Let me look."), other, call("toolu_2"));
      expect(restored(structuredClone(turns))).toEqual(turns);
      const last = recalled(thought("last"), other);
      expect(restored(structuredClone(turns), free, last, recalled(...spoken))[1]?.content[0]).toEqual(thought("last"));
    }
  });

  it("keeps the thinking of one organization, that of the newest", () => {
    const of = (organization: string, ...content: Block[]): Turn => ({ ...assistant(...content), organization });
    const own = assistant(thought("own"), text("4C"));
    const draft = draftOf({ turns: [of("a", thought("t"), text("1")), own, of("b", thought("u"), text("2"))] });
    expect(keepOneOrganization(draft)).toBe("b");
    expect(draft.turns.map(({ content }) => content.length)).toEqual([1, 2, 2]);
    expect(keepOneOrganization(draftOf({ turns: [own] }))).toBeNull();
    expect(keepOneOrganization(draftOf({ turns: [assistant(text("4C"))] }))).toBeUndefined();
  });

  it("leaves a turn alone whose thinking the client has brought", () => {
    for (const own of [thought("own"), { type: "redacted_thinking", data: "d" }, { type: "sealed", data: "d" }]) {
      const turns = loop(own, text("Let me look."), call("toolu_1"), call("toolu_2"));
      expect(callsToRecall(draftOf({ turns }), free)).toEqual([]);
      expect(restored(structuredClone(turns))).toEqual(turns);
    }
  });

  it("puts the thinking once, before the first, where a client tells one turn as several", () => {
    const turns = [
      user(text("w?")),
      assistant(text("Let me look."), call("toolu_1")),
      user(result("toolu_1")),
      assistant(call("toolu_2")),
      user(result("toolu_2")),
    ];
    expect(restored(structuredClone(turns))).toEqual([
      turns[0],
      assistant(thought("a"), thought("b"), text("Let me look."), call("toolu_1")),
      ...turns.slice(2),
    ]);
  });

  it("gives no model the blocks of another one; a snapshot is the same model", () => {
    const turns = loop(text("Let me look."), call("toolu_1"), call("toolu_2"));
    for (const model of ["claude-opus-5-5", "claude-sonnet-5", "claude-opus-4-8"]) {
      expect(restored(structuredClone(turns), modelFacts(model))).toEqual(turns);
    }
    const snapshot = { model: "claude-opus-5-20260901", organization: null, blocks: spoken };
    expect(restored(structuredClone(turns), free, snapshot)[1]).toEqual(assistant(...spoken));
    expect(isSameModel("claude-opus-5", "claude-opus-5-5")).toBe(false);
  });
});

describe("what is asked after", () => {
  const first = [user(text("w?")), assistant(call("toolu_1")), user(result("toolu_1")), assistant(text("4C"))];
  const second = [
    user(text("and now?")),
    assistant(call("toolu_2")),
    user(result("toolu_2")),
    assistant(call("toolu_3")),
  ];

  it("is the running tool loop, of models that bind thinking all of the conversation, the newest first", () => {
    const draft = draftOf({ turns: [...first, ...second, user(result("toolu_3"))] });
    expect(callsToRecall(draft, free)).toEqual(["toolu_3", "toolu_2"]);
    expect(callsToRecall(draft, bound)).toEqual(["toolu_3", "toolu_2", "toolu_1"]);
    const over = draftOf({ turns: [...first, user(text("and now?"))] });
    expect(callsToRecall(over, free)).toEqual([]);
    expect(callsToRecall(over, bound)).toEqual(["toolu_1"]);
  });

  it("goes on through what is said beside results, and through system turns", () => {
    const system: Turn = { role: "system", content: [text("Hurry.")] };
    for (const aside of [
      [user(result("toolu_2"), text("quick"))],
      [user(result("toolu_2")), system, user(text("quick"))],
    ]) {
      const draft = draftOf({ turns: [...first, user(text("and?")), assistant(call("toolu_2")), ...aside] });
      expect(callsToRecall(draft, free)).toEqual(["toolu_2"]);
    }
  });

  it("is nothing where the request does not think", () => {
    const draft = (changes = {}) =>
      draftOf({ turns: [user(text("w?")), assistant(call("toolu_1")), user(result("toolu_1"))], ...changes });
    const asked = (changes: object, model = free) => callsToRecall(draft(changes), model).length > 0;
    expect(asked({}, budget)).toBe(false);
    expect(asked({ effort: "low" }, budget)).toBe(true);
    expect(asked({ extra: { thinking: { type: "enabled", budget_tokens: 2000 } } }, budget)).toBe(true);
    expect(asked({ effort: "low" }, { ...free, thinking: "none" })).toBe(false);
    expect(asked({ effort: "none" })).toBe(false);
    expect(asked({ effort: "none" }, bound)).toBe(true);
    expect(asked({ extra: { thinking: { type: "disabled" } } })).toBe(false);
    expect(asked({ extra: { thinking: { type: "between_tools" } } }, bound)).toBe(false);
  });

  it("to remember are turns with signed thinking and calls, by the calls that clients answer", () => {
    const server = { type: "server_tool_use", id: "srvtoolu_1", name: "web_search", input: {} };
    expect(callsToRemember(messageOf([thought("t"), server, call("toolu_1"), call("toolu_2")]))).toEqual([
      "toolu_1",
      "toolu_2",
    ]);
    expect(callsToRemember(messageOf([{ type: "redacted_thinking", data: "d" }, call("toolu_1")]))).toEqual([
      "toolu_1",
    ]);
    expect(callsToRemember(messageOf([thought("t"), text("4C")]))).toEqual([]);
    expect(callsToRemember(messageOf([{ type: "thinking", thinking: "t", signature: "" }, call("toolu_1")]))).toEqual(
      [],
    );
    expect(callsToRemember(messageOf([text("t"), call("toolu_1")]))).toEqual([]);
  });
});

describe("binding", () => {
  const binding = { block_binding: { prefix_mismatch_behavior: "drop_block" } };
  const turns = () => [user(text("w?")), assistant(thought("t"), call("toolu_1")), user(result("toolu_1"))];

  it("lets a changed history pass on models that bind thinking, and says how the request thinks as it did", () => {
    for (const [changes, thinking] of [
      [{}, { type: "adaptive", ...binding }],
      [
        { body: { thinking: { type: "adaptive", display: "summarized" } } },
        { type: "adaptive", display: "summarized", ...binding },
      ],
      [
        { extra: { thinking: { type: "adaptive", display: "omitted" } } },
        { type: "adaptive", display: "omitted", ...binding },
      ],
      [
        { extra: { thinking: { type: "adaptive", block_binding: { prefix_mismatch_behavior: "error" } } } },
        { type: "adaptive", block_binding: { prefix_mismatch_behavior: "error" } },
      ],
    ] as const) {
      const draft = draftOf({ turns: turns(), ...structuredClone(changes) });
      expect(bindThinking(draft, bound)).toBeNull();
      expect(draft.body.thinking).toEqual(thinking);
      expect([...draft.betas]).toEqual([BINDING_BETA]);
    }
  });

  it("is not spoken of where nothing is bound", () => {
    for (const [draft, model] of [
      [draftOf({ turns: turns() }), free],
      [draftOf({ turns: [user(text("w?")), assistant(text("4C")), user(text("?"))] }), bound],
    ] as const) {
      bindThinking(draft, model);
      expect(draft.body).toEqual({});
      expect(draft.betas.size).toBe(0);
    }
  });

  it("takes the thinking out where thinking is off and there is no other way", () => {
    for (const type of ["disabled", "between_tools"]) {
      const draft = draftOf({ turns: [...turns(), assistant(thought("u"))], body: { thinking: { type } } });
      bindThinking(draft, bound);
      expect(draft.turns).toEqual([user(text("w?")), assistant(call("toolu_1")), user(result("toolu_1"))]);
      expect(draft.body.thinking).toEqual({ type });
    }
  });
});
