import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { csvRow } from "../../src/admin/csv.ts";

/** A reader by RFC 4180, written apart from the writer. */
function readCsv(text: string): string[][] {
  const rows: string[][] = [];
  let row: string[] = [];
  let at = 0;
  while (at < text.length) {
    let cell = "";
    if (text[at] === '"') {
      for (at++; ; at++) {
        if (at >= text.length) throw new Error("quote left open");
        if (text[at] !== '"') cell += text[at];
        else if (text[at + 1] === '"') cell += text[at++];
        else break;
      }
      at++;
    } else {
      while (at < text.length && text[at] !== "," && text[at] !== "\r") {
        if (text[at] === '"' || text[at] === "\n") throw new Error("bare quote or line feed");
        cell += text[at++];
      }
    }
    row.push(cell);
    if (text[at] === ",") at++;
    else if (text.startsWith("\r\n", at)) {
      rows.push(row);
      row = [];
      at += 2;
    } else throw new Error(`what comes after a cell at ${at}?`);
  }
  return rows;
}

const text = fc.oneof(fc.string(), fc.string({ unit: fc.constantFrom(...'=+-@\t\r\n",a ;|') }));

describe("csvRow", () => {
  it("is read back as it was written, but for the apostrophe before a formula", () => {
    fc.assert(
      fc.property(fc.array(text, { minLength: 2, maxLength: 6 }), (cells) => {
        const [row] = readCsv(csvRow(cells));
        expect(row).toEqual(cells.map((cell) => (/^[=+\-@\t\r]/.test(cell) ? `'${cell}` : cell)));
      }),
      { numRuns: 2_000 },
    );
  });

  it("V-06 lets no cell begin like a formula", () => {
    fc.assert(
      fc.property(fc.array(text, { minLength: 2 }), (cells) => {
        for (const cell of readCsv(csvRow(cells))[0] ?? []) expect(cell).not.toMatch(/^[=+\-@\t\r]/);
      }),
      { numRuns: 2_000 },
    );
  });

  it.each([
    ['=HYPERLINK("http://evil","x")', `"'=HYPERLINK(""http://evil"",""x"")"\r\n`],
    ["+1", "'+1\r\n"],
    ["-1", "'-1\r\n"],
    ["@SUM(A1)", "'@SUM(A1)\r\n"],
    ["\t=1", "'\t=1\r\n"],
    ["\r=1", `"'\r=1"\r\n`],
    ["a=1", "a=1\r\n"],
    [-5, "-5\r\n"],
    [true, "true\r\n"],
    [null, "\r\n"],
  ])("writes %j as %j", (cell, line) => {
    expect(csvRow([cell])).toBe(line);
  });
});
