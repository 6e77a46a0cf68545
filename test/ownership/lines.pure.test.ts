/** Bytes cut into lines. */
import fc from "fast-check";
import { expect, it } from "vitest";
import { LineReader } from "../../src/ownership/lines.ts";

const MAX = 20;

it("R-01 gives the same lines however the bytes are cut, and skips the long ones (2,000 streams)", () => {
  const line = fc.string({ unit: "binary", maxLength: 15 }).map((text) => text.replace(/\s/gu, "_"));
  fc.assert(
    fc.property(fc.array(line), fc.boolean(), fc.array(fc.integer({ min: 1, max: 9 })), (lines, closed, cuts) => {
      const bytes = new TextEncoder().encode(lines.join("\n") + (closed ? "\n" : ""));
      const reader = new LineReader(MAX);
      const found: string[] = [];
      const buffer = new Uint8Array(16);
      for (let at = 0, n = 0; at < bytes.length; n++) {
        const piece = bytes.subarray(at, at + (cuts[n % Math.max(1, cuts.length)] ?? 7));
        // The reader must not keep what it was lent.
        buffer.set(piece);
        found.push(...reader.push(buffer.subarray(0, piece.length)));
        buffer.fill(0);
        at += piece.length;
      }
      found.push(...reader.end());
      const sizes = lines.map((text) => new TextEncoder().encode(text).length);
      expect(found).toEqual(lines.filter((text, i) => text !== "" && (sizes[i] ?? 0) <= MAX));
      expect(reader.skipped).toBe(sizes.filter((size) => size > MAX).length);
    }),
    { numRuns: 2_000 },
  );
});
