import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Content } from "../../../clients/typescript/protocol.ts";
import { awaitingResults, checkIncoming, type HeldResult } from "../../../src/conversations/context/tools.ts";
import { describeFailure } from "../../../src/wire/errors.ts";
import { messageOf } from "./histories.ts";

const result = (id: string) => ({ type: "tool_result", tool_use_id: id, content: `of ${id}` });
const words = { type: "text", text: "and now?" };
const held = (id: string): HeldResult => ({ id, block: JSON.stringify(result(id)) });
const check = (content: Content | null, awaiting: string[] = [], kept: HeldResult[] = []) =>
  checkIncoming({ content, regenerate: content === null ? true : null }, awaiting, kept);
const complaint = (...asked: Parameters<typeof check>) => {
  const checked = check(...asked);
  if (checked.ok) throw new Error("it was taken");
  const { status, message } = describeFailure(checked.error);
  expect(status).toBe(400);
  return message;
};

describe("awaitingResults", () => {
  const calls = ["a", "b"].map((id) => ({ type: "tool_use", id, name: "look", input: {} }));
  const answer = messageOf({ role: "assistant", content: [words, ...calls], stopReason: "tool_use" });

  it("names the calls of the last answer, in their order", () => {
    expect(awaitingResults({ messages: [messageOf({}), answer] })).toEqual(["a", "b"]);
  });

  it.each([
    ["a user's message behind it", [answer, messageOf({})]],
    ["an answer that was cancelled", [{ ...answer, incomplete: true }]],
    ["a refusal", [{ ...answer, stopReason: "refusal" }]],
    ["an answer in words", [messageOf({ role: "assistant", content: "Hello." })]],
    ["nothing", []],
  ])("awaits nothing of %s", (_, messages) => {
    expect(awaitingResults({ messages })).toEqual([]);
  });
});

describe("checkIncoming", () => {
  it("lets words through where nothing is awaited, and an answer be made anew at any time", () => {
    expect(check("hi")).toEqual({ ok: true, value: { kind: "complete", content: "hi" } });
    expect(check([words])).toEqual({ ok: true, value: { kind: "complete", content: [words] } });
    expect(check(null, ["a"])).toEqual({ ok: true, value: { kind: "complete", content: null } });
  });

  it("keeps some of the results, and makes one message of all in the order of the calls", () => {
    expect(check([result("b")], ["a", "b", "c"])).toEqual({
      ok: true,
      value: { kind: "partial", results: [held("b")], awaiting: ["a", "c"] },
    });
    expect(check([result("c"), result("a"), words], ["a", "b", "c"], [held("b")])).toEqual({
      ok: true,
      value: { kind: "complete", content: [result("a"), result("b"), result("c"), words] },
    });
  });

  it("says which calls it is about when it refuses", () => {
    expect(complaint("go on", ["a", "b"], [held("a")])).toContain("for the tool calls `b`:");
    expect(complaint([result("x")], ["a"])).toMatch(/`x`.*`a`/);
    expect(complaint([result("x")])).toContain("`x`");
    expect(complaint([result("a")], ["a", "b"], [held("a")])).toContain("`a` has its result already");
    expect(complaint([result("a"), result("a")], ["a", "b"])).toContain("`a` has its result already");
    expect(complaint([result("a"), words], ["a", "b"])).toContain("`b`");
    expect(complaint([words, result("a")], ["a"])).toContain("come first");
    expect(complaint([{ type: "tool_result" }], ["a"])).toContain("no tool_use_id");
    const many = Array.from({ length: 30 }, (_, i) => `call${i}${"x".repeat(200)}`);
    expect(complaint("go on", many)).toContain("and 10 more");
    expect(complaint("go on", many).length).toBeLessThan(3_000);
  });

  it("comes to the same message however the results are dealt out", () => {
    const ids = ["a", "b", "c", "d"];
    fc.assert(
      fc.property(fc.shuffledSubarray(ids, { minLength: 4 }), fc.array(fc.nat(3), { maxLength: 3 }), (order, cuts) => {
        let kept: HeldResult[] = [];
        let content: Content | null = null;
        const places = [...new Set([0, ...cuts, 4])].sort((one, other) => one - other);
        for (const [i, end] of places.slice(1).entries()) {
          const checked = check(order.slice(places[i], end).map(result), ids, kept);
          if (!checked.ok) throw new Error(JSON.stringify(checked.error));
          if (checked.value.kind === "partial") kept = [...kept, ...checked.value.results];
          else content = checked.value.content;
        }
        expect(content).toEqual(ids.map(result));
      }),
    );
  });
});
