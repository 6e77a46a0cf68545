import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { textOf } from "../../src/guardrails/apply/json-text.ts";
import { DETECTED_TYPES, detect } from "../../src/guardrails/detect/detect.ts";
import type { Detect } from "../../src/guardrails/detector.ts";
import { MAX_VALUES, MAX_WRITTEN, PlaceholderTable } from "../../src/guardrails/table.ts";
import { textsOf } from "../../src/guardrails/texts.ts";
import { unmaskText } from "../../src/guardrails/unmask.ts";
import { bytesOf, jsonBytes, maskBody, nothing, standIn, textOfBytes } from "./stand-in.ts";

function masked(json: string, table = new PlaceholderTable()): string {
  return textOfBytes(maskBody(bytesOf(json), standIn, table).bytes);
}
const user = (text: string): string => JSON.stringify({ messages: [{ role: "user", content: text }] });

/** The same text, with some of its characters written as escapes. */
function spelled(text: string, escapes: readonly number[]): string {
  let json = "";
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    const choice = escapes[i % Math.max(1, escapes.length)] ?? 0;
    // A character of two units is written in one way.
    const isHalf = (unit & 0xf800) === 0xd800;
    const mustEscape = unit < 0x20 || unit === 0x22 || unit === 0x5c;
    if (isHalf && (unit & 0xfc00) === 0xd800 && choice % 2 === 0 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00) {
      json += text.slice(i, i + 2);
      i++;
    } else if (isHalf || mustEscape || choice % 3 === 1) json += `\\u${unit.toString(16).padStart(4, "0")}`;
    else json += text[i];
  }
  return `"${json}"`;
}

const value = fc.constantFrom("jane@doe.org", "JANE@doe.org", "joé@ex.com", "😀x@ex.com", "123-45-6789", "987-65-4321");
const filler = fc.oneof(
  fc.string({ unit: "binary", maxLength: 12 }),
  fc.constantFrom(" ", "\n", '"', "\\", "é", "😀", "[EMAIL_1]", "[EMAIL_2]", "\\[US_SSN_1\\]", "[", "\ud800"),
);
const text = fc.array(fc.oneof(value, filler), { maxLength: 8 }).map((parts) => parts.join(" "));
const json = fc
  .array(
    fc.tuple(
      text,
      fc.array(fc.nat(5), { maxLength: 7 }),
      fc.constantFrom("text", "t\\u0065xt", "data", "thinking", "id"),
    ),
    {
      maxLength: 6,
    },
  )
  .map((strings) => {
    const blocks = strings.map(([words, escapes, key]) => `{ "type":"text", "${key}":${spelled(words, escapes)} }`);
    return `{"model":"a@b.org","messages":[{"content":[${blocks.join(" , ")}],"content" : "x@y.org"}] , "metadata":{"user_id":"a@b.org"}}`;
  });

