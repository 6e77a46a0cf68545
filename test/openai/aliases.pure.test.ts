import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Aliases, KEY_DEFAULTS, type KeyPolicy } from "../../src/identity/key-record.ts";
import { aliasProblems, readModelAliases } from "../../src/openai/aliases.ts";
import type { ModelsAtHand } from "../../src/openai/model-names.ts";
import { aliasesFor, resolveModel } from "../../src/openai/resolve-model.ts";
import { KNOWN_MODELS } from "../../src/wire/anthropic/model-facts.ts";
import { describeFailure } from "../../src/wire/errors.ts";
import { EFFORTS } from "../../src/wire/openai/draft.ts";

const policy = (fields: Partial<KeyPolicy> = {}): KeyPolicy => ({
  ...KEY_DEFAULTS,
  id: "key_1",
  version: 1,
  workspace: "ws_default",
  name: "test",
  scopes: ["messages"],
  models: null,
  limits: {},
  expires_at: null,
  revoked_at: null,
  secrets: [],
  ...fields,
});

type World = { own?: Aliases; all?: Aliases; models?: readonly string[] | null; list?: ModelsAtHand };
const resolve = (asked: string, { own = {}, all = {}, models = null, list = null }: World = {}) =>
  resolveModel(asked, policy({ aliases: own, models }), { modelAliases: all }, list);

/** Id, effort, thinking and betas in one line; or the failure's status. */
function meant(asked: string, world: World = {}): string | number {
  const found = resolve(asked, world);
  if (!found.ok) return describeFailure(found.error).status;
  const { id, effort, showThinking, betas } = found.value;
  return [id, effort ?? "", showThinking ? "thinking" : "", ...betas].filter((part) => part !== "").join(" ");
}

