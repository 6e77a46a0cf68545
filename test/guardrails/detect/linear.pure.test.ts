import { describe, it } from "vitest";
import { DETECTED_TYPES, detect, type OwnPattern, parsePattern } from "../../../src/guardrails/detect/detect.ts";
import { expectLinear } from "../../support/processor-time.ts";
import { HOSTILE, KEYWORDS, OWN_SOURCES } from "./hostile.ts";

const SIZE = 200_000;

function expectLinearOver(
  unit: string,
  size = SIZE,
  types: readonly string[] = DETECTED_TYPES,
  own: readonly OwnPattern[] = [],
): void {
  const text = unit.repeat(Math.ceil(size / unit.length));
  expectLinear((chars) => detect(text.slice(0, chars), types, own), size, unit);
}

const ownPattern = (source: string, name: string): OwnPattern => {
  const pattern = parsePattern(source);
  if (!pattern.ok) throw new Error(`${source}: ${pattern.error}`);
  return { name, pattern: pattern.value };
};

describe("D-09: time is linear", () => {
  it.each(HOSTILE)("200 kB of %j", (unit) => expectLinearOver(unit));

  it.each([
    ["each", KEYWORDS.join("")],
    ["each, parted", KEYWORDS.join(" ")],
    ["each, assigned", KEYWORDS.join("=")],
    ["each, as a token's beginning", KEYWORDS.map((keyword) => `${keyword}a1B2`).join("-")],
  ])("200 kB of keywords: %s", (_, unit) => expectLinearOver(unit));

  it("5 kB of every single keyword", () => {
    for (const keyword of KEYWORDS) for (const tail of ["-", "=a1B2"]) expectLinearOver(keyword + tail, 5_000);
  });

  it("twenty patterns of one's own beside all types", () => {
    const own = OWN_SOURCES.map((source, index) => ownPattern(source, `OWN_${index}`));
    for (const unit of ["deadbeef", "a@", "1 ", "end "]) expectLinearOver(unit, SIZE, DETECTED_TYPES, own);
  });

  it.each([
    ["[ab]*c|[ab]+d", "ab"],
    ["[ab]*(?:c|dd)", `${"ab".repeat(60)}d`],
    [".{1,125}Z", "张"],
    [".*end", "deadbeef"],
    ["a|a.{126}b", "a"],
    ["(?:a.{3}){4}b", "ab"],
  ])("a pattern of one's own: 200 kB for %s", (source, unit) =>
    expectLinearOver(unit, SIZE, [], [ownPattern(source, "OWN")]),
  );
});
