/** Rendezvous hashing: nobody moves but those who have to. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { hasModel, ranked } from "../../src/upstream/choice.ts";

const upstream = fc.record({
  id: fc.string({ minLength: 1, maxLength: 12 }),
  weight: fc.integer({ min: 1, max: 1_000 }),
});
const pool = fc.uniqueArray(upstream, { selector: ({ id }) => id, minLength: 1, maxLength: 8 });
const ids = (list: readonly { id: string }[]): string[] => list.map(({ id }) => id);

describe("the order in which a conversation prefers upstreams", () => {
  it("has each of them once, and is the same whatever order they come in", () => {
    fc.assert(
      fc.property(pool, fc.string(), (all, affinity) => {
        const order = ids(ranked(affinity, all));
        expect(order.toSorted()).toEqual(ids(all).toSorted());
        expect(ids(ranked(affinity, all.toReversed()))).toEqual(order);
      }),
    );
  });

  it("without one of them is the same but for that one", () => {
    fc.assert(
      fc.property(pool, fc.string(), fc.nat(), (all, affinity, n) => {
        const gone = all[n % all.length]?.id;
        const order = ids(ranked(affinity, all)).filter((id) => id !== gone);
        expect(
          ids(
            ranked(
              affinity,
              all.filter(({ id }) => id !== gone),
            ),
          ),
        ).toEqual(order);
      }),
    );
  });

  it("never lets one fall back for more weight", () => {
    fc.assert(
      fc.property(pool, fc.string(), fc.nat(), (all, affinity, n) => {
        const id = all[n % all.length]?.id ?? "";
        const heavier = all.map((one) => (one.id === id ? { ...one, weight: one.weight * 2 } : one));
        expect(ids(ranked(affinity, heavier)).indexOf(id)).toBeLessThanOrEqual(ids(ranked(affinity, all)).indexOf(id));
      }),
    );
  });

  it.each([[[1, 1, 1]], [[1, 3]], [[100, 10, 1]], [[1_000, 1_000, 1]]])("gives each its share: %j", (weights) => {
    const all = weights.map((weight, n) => ({ id: `up_${n}`, weight }));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const draws = 20_000;
    const first = new Map<string, number>();
    for (let n = 0; n < draws; n++) {
      const id = ranked(`session-${n}`, all)[0]?.id ?? "";
      first.set(id, (first.get(id) ?? 0) + 1);
    }
    for (const { id, weight } of all) {
      const share = weight / total;
      // Five standard deviations.
      const tolerance = 5 * Math.sqrt((share * (1 - share)) / draws) + 1 / draws;
      expect(Math.abs((first.get(id) ?? 0) / draws - share)).toBeLessThan(tolerance);
    }
  });
});

it.each([
  [null, "any", true],
  [["a"], null, true],
  [["a"], "a", true],
  [["a"], "ab", false],
  [["a*"], "ab", true],
  [["a*"], "a", true],
  [["a*"], "ba", false],
  [["a", "b*"], "bc", true],
  [["*"], "any", true],
])("a list %j and a model %s: %s", (list, model, has) => {
  expect(hasModel(list, model)).toBe(has);
});
