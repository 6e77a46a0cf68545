/** What of an upload is hashed: all but its boundary. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { uploadBy, WithoutBoundary } from "../../src/answers/upload.ts";

/** Many line ends, and beginnings of delimiters. */
const text = fc.array(fc.constantFrom("\r", "\n", "-", "--", "\r\n--", "b", "bo", "x", "é"), { maxLength: 30 });
const boundaries = fc.constantFrom("b", "bo", "bob", "----formdata-undici-012345678901");

function without(boundary: string, pieces: readonly Uint8Array[]): string {
  const filter = new WithoutBoundary(boundary);
  const out = [...pieces.map((piece) => Buffer.from(filter.push(piece))), Buffer.from(filter.end())];
  return Buffer.concat(out).toString();
}

function cut(bytes: Uint8Array, sizes: readonly number[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let at = 0;
  for (const size of sizes) {
    pieces.push(bytes.subarray(at, at + size));
    at += size;
  }
  return [...pieces, bytes.subarray(at)];
}

const sizes = fc.array(fc.nat({ max: 9 }), { maxLength: 40 });

describe("an upload without its boundary", () => {
  it("is all of it but the boundary of each delimiter, however it is cut", () => {
    fc.assert(
      fc.property(text, boundaries, sizes, (parts, boundary, cuts) => {
        const body = parts.join("");
        const expected = `\r\n${body}`.replaceAll(`\r\n--${boundary}`, "\r\n--");
        expect(without(boundary, cut(Buffer.from(body), cuts))).toBe(expected);
      }),
      { numRuns: 2_000 },
    );
  });

  it("is the same for two boundaries that the content does not have, and another one for other content", () => {
    const form = (boundary: string, contents: readonly string[]): Uint8Array =>
      Buffer.from(
        `${contents.map((one) => `--${boundary}\r\ncontent-disposition: form-data; name="f"\r\n\r\n${one}\r\n`).join("")}--${boundary}--\r\n`,
      );
    fc.assert(
      fc.property(text, text, sizes, sizes, (one, other, cuts, otherCuts) => {
        const contents = [one.join(""), other.join("")];
        const first = without("BOUNDARY-1", cut(form("BOUNDARY-1", contents), cuts));
        expect(without("another one", cut(form("another one", contents), otherCuts))).toBe(first);
        expect(without("another one", [form("another one", [contents[0] ?? "", `${contents[1]}!`])])).not.toBe(first);
      }),
    );
  });
});

describe("how an upload can be read", () => {
  const by = (type: string, length = "12") =>
    uploadBy(
      new Map([
        ["content-type", type],
        ["content-length", length],
      ]),
    );

  it("is said by its headers", () => {
    for (const [type, boundary] of [
      ["multipart/form-data; boundary=----formdata-undici-04", "----formdata-undici-04"],
      ['Multipart/Form-Data;charset=utf-8; Boundary="a b;c"', "a b;c"],
      ["multipart/form-data;boundary=x; charset=utf-8", "x"],
      ["multipart/form-data; boundary=0'()+_,-./:=?", "0'()+_,-./:=?"],
    ] as const) {
      expect([type, by(type)]).toEqual([type, { boundary, bytes: 12 }]);
    }
  });

  it("or is not known", () => {
    for (const type of [
      "multipart/form-data",
      "multipart/form-data; boundary=",
      'multipart/form-data; boundary=""',
      `multipart/form-data; boundary=${"x".repeat(71)}`,
      "application/json; boundary=x",
      "multipart/form-data; xboundary=x",
    ]) {
      expect([type, by(type)]).toEqual([type, null]);
    }
    expect(by("multipart/form-data; boundary=x", "")).toBeNull();
    expect(uploadBy(new Map([["content-type", "multipart/form-data; boundary=x"]]))).toBeNull();
  });
});
