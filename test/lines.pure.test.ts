/** Bytes cut into lines. */
import fc from "fast-check";
import { expect, it } from "vitest";
import { LineSplitter } from "../src/lines.ts";

const MAX = 20;

it("R-01 gives the same lines however the bytes are cut, and none that is too long (2,000 streams)", () => {
  const line = fc.string({ unit: "binary", maxLength: 15 }).map((text) => text.replace(/\s/gu, "_"));
  fc.assert(
    fc.property(fc.array(line), fc.boolean(), fc.array(fc.integer({ min: 1, max: 9 })), (lines, closed, cuts) => {
      const text = lines.join("\n") + (closed ? "\n" : "");
      const bytes = new TextEncoder().encode(text);
      const reader = new LineSplitter(MAX);
      const found: (string | null)[] = [];
      const see = (line: Uint8Array | null) => found.push(line && new TextDecoder().decode(line));
      const buffer = new Uint8Array(16);
      for (let at = 0, n = 0; at < bytes.length; n++) {
        const piece = bytes.subarray(at, at + (cuts[n % Math.max(1, cuts.length)] ?? 7));
        // The reader must not keep what it was lent.
        buffer.set(piece);
        for (const each of reader.push(buffer.subarray(0, piece.length))) see(each);
        buffer.fill(0);
        at += piece.length;
      }
      see(reader.end());
      expect(found).toEqual(
        text.split("\n").map((line) => (new TextEncoder().encode(line).length > MAX ? null : line)),
      );
    }),
    { numRuns: 2_000 },
  );
});