describe("maskBody", () => {
  it("leaves every byte outside of the masked spans as it came, and says the same once values are put back", () => {
    fc.assert(
      fc.property(json, (body) => {
        const bytes = bytesOf(body);
        const table = new PlaceholderTable();
        const { bytes: after, counts } = maskBody(bytes, standIn, table);
        const before = textsOf(bytes, "messages");
        const now = textsOf(after, "messages");
        expect(now.length).toBe(before.length);
        // Between the texts, to the byte; inside of them, text for placeholder.
        let [atBefore, atNow] = [0, 0];
        let found = 0;
        for (const [i, span] of before.entries()) {
          const other = now[i] ?? { start: 0, end: 0 };
          expect(after.subarray(atNow, other.start)).toEqual(bytes.subarray(atBefore, span.start));
          const [was, is] = [textOf(bytes, span.start, span.end), textOf(after, other.start, other.end)];
          const findings = standIn(was);
          found += findings.length;
          let rebuilt = "";
          let at = 0;
          for (const { start, end, type } of findings) {
            rebuilt += was.slice(at, start) + table.placeholderFor(type, was.slice(start, end));
            at = end;
          }
          expect(is).toBe(rebuilt + was.slice(at));
          expect(standIn(is)).toEqual([]);
          [atBefore, atNow] = [span.end, other.end];
        }
        expect(after.subarray(atNow)).toEqual(bytes.subarray(atBefore));
        expect(Object.values(counts).reduce((sum, n) => sum + n, 0)).toBe(found);
      }),
      { numRuns: 1_000 },
    );
  });

  it("splices raw bytes: what stands beside a masked span keeps its spelling", () => {
    const before = '{"system":"caf\\u00e9 \\ud83d\\ude00 jane@doe.org \\/ \\u00E9 é"}';
    expect(masked(before)).toBe('{"system":"caf\\u00e9 \\ud83d\\ude00 [EMAIL_1] \\/ \\u00E9 é"}');
    expect(masked('{"system":"😀 jo\\u00e9\\u0040\\u0065x.com \\ud83d\\ude00"}')).toBe(
      '{"system":"😀 [EMAIL_1] \\ud83d\\ude00"}',
    );
  });

  it("gives back the very bytes in which nothing was found", () => {
    fc.assert(
      fc.property(json, (body) => {
        const bytes = bytesOf(body);
        expect(maskBody(bytes, nothing, new PlaceholderTable()).bytes).toBe(bytes);
      }),
      { numRuns: 100 },
    );
  });

  it("takes a character of two units as a whole, wherever a finding cuts it", () => {
    const halves = (_text: string) => [
      { start: 1, end: 2, type: "EMAIL" },
      { start: 2, end: 4, type: "EMAIL" },
    ];
    const table = new PlaceholderTable();
    const { bytes } = maskBody(jsonBytes({ system: "a😀bc" }), halves, table);
    expect(textOfBytes(bytes)).toBe('{"system":"a[EMAIL_1][EMAIL_2]c"}');
    expect(unmaskText("a[EMAIL_1][EMAIL_2]c", table)).toBe("a😀bc");
    for (const [start, end] of [
      [1, 2],
      [2, 3],
    ] as const) {
      const one = new PlaceholderTable();
      maskBody(jsonBytes({ system: "a😀bc" }), () => [{ start, end, type: "EMAIL" }], one);
      expect(one.valueOf("EMAIL_1")).toBe("😀");
    }
  });

  it("only counts what it is told not to mask", () => {
    const body = jsonBytes({ system: "jane@doe.org 123-45-6789" });
    const { bytes, counts } = maskBody(body, standIn, new PlaceholderTable(), (type) => type === "US_SSN");
    expect(textOfBytes(bytes)).toBe('{"system":"jane@doe.org [US_SSN_1]"}');
    expect(counts).toEqual({ EMAIL: 1, US_SSN: 1 });
  });

  it("masks both occurrences of a field that occurs twice (N-02)", () => {
    expect(masked('{"system":"clean","system":"a@b.org"}')).toBe('{"system":"clean","system":"[EMAIL_1]"}');
    expect(masked('{"system":"a@b.org","system":"clean"}')).toBe('{"system":"[EMAIL_1]","system":"clean"}');
  });

  it("takes any JSON value for a body without an exception", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 8 }), (value) => {
        const bytes = jsonBytes(value);
        JSON.parse(textOfBytes(maskBody(bytes, standIn, new PlaceholderTable()).bytes));
      }),
      { numRuns: 300 },
    );
    const deep = bytesOf(`{"messages":${"[".repeat(5_000)}"a@b.org"${"]".repeat(5_000)}}`);
    expect(textOfBytes(maskBody(deep, standIn, new PlaceholderTable()).bytes)).toContain('"[EMAIL_1]"');
  });
});

describe("PlaceholderTable", () => {
  it.each([
    ["EMAIL", "Jane@Doe.org", "jane@doe.ORG"],
    ["EMAIL", "jane@doe.org", "jane%40doe.org"],
    ["EMAIL", "jane@doe.org", "ｊane＠doe.org"],
    ["CREDIT_CARD", "4111 1111 1111 1111", "4111-1111-1111-1111"],
    ["IBAN", "DE89 3704 0044 0532 0130 00", "de89370400440532013000"],
    ["IP", "2001:DB8::1", "2001:db8::1"],
    ["SECRET", "00FFAA", "00ffaa"],
    ["PHONE", "+1 (555) 010-9999", "+1\u200b555.010.9999"],
  ])("knows %s %s again as %s", (type, value, other) => {
    const table = new PlaceholderTable();
    expect(table.placeholderFor(type, value)).toBe(`[${type}_1]`);
    expect(table.placeholderFor(type, other)).toBe(`[${type}_1]`);
    expect(table.valueOf(`${type}_1`)).toBe(value);
  });

  it("tells secrets apart by their case, and types by themselves", () => {
    const table = new PlaceholderTable();
    const names = [
      ["SECRET", "sk-Abc"],
      ["SECRET", "sk-aBc"],
      ["EMAIL", "sk-Abc"],
    ].map(([type = "", value = ""]) => table.placeholderFor(type, value));
    expect(names).toEqual(["[SECRET_1]", "[SECRET_2]", "[EMAIL_1]"]);
  });

  it("numbers by first occurrence, and leaves out what somebody has written himself, anywhere in the body", () => {
    const table = new PlaceholderTable();
    expect(masked(user("b@x.org a@x.org b@x.org, not [EMAIL_1] nor \\[EMAIL\\_3\\], but EMAIL_2"), table)).toBe(
      user("[EMAIL_2] [EMAIL_4] [EMAIL_2], not [EMAIL_1] nor \\[EMAIL\\_3\\], but EMAIL_2"),
    );
    expect(unmaskText("[EMAIL_1] [EMAIL_3]", table)).toBe("[EMAIL_1] [EMAIL_3]");
  });

  it("numbers a body that has grown by answers as it did before, placeholders that they repeat included", () => {
    const turns = [
      { role: "user", content: "a@x.org" },
      {
        role: "assistant",
        content: [
          { type: "text", text: "[EMAIL_1]? I call for it." },
          { type: "tool_use", input: { to: "[EMAIL_1] [EMAIL_2]" } },
        ],
      },
      { content: [{ content: [{ type: "text", text: "[EMAIL_1]: unknown" }], type: "tool_result" }], role: "user" },
      { content: "[EMAIL_1] it is", role: "assistant" },
      { role: "user", content: "then b@x.org" },
    ];
    const all = JSON.parse(masked(JSON.stringify({ messages: turns }))).messages;
    expect(all.map(({ content }: { content: unknown }) => content)).toEqual([
      "[EMAIL_1]",
      ...turns.slice(1, 4).map(({ content }) => content),
      // The model has made up a second one, which nobody's value is to be taken for.
      "then [EMAIL_3]",
    ]);
    for (let count = 1; count < turns.length; count++) {
      const some = JSON.parse(masked(JSON.stringify({ messages: turns.slice(0, count) }))).messages;
      expect(some).toEqual(all.slice(0, count));
    }
  });

  it("keeps its placeholders, and those it must not give, over a conversation", () => {
    const first = new PlaceholderTable();
    masked(user("a@x.org [EMAIL_2]"), first);
    const kept = PlaceholderTable.from(JSON.parse(JSON.stringify(first.data)));
    expect(masked(user("b@x.org A@x.org c@x.org"), kept)).toBe(user("[EMAIL_3] [EMAIL_1] [EMAIL_4]"));
    expect(kept.data.values).toEqual([
      ["EMAIL_1", "a@x.org"],
      ["EMAIL_3", "b@x.org"],
      ["EMAIL_4", "c@x.org"],
    ]);
  });

  it("does not give what another table has", () => {
    const first = new PlaceholderTable();
    first.placeholderFor("EMAIL", "a@x.org");
    expect(new PlaceholderTable(first).placeholderFor("EMAIL", "b@x.org")).toBe("[EMAIL_2]");
  });

  it("is bounded: beyond its limit a value has a placeholder without a number", () => {
    const table = new PlaceholderTable();
    for (let i = 0; i < MAX_VALUES; i++) table.placeholderFor("EMAIL", `${i}@x.org`);
    expect(table.placeholderFor("EMAIL", "one@more.org")).toBe("[EMAIL]");
    expect(table.placeholderFor("EMAIL", "7@x.org")).toBe("[EMAIL_8]");
    expect(table.size).toBe(MAX_VALUES);
    const long = new PlaceholderTable();
    expect(long.placeholderFor("SECRET", "x".repeat(1024 * 1024))).toBe("[SECRET]");
    const flooded = Array.from({ length: MAX_WRITTEN + 2 }, (_, n) => `[EMAIL_${n}]`).join("");
    expect(masked(user(`${flooded} a@x.org`))).toBe(user(`${flooded} [EMAIL]`));
  });
});

