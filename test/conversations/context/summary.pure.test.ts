import { describe, expect, it } from "vitest";
import { findModel, type Model } from "../../../simulator/models.ts";
import { validatePrompt, validateSampling } from "../../../simulator/validate.ts";
import {
  readSummary,
  SUMMARY_HEADERS,
  SUMMARY_MODEL,
  summaryBody,
} from "../../../src/conversations/context/summary.ts";
import type { Path, StoredMessage } from "../../../src/conversations/tree.ts";
import { problemsOf } from "../../support/messages-rules.ts";
import { type Fields, messageOf } from "./histories.ts";

const path = (contents: readonly StoredMessage["content"][], cut: Path["cut"] = null): Path => ({
  messages: contents.map((content, i) => messageOf({ id: `m${i}`, role: i % 2 === 0 ? "user" : "assistant", content })),
  cut,
});
const read = (bytes: Uint8Array) => JSON.parse(new TextDecoder().decode(bytes)) as Fields;
const transcript = (body: Fields) => (body.messages as { content: { text: string }[] }[])[0]?.content[0]?.text ?? "";

describe("summaryBody", () => {
  it.each([SUMMARY_MODEL, "claude-haiku-4-5", "claude-opus-5-5", "claude-sonnet-5-5", "claude-opus-4-6"])(
    "is a body that %s takes",
    (id) => {
      const body = read(summaryBody(path(["one", "two \ud800", "three"]), "m1", id));
      const version = SUMMARY_HEADERS["anthropic-version"] as "2026-10-21";
      const model = findModel(id) as Model;
      expect(problemsOf(body, version)).toEqual([]);
      expect(validatePrompt(body, version, model) ?? validateSampling(body, version, model)).toBeUndefined();
    },
  );

  it("tells what was said up to the cut, tools in short, and neither media nor thinking", () => {
    const calls = [
      { type: "thinking", thinking: "secret thought", signature: "s" },
      { type: "text", text: "I'll look." },
      { type: "tool_use", id: "a", name: "look", input: { at: "door" } },
      { type: "server_tool_use", id: "s", name: "web_search", input: { q: "doors" } },
      { type: "web_search_tool_result", tool_use_id: "s", content: [{ title: "Doors", encrypted_content: "opaque" }] },
    ];
    const results = [
      {
        type: "tool_result",
        tool_use_id: "a",
        is_error: true,
        content: [{ type: "text", text: `${"x".repeat(9_000)}the end` }],
      },
      { type: "image", source: { type: "base64", media_type: "image/png", data: "AAAAAAAA" } },
      { type: "document", title: "Plan of the house", source: { type: "base64", data: "BBBBBBBB" } },
    ];
    const said = transcript(
      read(summaryBody(path(["Where?", calls, results, "There.", "Thanks"]), "m3", SUMMARY_MODEL)),
    );
    expect(said).toContain("[User]\nWhere?");
    expect(said).toContain('[Assistant]\nI\'ll look.\n[Calls the tool look with {"at":"door"}]');
    expect(said).toContain("Doors");
    expect(said).toContain("which failed");
    expect(said).toContain("characters left out …] ");
    expect(said).toContain("the end]");
    expect(said).toContain("[image]");
    expect(said).toContain("[document: Plan of the house]");
    expect(said).toContain("There.");
    expect(said).not.toMatch(/secret thought|opaque|AAAA|BBBB|Thanks/);
    expect(said.length).toBeLessThan(4_000);
  });

  it("begins with the summary of the cut before, and behind it", () => {
    const told = {
      strategy: "summarize",
      reason: "max_input_tokens",
      messages: 2,
      through: "m1",
      tokens_before: 9,
      tokens_after: 5,
      summary: null,
    } as const;
    const cut = { id: "c", through: "m1", turn: "t", summary: "They said one and two.", cut: told, createdAt: 0 };
    const said = transcript(read(summaryBody(path(["one", "two", "three", "four", "five"], cut), "m3", SUMMARY_MODEL)));
    expect(said).toMatch(/They said one and two\.[\s\S]*three[\s\S]*four/);
    expect(said).not.toMatch(/five|\[User\]\none/);
  });

  it("fits its model, however long the conversation was", () => {
    const long = path(Array.from({ length: 400 }, (_, i) => `${i} ${"字".repeat(5_000)}`));
    const body = summaryBody(long, "m399", "claude-haiku-4-5");
    expect(body.length).toBeLessThan(2 * 200_000);
    expect(body.length).toBeGreaterThan(200_000);
    const said = transcript(read(body));
    expect(said).toContain("[User]\n0 ");
    expect(said).toContain("[Assistant]\n399 ");
    expect(said).toMatch(/\[\d+ messages left out\]/);
  });
});

describe("readSummary", () => {
  const message = (more: Fields) =>
    JSON.stringify({ type: "message", content: [{ type: "thinking" }, { type: "text", text: " So. " }], ...more });

  it("reads the text of an answer", () => {
    expect(readSummary(message({}))).toBe("So.");
    expect(readSummary(message({ stop_reason: "max_tokens" }))).toBe("So.");
  });

  it.each([
    message({ stop_reason: "refusal" }),
    message({ content: [] }),
    message({ content: [{ type: "text", text: " " }] }),
    "{oops",
    "[]",
    '{"type":"error"}',
  ])("has none of %s", (answer) => {
    expect(readSummary(answer)).toBeNull();
  });
});
