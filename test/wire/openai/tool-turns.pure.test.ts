import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Block, Turn } from "../../../src/wire/openai/draft.ts";
import { pairResults } from "../../../src/wire/openai/tool-turns.ts";
import { assistant, call, draftOf, result, system, text, user } from "../../support/drafts.ts";

const lost = (id: string): Block => ({
  type: "tool_result",
  tool_use_id: id,
  content: expect.any(String),
  is_error: true,
});
const calls = (...ids: string[]): Turn => assistant(...ids.map((id) => call(id)));

function paired(...turns: Turn[]): Turn[] {
  const draft = draftOf({ turns: structuredClone(turns) });
  expect(pairResults(draft)).toBeNull();
  return draft.turns;
}

describe("pairResults", () => {
  it("leaves a history alone that is as it should be", () => {
    const turns = [
      user("a"),
      { role: "assistant" as const, content: [text("b"), call("1"), call("2")] },
      user(result("1", "x"), result("2", [text("y")]), text("c")),
      assistant("d"),
    ];
    expect(paired(...turns)).toEqual(turns);
  });

  it("gathers results of one turn, in the order of its calls, before what the user says", () => {
    expect(paired(calls("1", "2"), user(result("2", "y")), user(result("1", "x")), user("c"), user("d"))).toEqual([
      calls("1", "2"),
      user(result("1", "x"), result("2", "y"), text("c")),
      user("d"),
    ]);
  });

  it("takes results to their calls past whatever stands between", () => {
    expect(
      paired(
        calls("1", "2"),
        user("wait"),
        system("S"),
        user(result("2", "y")),
        assistant("hm"),
        user(result("1", "x")),
        user("go"),
      ),
    ).toEqual([
      calls("1", "2"),
      user(result("1", "x"), result("2", "y"), text("wait")),
      system("S"),
      assistant("hm"),
      user("go"),
    ]);
  });

  it("makes one turn of neighbouring turns of the assistant's, whose calls are answered together", () => {
    expect(paired(calls("1"), calls("2"), assistant("b"), user(result("1", "x"), result("2", "y")))).toEqual([
      { role: "assistant", content: [call("1"), call("2"), text("b")] },
      user(result("1", "x"), result("2", "y")),
    ]);
  });

  it("keeps calls apart that were made one after the other", () => {
    const turns = [calls("1"), user(result("1", "x")), calls("2"), user(result("2", "y"))];
    expect(paired(...turns)).toEqual(turns);
  });

  it("gives a call without a result an error", () => {
    expect(paired(calls("1", "2"), user(result("2", "y")))).toEqual([
      calls("1", "2"),
      user(lost("1"), result("2", "y")),
    ]);
    expect(paired(calls("1"), user("a"))).toEqual([calls("1"), user(lost("1"), text("a"))]);
    expect(paired(calls("1"))).toEqual([calls("1"), user(lost("1"))]);
  });

  it("makes a user's text of a result without a call, its images with it", () => {
    const image = { type: "image", source: { type: "url", url: "https://example.com/a.png" } };
    const [turn] = paired(user(result("9", "x"), result("8", [text("y"), image])));
    expect(turn?.role).toBe("user");
    expect(turn?.content).toEqual([
      { type: "text", text: expect.stringMatching(/ 9\]\nx$/) },
      { type: "text", text: expect.stringMatching(/ 8\]\ny$/) },
      image,
    ]);
  });

  it("does not give a result to a call that comes after it", () => {
    expect(paired(user(result("1", "x")), calls("1"))).toEqual([
      user({ type: "text", text: expect.stringContaining("x") }),
      calls("1"),
      user(lost("1")),
    ]);
  });

  it("keeps the last of two results", () => {
    expect(paired(calls("1"), user(result("1", "x"), result("1", "y")))).toEqual([calls("1"), user(result("1", "y"))]);
  });

  it("leaves out content that is empty, and keeps what else a result says", () => {
    for (const empty of ["", null, []]) {
      const cached = { ...result("1", empty), is_error: true, cache_control: { type: "ephemeral" as const } };
      expect(paired(calls("1"), user(cached))[1]?.content).toEqual([
        { type: "tool_result", tool_use_id: "1", is_error: true, cache_control: { type: "ephemeral" } },
      ]);
    }
  });

  it("tells calls apart whose ids begin anew with each answer", () => {
    const turns = paired(calls("0"), user(result("0", "x")), calls("0"), user(result("0", "y")), calls("0"));
    const ids = turns.filter(({ role }) => role === "assistant").map(({ content }) => String(content[0]?.id));
    expect(ids).toEqual(["0", expect.stringMatching(/^0_[0-9a-f]{8}$/), expect.stringMatching(/^0_[0-9a-f]{8}_1$/)]);
    expect(turns.filter(({ role }) => role === "user").map(({ content }) => content)).toEqual([
      [result("0", "x")],
      [result(ids[1] as string, "y")],
      [lost(ids[2] as string)],
    ]);
  });

  it("tells calls apart that have one id in one turn: their results come in order", () => {
    const [turn, results] = paired(calls("0", "0"), user(result("0", "x"), result("0", "y"), result("0", "z")));
    const ids = turn?.content.map(({ id }) => String(id)) ?? [];
    expect(results?.content).toEqual([result("0", "x"), result(ids[1] as string, "z")]);
  });

  it("rewrites ids that Claude does not take, the same in call and result and with every turn that follows", () => {
    const turns = [calls("call:1", "call.1"), user(result("call.1", "b"), result("call:1", "a"))];
    const [turn, results] = paired(...turns);
    const ids = turn?.content.map(({ id }) => id) ?? [];
    expect(ids[0]).toMatch(/^call_1_[0-9a-f]{8}$/);
    expect(ids[1]).not.toBe(ids[0]);
    expect(results?.content).toEqual([result(ids[0] as string, "a"), result(ids[1] as string, "b")]);
    expect(paired(...turns, calls("call/1"), user("c")).slice(0, 2)).toEqual([turn, results]);
  });

  it("makes an object of whatever a call's input is", () => {
    const turns = paired({
      role: "assistant",
      content: [
        { ...call("1"), input: "[1" },
        { ...call("2"), input: null },
      ],
    });
    expect(turns[0]?.content.map(({ input }) => input)).toEqual([{ input: "[1" }, {}]);
  });

  it("makes text of a call that is not the assistant's, and takes results from wherever they stand", () => {
    const turns = paired(
      user(call("1")),
      calls("2"),
      { role: "system", content: [result("2", "x")] },
      user(result("1", "y")),
    );
    expect(turns).toEqual([
      user({ type: "text", text: '[Tool call: ["get_weather",{}]]' }),
      calls("2"),
      user(result("2", "x"), { type: "text", text: expect.stringContaining("y") }),
    ]);
  });

  describe("whatever the history", () => {
    const id = fc.constantFrom("a", "b", "", "a b", "a_b", "toolu_1", "é", "a_7a3f1c55");
    const block: fc.Arbitrary<Block> = fc.oneof(
      id.map(call),
      id.chain((each) => fc.constantFrom(result(each), result(each, "x"), result(each, [text("y")]))),
      fc.constantFrom(text("t"), { type: "thinking", thinking: "", signature: "s" }),
    );
    const turn: fc.Arbitrary<Turn> = fc.record({
      role: fc.constantFrom("user", "assistant", "system"),
      content: fc.array(block, { maxLength: 4 }),
    });
    const history = fc.array(turn, { maxLength: 12 });
    const ofType = (turns: readonly Turn[], type: string): Block[] =>
      turns.flatMap(({ content }) => content.filter((each) => each.type === type));

    it("each call has one result, first in the user turn behind it, and each result its call", () => {
      fc.assert(
        fc.property(history, (written) => {
          const turns = paired(...written);
          let due: unknown[] = [];
          for (const { role, content } of turns) {
            expect(content.length).toBeGreaterThan(0);
            const results = content.filter(({ type }) => type === "tool_result").map((each) => each.tool_use_id);
            expect(results).toEqual(due);
            if (due.length > 0) expect(role).toBe("user");
            expect(content.slice(0, due.length).every(({ type }) => type === "tool_result")).toBe(true);
            due = content.filter(({ type }) => type === "tool_use").map((each) => each.id);
            if (due.length > 0) expect(role).toBe("assistant");
          }
          expect(due).toEqual([]);
        }),
        { numRuns: 1000 },
      );
    });

    it("ids are valid and each call's own, no call is lost, and the same history gives the same", () => {
      fc.assert(
        fc.property(history, (written) => {
          const turns = paired(...written);
          const ids = ofType(turns, "tool_use").map((each) => String(each.id));
          for (const each of ids) expect(each).toMatch(/^[a-zA-Z0-9_-]+$/);
          expect(new Set(ids).size).toBe(ids.length);
          const theirs = written.filter(({ role }) => role === "assistant");
          expect(ids.length).toBe(ofType(theirs, "tool_use").length);
          expect(paired(...written)).toEqual(turns);
          // What has been paired once stays as it is, though neighbours may yet become one turn.
          const flat = (list: readonly Turn[]) => list.flatMap(({ content }) => content);
          expect(flat(paired(...turns))).toEqual(flat(turns));
        }),
        { numRuns: 700 },
      );
    });

    it("what is added at the end changes no id before it", () => {
      fc.assert(
        fc.property(history, history, (before, after) => {
          const ids = ofType(paired(...before), "tool_use").map((each) => each.id);
          const longer = ofType(paired(...before, user("and"), ...after), "tool_use").map((each) => each.id);
          expect(longer.slice(0, ids.length)).toEqual(ids);
        }),
        { numRuns: 1000 },
      );
    });
  });
});