describe("names that follow from the models", () => {
  it.each([
    ["opus", "claude-opus-5-5"],
    ["sonnet", "claude-sonnet-5-5"],
    ["haiku", "claude-haiku-5-5"],
    ["fable", "claude-fable-5-2"],
    ["claude-opus-4-6", "claude-opus-4-6"],
    ["opus-4-6", "claude-opus-4-6"],
    ["haiku-4-5-20251001", "claude-haiku-4-5-20251001"],
    ["sluice-opus", "claude-opus-5-5"],
    ["sluice-opus-4-6", "claude-opus-4-6"],
    ["sluice-claude-opus-4-6", "claude-opus-4-6"],
    ["anthropic/claude-opus-4-6", "claude-opus-4-6"],
    ["anthropic/sonnet", "claude-sonnet-5-5"],
    ["sluice-anthropic/opus", "claude-opus-5-5"],
    ["anthropic/sluice-opus", "claude-opus-5-5"],
    ["opus(high)", "claude-opus-5-5 high"],
    ["opus(none)", "claude-opus-5-5 none"],
    ["opus-thinking", "claude-opus-5-5 thinking"],
    ["opus-4-6-thinking", "claude-opus-4-6 medium thinking"],
    ["haiku-4-5-thinking(low)", "claude-haiku-4-5 low thinking"],
    ["opus[1m]", "claude-opus-5-5"],
    ["claude-sonnet-4-5[1m]", "claude-sonnet-4-5 context-1m-2025-08-07"],
    ["claude-sonnet-4-5-20250929[1m]", "claude-sonnet-4-5-20250929 context-1m-2025-08-07"],
    ["sluice-sonnet-4-5(low)[1m]-thinking", "claude-sonnet-4-5 low thinking context-1m-2025-08-07"],
    ["claude-opus-9(max)", "claude-opus-9 max"],
    ["opus-9-1", "claude-opus-9-1"],
    ["claude-3-5-haiku-latest", "claude-3-5-haiku-latest"],
    ["claude-opus-5-5+status=429", "claude-opus-5-5+status=429"],
  ])("%s is %s", (asked, expected) => expect(meant(asked)).toBe(expected));

  it.each([
    "gpt-4o",
    "gpt-5.5",
    "o3",
    "o4-mini(high)",
    "",
    "claude-",
    "opus(high)(low)",
    "opus(high)(high)",
    "opus-thinking-thinking",
    "opus[1m][1m]",
    "opus(extreme)",
    "opus()",
    "sluice-",
    "sluice-sluice-opus",
    "anthropic/",
    "Opus",
    "OPUS(high)",
    "opus(High)",
    "opus ",
    " opus",
    "ｏpus",
    "оpus",
    "claude-opus-5-5 ",
    "Claude-Opus-5-5",
    "claude-opus-5-5\n",
    "constructor",
    "__proto__",
    "claude-".padEnd(10_000, "a"),
  ])("%j names nothing", (asked) => expect(meant(asked)).toBe(404));

  it("takes suffixes in any order, and prefixes before any of them", () => {
    const suffixes = fc.shuffledSubarray(["(EFFORT)", "-thinking", "[1m]"]);
    const prefixes = fc.shuffledSubarray(["sluice-", "anthropic/"]);
    const bare = fc.constantFrom("opus", "opus-4-6", "claude-sonnet-4-5", "claude-haiku-4-5");
    fc.assert(
      fc.property(prefixes, bare, suffixes, fc.constantFrom(...EFFORTS), (before, name, after, effort) => {
        const full = [...before, name, ...after].join("").replace("EFFORT", effort);
        const found = resolve(full);
        const plain = resolve(name);
        if (!found.ok || !plain.ok) throw new Error(full);
        expect(found.value.id).toBe(plain.value.id);
        const usual = after.includes("-thinking") && !found.value.facts.thinksByDefault ? "medium" : null;
        expect(found.value.effort).toBe(after.includes("(EFFORT)") ? effort : usual);
        expect(found.value.showThinking).toBe(after.includes("-thinking"));
        expect(found.value.betas.length).toBe(after.includes("[1m]") && plain.value.id.endsWith("4-5") ? 1 : 0);
      }),
    );
  });

  it("follow upstream's list where it is at hand", () => {
    const list = [
      { id: "claude-opus-6" },
      { id: "claude-opus-6-20270101" },
      { id: "claude-poem-1", max_input_tokens: 1 },
    ];
    expect(meant("opus", { list })).toBe("claude-opus-6");
    expect(meant("poem[1m]", { list })).toBe("claude-poem-1 context-1m-2025-08-07");
    expect(meant("poem-1", { list })).toBe("claude-poem-1");
    expect(meant("poem")).toBe(404);
    // A line that upstream's list lacks is as this release knows it.
    expect(meant("haiku", { list })).toBe("claude-haiku-5-5");
    expect(meant("opus-4-6", { list })).toBe("claude-opus-4-6");
  });
});

describe("aliases", () => {
  const own = { "gpt-4o": "claude-opus-4-6", mine: "sonnet(low)", shown: { model: "opus[1m]", thinking: true } };
  const all = { "gpt-4o": "claude-haiku-4-5", "gpt-4o(high)": "fable", opus: "claude-opus-4-5" };

  it.each([
    ["gpt-4o", { own, all }, "claude-opus-4-6"],
    ["gpt-4o", { all }, "claude-haiku-4-5"],
    ["opus", { all }, "claude-opus-4-5"],
    ["opus", {}, "claude-opus-5-5"],
    ["sluice-opus", { all }, "claude-opus-4-5"],
    ["mine", { own }, "claude-sonnet-5-5 low"],
    ["mine(max)", { own }, "claude-sonnet-5-5 max"],
    ["sluice-mine-thinking", { own }, "claude-sonnet-5-5 low thinking"],
    ["shown", { own }, "claude-opus-5-5 thinking"],
    ["shown(high)", { own }, "claude-opus-5-5 high thinking"],
    // A whole name counts for more than a part of it.
    ["gpt-4o(high)", { all }, "claude-fable-5-2"],
    ["gpt-4o(low)", { all }, "claude-haiku-4-5 low"],
    ["Mine", { own }, 404],
    ["mine ", { own }, 404],
  ] as const)("%s with %j is %s", (asked, world, expected) => expect(meant(asked, world)).toBe(expected));

  it("lead to models and never to each other", () => {
    // Such a pair can't be stored; the gateway's opus is no part of what the key's alias means.
    expect(meant("fast", { own: { fast: "opus" }, all })).toBe("claude-opus-5-5");
    expect(meant("fast", { own: { fast: "gpt-4o" }, all })).toBe(404);
  });
});

