/** The many ways in which one JSON value can be written. */
import fc from "fast-check";

/**
 * Without a backslash: where one object has had it for a name, V8's `JSON.parse` (13.6) takes the name `"` of the next
 * one for it too, and the tests hold this room's own reading against that one.
 */
const names = fc
  .oneof(fc.string({ maxLength: 6 }), fc.constantFrom("a", "b", "é", "e\u0301", "__proto__", '"', "😀"))
  .filter((name) => !name.includes("\\"));
const texts = fc.oneof(names, fc.string(), fc.constantFrom("\\", '\\"', "\\u0041", "/", "\u2028", "\ud800"));

/** Values as JSON knows them, with names and texts that are easily mistaken for one another. */
export const jsonTexts: fc.Arbitrary<unknown> = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    fc.constantFrom(null, true, false, 0, 1, -1, 10, 1.5, 1e21, 1e-7, 123456789),
    texts,
    fc.integer(),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.array(tie("value"), { maxLength: 4 }),
    // Made by parsing, so that `__proto__` is a member like any other.
    fc
      .uniqueArray(fc.tuple(names, tie("value")), { maxLength: 4, selector: ([name]) => name })
      .map((members) => objectOf(members)),
  ),
})).value;

function objectOf(members: readonly (readonly [string, unknown])[]): unknown {
  const object = {};
  for (const [name, value] of members) {
    Object.defineProperty(object, name, { value, enumerable: true, configurable: true, writable: true });
  }
  return object;
}

/** The value as JSON text, with members in any order, any space, any escapes and any form of each number. */
export function spelled(value: unknown, choices: Iterable<number>): string {
  const numbers = choices[Symbol.iterator]();
  const choose = (count: number): number => Number(numbers.next().value) % count;
  const space = (): string => ["", "", " ", "\n\t", "\r "][choose(5)] ?? "";
  const text = (of: string): string =>
    `"${[
      ...JSON.stringify(of)
        .slice(1, -1)
        .matchAll(/\\u....|\\.|./gsu),
    ]
      .map(([piece]) => {
        if (piece === "/" && choose(2) === 1) return "\\/";
        if (piece.startsWith("\\") || choose(3) > 0) return piece;
        return Array.from(
          { length: piece.length },
          (_, i) => `\\u${piece.charCodeAt(i).toString(16).padStart(4, "0")}`,
        ).join("");
      })
      .join("")}"`;
  const number = (of: number): string => {
    const plain = JSON.stringify(of);
    if (/[.e]/.test(plain))
      return [plain, plain.toUpperCase(), plain.includes("e") ? plain : `${plain}00`][choose(3)] ?? "";
    const tenth = of === 0 ? "0E-1" : `${plain}0E-1`;
    return [plain, `${plain}.0`, `${plain}e0`, tenth, `${plain}.000e+0`][choose(5)] ?? "";
  };
  const write = (of: unknown): string => {
    if (typeof of === "string") return text(of);
    if (typeof of === "number") return number(of);
    if (Array.isArray(of)) return `[${space()}${of.map((one) => write(one) + space()).join(`,${space()}`)}]`;
    if (typeof of !== "object" || of === null) return JSON.stringify(of);
    const members = Object.entries(of).map(
      ([name, one]) => `${text(name)}${space()}:${space()}${write(one)}${space()}`,
    );
    for (let i = members.length - 1; i > 0; i--) {
      const j = choose(i + 1);
      [members[i], members[j]] = [members[j] ?? "", members[i] ?? ""];
    }
    return `{${space()}${members.join(`,${space()}`)}}`;
  };
  return space() + write(value) + space();
}