describe("a string that is looked through in pieces", () => {
  const MEGABYTE = 1024 * 1024;
  /** A text with `middle` so many characters from where the first piece ends. */
  const around = (at: number, middle: string): string =>
    `${"word ".repeat(MEGABYTE / 5).slice(0, MEGABYTE + at - 1)} ${middle} ${"word ".repeat(60_000)}`;
  const detectAll: Detect = (text) => detect(text, DETECTED_TYPES);
  const maskedBy = (system: string): unknown =>
    JSON.parse(textOfBytes(maskBody(jsonBytes({ system }), detectAll, new PlaceholderTable()).bytes)).system;

  it("has every value masked that stands where pieces meet, once", () => {
    for (let at = -24; at <= 8; at += 4) {
      const text = around(at, "jane@doe.org 4111 1111 1111 1111");
      expect(maskedBy(text) === around(at, "[EMAIL_1] [CREDIT_CARD_1]")).toBe(true);
    }
  });

  it("has a secret masked to its end that is longer than what is shown behind a piece", () => {
    const lines = Array.from({ length: 400 }, (_, n) => `MIIEvQIBADANBgkqhkiG9w0B${n}`).join("\n");
    const key = `-----BEGIN PRIVATE KEY-----\n${lines}\n-----END PRIVATE KEY-----`;
    const token = `eyJhbGciOiJIUzI1NiJ9.eyJ${"aB3-xY9_".repeat(25_000)}.x1Y2z3`;
    for (const secret of [key, token]) {
      for (const at of [-10_000, -5]) expect(maskedBy(around(at, secret)) === around(at, "[SECRET_1]")).toBe(true);
    }
  });

  it("cuts through no escape and no character", () => {
    const values = Array.from({ length: 70_000 }, (_, n) => `é😀\u4e2d x${n}@ex.com`).join("\n");
    const escaped = JSON.stringify({ system: values }).replaceAll("中", "\\u4e2d").replaceAll("😀", "\\ud83d\\ude00");
    for (const body of [JSON.stringify({ system: values }), escaped]) {
      const { bytes, counts } = maskBody(bytesOf(body), standIn, new PlaceholderTable());
      expect(counts).toEqual({ EMAIL: 70_000 });
      const { system } = JSON.parse(textOfBytes(bytes)) as { system: string };
      expect(system.startsWith("é😀中 [EMAIL_1]\né😀中 [EMAIL_2]\n")).toBe(true);
      expect(system).not.toContain("@");
      expect(bytesOf(body).length).toBeGreaterThan(MEGABYTE);
    }
  });
});
