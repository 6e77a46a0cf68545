/** What each model takes. */
import { describe, expect, it } from "vitest";
import { isKnownModel, KNOWN_MODELS, modelFacts } from "../../../src/wire/anthropic/model-facts.ts";

const yes = { supported: true };
const no = { supported: false };

describe("the table", () => {
  it.each([
    // sampling, thinking, off, efforts, forced, prefill, system turns, bound thinking, longest answer
    ["haiku-4-5", true, "budget", "omit", "", true, true, false, false, 64_000],
    ["sonnet-4-5", true, "budget", "omit", "", true, true, false, false, 64_000],
    ["opus-4-5", true, "budget", "omit", "low medium high", true, true, false, false, 64_000],
    ["sonnet-4-6", true, "adaptive", "disabled", "low medium high max", true, false, false, false, 128_000],
    ["opus-4-6", true, "adaptive", "disabled", "low medium high max", true, false, false, false, 128_000],
    ["opus-4-7", false, "adaptive", "disabled", "low medium high xhigh max", true, false, false, false, 128_000],
    ["opus-4-8", false, "adaptive", "disabled", "low medium high xhigh max", true, false, true, false, 128_000],
    ["sonnet-5", false, "adaptive", "disabled", "low medium high xhigh max", true, false, false, false, 128_000],
    ["opus-5", false, "adaptive", "disabled", "low medium high xhigh max", true, false, true, false, 128_000],
    ["haiku-5-5", false, "adaptive", "disabled", "low medium high xhigh max", true, false, true, true, 128_000],
    ["sonnet-5-5", false, "adaptive", "between_tools", "low medium high xhigh max", false, false, true, true, 128_000],
    ["opus-5-5", false, "adaptive", "least_effort", "low medium high xhigh max", false, false, true, true, 128_000],
    ["fable-5-1", false, "adaptive", "least_effort", "low medium high xhigh max", false, false, true, true, 128_000],
    ["fable-5-2", false, "adaptive", "least_effort", "low medium high xhigh max", false, false, true, true, 128_000],
  ] as const)(
    "%s",
    (name, sampling, thinking, off, efforts, forcedTools, prefill, systemTurns, boundThinking, maxTokens) => {
      expect(modelFacts(`claude-${name}`)).toMatchObject({
        id: `claude-${name}`,
        sampling,
        thinking,
        off,
        efforts: efforts.split(" ").filter((effort) => effort !== ""),
        forcedTools,
        prefill,
        systemTurns,
        boundThinking,
        maxTokens,
        structuredOutputs: true,
      });
    },
  );

  it.each(["claude-haiku-4-5-20251001", "claude-opus-4-5-20251101", "claude-sonnet-4-5-20250929"])(
    "%s is the model without the date, under its own name",
    (id) => {
      expect(modelFacts(id)).toEqual({ ...modelFacts(id.slice(0, -9)), id });
      expect(isKnownModel(id)).toBe(true);
    },
  );

  it.each(["claude-opus-6", "claude-opus-4-55", "claude-haiku-4-5-2025", "claude-x-20251001"])(
    "%s is not in it and is taken for one like Opus 5",
    (id) => {
      expect(isKnownModel(id)).toBe(false);
      expect(modelFacts(id)).toEqual({ ...modelFacts("claude-opus-5"), id });
    },
  );

  it("names its models as upstream does", () => {
    expect(KNOWN_MODELS).toHaveLength(18);
    expect(KNOWN_MODELS.at(-1)).toEqual({
      id: "claude-sonnet-4-5",
      display_name: "Claude Sonnet 4.5",
      created_at: "2025-09-29T00:00:00Z",
      max_input_tokens: 200_000,
      max_tokens: 64_000,
    });
    expect(KNOWN_MODELS.every(({ id }) => isKnownModel(id))).toBe(true);
  });
});

describe("what upstream says of a model", () => {
  const info = (capabilities: unknown, more: object = {}) => ({ id: "x", capabilities, ...more });
  const types = (adaptive: object, enabled: object, disabled: object, between: object) =>
    info({ thinking: { ...yes, types: { adaptive, enabled, disabled, between_tools: between } } });

  it.each([null, undefined, "x", [], {}, { capabilities: null }, { capabilities: { thinking: yes, effort: "x" } }])(
    "%j changes nothing",
    (said) => expect(modelFacts("claude-opus-5", said)).toEqual(modelFacts("claude-opus-5")),
  );

  it("gives the longest answer, the efforts and whether there is structured output", () => {
    const effort = { ...yes, low: yes, medium: no, high: yes, xhigh: null, max: no };
    const facts = modelFacts("claude-opus-6", info({ effort, structured_outputs: no }, { max_tokens: 256_000 }));
    expect(facts).toMatchObject({ maxTokens: 256_000, efforts: ["low", "high", "xhigh"], structuredOutputs: false });
    expect(modelFacts("claude-opus-6", info({ effort: no })).efforts).toEqual([]);
  });

  it.each([0, -1, 1.5, "9", null])("%j is no longest answer", (limit) => {
    expect(modelFacts("claude-opus-5", info({}, { max_tokens: limit })).maxTokens).toBe(128_000);
  });

  it.each([
    [yes, no, yes, no, "adaptive", "disabled"],
    [yes, no, no, yes, "adaptive", "between_tools"],
    [yes, yes, no, no, "adaptive", "least_effort"],
    [no, yes, yes, no, "budget", "disabled"],
    [no, no, yes, no, "none", "disabled"],
  ] as const)("decides how an unknown model thinks (%#)", (adaptive, enabled, disabled, between, thinking, off) => {
    expect(modelFacts("claude-opus-6", types(adaptive, enabled, disabled, between))).toMatchObject({ thinking, off });
  });

  it.each([
    ["claude-opus-5-5", yes, yes, "least_effort"],
    ["claude-sonnet-5-5", yes, yes, "between_tools"],
    ["claude-opus-5", yes, yes, "disabled"],
    ["claude-opus-5", no, yes, "between_tools"],
    ["claude-opus-5", no, no, "least_effort"],
    ["claude-haiku-4-5", yes, no, "omit"],
  ] as const)("%s: disabled %j, between_tools %j: %s", (id, disabled, between, off) => {
    const adaptive = id === "claude-haiku-4-5" ? no : yes;
    expect(modelFacts(id, types(adaptive, adaptive === no ? yes : no, disabled, between)).off).toBe(off);
  });
});
