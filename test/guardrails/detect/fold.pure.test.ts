import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { fold } from "../../../src/guardrails/detect/detect.ts";

/** What is written, and what it is read as. */
const PIECES: readonly (readonly [string, string])[] = [
  ["a", "a"],
  ["Ａ", "A"],
  ["７", "7"],
  ["%40", "@"],
  ["%252540", "@"],
  ["\\n", "\n"],
  ['\\"', '"'],
  ["\\u0040", "@"],
  ["\\d", "\\d"],
  ["%", "%"],
  ["%4", "%4"],
  ["а", "a"],
  ["𝐛", "b"],
  ["𝟗", "9"],
  ["张", "张"],
  ["😀", "😀"],
  ["\u200b", ""],
  ["\ufe0f", ""],
  ["\u{e0041}", ""],
  ["\u0301", ""],
  ["\u3000", " "],
  ["\ufdfa", "\ufdfa"],
];

describe("folding", () => {
  it("reads every piece as what it stands for, and leads back to exactly where it stands", () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...PIECES), { maxLength: 60 }), (pieces) => {
        // Pieces that would join into another one are kept apart.
        const parts = pieces.flatMap((piece) => [piece, ["-", "-"] as const]);
        const text = parts.map(([written]) => written).join("");
        const folded = fold(text);
        expect(folded.text).toBe(parts.map(([, read]) => read).join(""));
        let at = 0;
        let place = 0;
        for (const [written, read] of parts) {
          if (read !== "") {
            expect(folded.start(at)).toBe(place);
            if (read.length === 1)
              expect(folded.end(at + 1)).toBe(
                place + written.length + (text[place + written.length] === "\u0301" ? 1 : 0),
              );
          }
          at += read.length;
          place += written.length;
        }
      }),
      { numRuns: 300 },
    );
  });

  it("is the text itself where nothing hides", () => {
    const text = "plain ASCII, 100 % of it";
    expect(fold(text).text).toBe(text);
    expect(fold(text).start(7)).toBe(7);
  });

  it("N-06: combining marks and U+FDFA blow nothing up", () => {
    expect(fold("\u0301".repeat(1_000_000)).text).toBe("");
    expect(fold(`a${"\u0301".repeat(1_000_000)}b`).end(1)).toBe(1_000_001);
    expect(fold("\ufdfa".repeat(100_000)).text).toHaveLength(100_000);
  });

  it("is never longer than its text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 200 }), (text) => {
        const folded = fold(text);
        expect(folded.text.length).toBeLessThanOrEqual(text.length);
        expect(folded.end(folded.text.length)).toBeLessThanOrEqual(text.length);
      }),
    );
  });
});
