/** What is told of the difference of two versions, and how templates are shown. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { diffLines, diffVersions } from "../../src/templates/diff.ts";
import { diffView, templateView, versionView } from "../../src/templates/views.ts";
import { expectLinear } from "../support/processor-time.ts";
import { saved } from "./drafts.ts";

describe("a difference", () => {
  it("is told by field, with what was and what is", () => {
    const before = saved({
      system: "One\ntwo\nthree",
      messages: [{ role: "user", content: [{ type: "text", text: "Hi" }] }],
    });
    const after = saved({
      max_tokens: 200,
      system: "One\n2\nthree",
      messages: [
        {
          role: "user",
          content: [
            { type: "text", text: "Ho" },
            { type: "text", text: "!" },
          ],
        },
      ],
      defaults: { top_k: 1 },
    });
    expect(diffVersions(before, before)).toEqual([]);
    expect(diffVersions(before, after)).toEqual([
      { path: "max_tokens", change: "changed", before: 100, after: 200 },
      {
        path: "system",
        change: "changed",
        before: "One\ntwo\nthree",
        after: "One\n2\nthree",
        lines: [
          { op: "same", text: "One" },
          { op: "removed", text: "two" },
          { op: "added", text: "2" },
          { op: "same", text: "three" },
        ],
      },
      { path: "messages.0.content.0.text", change: "changed", before: "Hi", after: "Ho" },
      { path: "messages.0.content.1", change: "added", after: { type: "text", text: "!" } },
      { path: "defaults.top_k", change: "added", after: 1 },
    ]);
  });

  it("of lines gives both texts again", () => {
    const text = fc.array(fc.constantFrom("a", "b", "c", ""), { maxLength: 12 }).map((lines) => lines.join("\n"));
    fc.assert(
      fc.property(text, text, (before, after) => {
        const lines = diffLines(before, after);
        const side = (op: string) =>
          lines
            .filter((line) => line.op !== op)
            .map((line) => line.text)
            .join("\n");
        expect(side("added")).toBe(before);
        expect(side("removed")).toBe(after);
        if (before === after) expect(lines.every(({ op }) => op === "same")).toBe(true);
      }),
    );
  });

  it("of large texts takes time in proportion to them", () => {
    const text = (word: string, lines: number) => Array.from({ length: lines }, (_, i) => `${word}${i}`).join("\n");
    expectLinear((lines) => expect(diffLines(text("a", lines), text("b", lines))).toHaveLength(2 * lines), 50_000);
  });
});

describe("a view", () => {
  const times = { created_at: 0, updated_at: 86_400_000 };
  const labels = { canary: [{ version: 2, weight: 1 }], production: 1 };

  it("is in snake_case, with times in RFC 3339", () => {
    const record = { name: "a", workspaces: null, state: "active", labels, newest: 2, revision: 5, ...times } as const;
    expect(templateView(record)).toEqual({
      name: "a",
      workspaces: null,
      state: "active",
      labels,
      newest_version: 2,
      revision: 5,
      created_at: "1970-01-01T00:00:00.000Z",
      updated_at: "1970-01-02T00:00:00.000Z",
    });
    const content = saved({ system: "x" });
    const version = { name: "a", version: 2, content, note: null, created_by: "admin", created_at: 0 };
    expect(versionView(version, labels)).toMatchObject({
      labels: ["canary"],
      content,
      created_at: "1970-01-01T00:00:00.000Z",
    });
    expect(diffView("a", 1, 2, [])).toEqual({ name: "a", from_version: 1, to_version: 2, differences: [] });
  });
});
