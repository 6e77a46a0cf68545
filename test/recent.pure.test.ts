/** What is remembered up to a bound. */
import fc from "fast-check";
import { expect, it } from "vitest";
import { Recent } from "../src/recent.ts";

const MOST = 3;
const HEAVIEST = 10;

it("remembers the newest, as many and as much of them as may be (2,000 lives)", () => {
  const step = fc.record({
    do: fc.constantFrom("set", "set", "set", "use", "get", "delete"),
    name: fc.constantFrom("a", "b", "c", "d", "e"),
    weight: fc.integer({ min: 0, max: HEAVIEST + 1 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const remembered = new Recent<number>(MOST, HEAVIEST);
      /** The oldest first. */
      let all: { name: string; value: number; weight: number }[] = [];
      for (const [value, { do: what, name, weight }] of steps.entries()) {
        const known = all.find((entry) => entry.name === name);
        const others = all.filter((entry) => entry !== known);
        if (what === "get") expect(remembered.get(name)).toBe(known?.value);
        else if (what === "use") {
          expect(remembered.use(name)).toBe(known?.value);
          all = known ? [...others, known] : all;
        } else if (what === "delete") {
          remembered.delete(name);
          all = others;
        } else {
          remembered.set(name, value, weight);
          all = [...others, { name, value, weight }];
          while (all.length > MOST || all.reduce((sum, entry) => sum + entry.weight, 0) > HEAVIEST) all.shift();
        }
        expect(remembered.size).toBe(all.length);
      }
      for (const { name, value } of all) expect(remembered.get(name)).toBe(value);
    }),
    { numRuns: 2_000 },
  );
});