describe("K-11 an alias and the key's list of models", () => {
  const models = ["claude-haiku-4-5"];
  const world = { models, own: { cheap: "claude-haiku-4-5(low)", dear: "claude-opus-5-5" }, all: { haiku: "opus" } };

  it.each([
    "claude-haiku-4-5",
    "haiku-4-5",
    "sluice-haiku-4-5",
    "anthropic/claude-haiku-4-5[1m]",
    "cheap",
    "cheap-thinking",
  ])("%s is allowed", (asked) => expect(meant(asked, world)).toMatch(/^claude-haiku-4-5\b/));

  it.each([
    "opus",
    "haiku",
    "dear",
    "dear(low)",
    "sluice-opus",
    "anthropic/claude-opus-5-5",
    "claude-haiku-4-5-latest",
    "claude-haiku-4-5-20251001",
    "claude-haiku-4-5 ",
    " claude-haiku-4-5",
    "Claude-Haiku-4-5",
    "CLAUDE-OPUS-5-5",
    "ｃlaude-haiku-4-5",
    "claude-haiku-4-5\u200b",
    "claude-haiku-4-5(low) ",
  ])("%j is a 403", (asked) => expect(meant(asked, world)).toBe(403));

  it("nothing ever resolves to a model beyond the list", () => {
    const piece = fc.constantFrom(
      "sluice-",
      "anthropic/",
      "claude-",
      "opus",
      "haiku",
      "-4-5",
      "(high)",
      "[1m]",
      " ",
      "cheap",
      "dear",
      "*",
    );
    fc.assert(
      fc.property(fc.array(fc.oneof(piece, fc.string({ maxLength: 2 })), { maxLength: 6 }), (pieces) => {
        const found = resolve(pieces.join(""), world);
        if (found.ok) expect(models).toContain(found.value.id);
      }),
    );
  });
});

describe("a name that means nothing", () => {
  it("is told which there are, and how to give it a meaning", () => {
    const found = resolve("gpt-4o", { own: { mine: "opus" }, all: { theirs: "haiku" } });
    if (found.ok) throw new Error("found");
    expect(found.error).toMatchObject({ kind: "not_found", param: "model", code: "model_not_found" });
    const { message } = describeFailure(found.error);
    for (const part of ["`gpt-4o`", "mine", "theirs", "opus", "sonnet", "`aliases`", "MODEL_ALIASES"]) {
      expect(message).toContain(part);
    }
  });

  it("is not said back unless it can be printed, and only names that the key may use are told", () => {
    const found = resolve("gpt-4o\u0000", { models: ["claude-haiku-4-5"] });
    if (found.ok) throw new Error("found");
    const { message } = describeFailure(found.error);
    expect(message).not.toContain("\u0000");
    expect(message).toContain("haiku-4-5");
    expect(message).not.toContain("opus");
  });
});

describe("the aliases that a key is told of", () => {
  it("are its own, the gateway's and the short ones, of models it may use", () => {
    const names = (world: World) =>
      aliasesFor(
        policy({ aliases: world.own ?? {}, models: world.models ?? null }),
        { modelAliases: world.all ?? {} },
        null,
      );
    const all = names({ own: { mine: "opus" }, all: { theirs: "claude-opus-4-6" } });
    expect(all.map(({ name }) => name).slice(0, 2)).toEqual(["mine", "theirs"]);
    expect(all).toContainEqual({ name: "opus", id: "claude-opus-5-5" });
    expect(all).toContainEqual({ name: "sluice-opus", id: "claude-opus-5-5" });
    expect(all).toContainEqual({ name: "opus-4-6", id: "claude-opus-4-6" });
    expect(new Set(all.map(({ name }) => name)).size).toBe(all.length);
    expect(names({ own: { mine: "opus", cheap: "haiku-4-5" }, models: ["claude-haiku-4-5"] })).toEqual([
      { name: "cheap", id: "claude-haiku-4-5" },
      { name: "haiku-4-5", id: "claude-haiku-4-5" },
    ]);
  });

  it("all resolve to the model they are told with", () => {
    for (const { name, id } of aliasesFor(policy(), { modelAliases: {} }, null)) expect(meant(name)).toBe(id);
    for (const { id } of KNOWN_MODELS) expect(meant(id)).toBe(id);
  });
});

