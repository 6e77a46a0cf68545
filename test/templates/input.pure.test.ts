/** What the control plane is told of templates. */
import { describe, expect, it } from "vitest";
import { readChange, readPublication } from "../../src/templates/input.ts";
import { problemOf } from "./drafts.ts";

describe("a publication", () => {
  it("is a version's fields, with labels and a note beside them", () => {
    expect(readPublication({ system: "x", labels: ["a", "b", "a"], note: "why" })).toEqual({
      ok: true,
      value: { content: { system: "x" }, labels: ["a", "b"], note: "why" },
    });
    expect(readPublication({})).toEqual({ ok: true, value: { content: {}, labels: [], note: null } });
  });

  it.each([
    [null, "must be a JSON object"],
    [{ labels: "a" }, "labels: must be a list"],
    [{ labels: ["../a"] }, "labels.0: must be a name"],
    [{ labels: Array(21).fill("a") }, "labels: must not be more than 20"],
    [{ note: "x".repeat(501) }, "note: must not be longer than 500"],
  ])("is refused: %j", (json, told) => {
    expect(problemOf(readPublication(json))).toContain(told);
  });
});

describe("a change", () => {
  it("is what it names", () => {
    expect(readChange({ labels: { production: 2 }, revision: 7 }, 2)).toEqual({
      ok: true,
      value: { change: { labels: { production: 2 } }, revision: 7 },
    });
    expect(readChange({ workspaces: null, state: "archived" }, 2)).toEqual({
      ok: true,
      value: { change: { workspaces: null, state: "archived" }, revision: null },
    });
    expect(readChange({ labels: {} }, 2)).toMatchObject({ value: { change: { labels: {} } } });
  });

  it.each([
    [{}, "changes nothing"],
    [{ revision: 1 }, "changes nothing"],
    [{ name: "b" }, "name: unknown field"],
    [{ state: "gone" }, "state: must be one of"],
    [{ workspaces: ["a b"] }, "workspaces.0: must be the id of a workspace"],
    [{ labels: { production: 3 } }, "labels.production: must be a version from 1 to 2"],
    [{ labels: null }, "labels: must be an object"],
  ])("is refused: %j", (json, told) => {
    expect(problemOf(readChange(json, 2))).toContain(told);
  });
});