describe("aliases as they are configured", () => {
  it.each([
    [{ "gpt-4o": "claude-sonnet-5-5(high)" }, []],
    [{ a: "opus", b: { model: "haiku-4-5" }, c: { model: "claude-new-1", thinking: false } }, []],
    [{ "claude-3-5-sonnet-20241022": "claude-sonnet-5-5" }, []],
    [{ "openrouter/x:free": "opus" }, []],
    [{ a: "b" }, ["a: must lead to a Claude model"]],
    [{ a: "gpt-4o" }, ["a: must lead to a Claude model"]],
    [{ a: "" }, ["a: must lead to a Claude model"]],
    [{ a: "Opus" }, ["a: must lead to a Claude model"]],
    [{ a: "opus(high)(low)" }, ["a: must lead to a Claude model"]],
    [{ a: "b", b: "opus" }, ["a: must not lead to another alias"]],
    [{ a: "opus(high)", opus: "claude-opus-4-6" }, ["a: must not lead to another alias"]],
    [{ a: "sluice-opus", opus: "claude-opus-4-6" }, ["a: must not lead to another alias"]],
    [{ opus: "opus" }, ["opus: must not lead to another alias"]],
    [{ a: 5 }, ["a: must be a model's name"]],
    [{ a: null }, ["a: must be a model's name"]],
    [{ a: { model: 5 } }, ["a: must be a model's name"]],
    [{ a: { model: "opus", thinking: "yes" } }, ["a: must be a model's name"]],
    [{ a: { model: "opus", effort: "high" } }, ["a: must be a model's name"]],
    [{ "": "opus" }, [": must be named by"]],
    [{ " a": "opus" }, [" a: must be named by"]],
    [{ "a b": "opus" }, ["a b: must be named by"]],
    [{ "a/b/c": "opus" }, ["a/b/c: must be named by"]],
    [{ "../x": "opus" }, ["../x: must be named by"]],
    [{ ä: "opus" }, ["ä: must be named by"]],
    [{ ["a".repeat(100)]: "opus" }, []],
    [{ ["a".repeat(101)]: "opus" }, [`${"a".repeat(101)}: must be named by`]],
    [JSON.parse('{"__proto__":"opus"}'), ["__proto__: must be named by"]],
    [{ a: "opus", b: "opus", c: "opus", d: "opus" }, [": must not hold more than 3 aliases"]],
  ])("%j", (aliases, expected) => {
    const problems = aliasProblems(aliases, 3).map(({ name, message }) => `${name}: ${message}`);
    expect(problems.length).toBe(expected.length);
    for (const [i, start] of expected.entries()) expect(problems[i]?.startsWith(start)).toBe(true);
  });

  it("MODEL_ALIASES is a JSON object of them", () => {
    expect(readModelAliases("")).toEqual({ ok: true, value: {} });
    expect(readModelAliases('{"gpt-4o":"opus(high)"}')).toEqual({ ok: true, value: { "gpt-4o": "opus(high)" } });
    for (const [text, problem] of [
      ["x", "MODEL_ALIASES is not a JSON object."],
      ["[]", "MODEL_ALIASES is not a JSON object."],
      ['{"a":"b"}', /^MODEL_ALIASES, `a`: must lead to a Claude model.*\.$/],
      ['{"a b":"opus"}', /^MODEL_ALIASES, `a b`: must be named by/],
    ] as const) {
      const read = readModelAliases(text);
      expect(read.ok ? null : read.error).toMatch(problem);
    }
  });
});
