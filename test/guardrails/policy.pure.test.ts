import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parser } from "../../src/fields.ts";
import { DETECTED_TYPES } from "../../src/guardrails/detect/finding.ts";
import { guardrailsInput, MAX_LISTED, MAX_PATTERNS } from "../../src/guardrails/input.ts";
import {
  both,
  type Guardrails,
  type Limits,
  MODES,
  type Policy,
  policyOf,
  stricter,
} from "../../src/guardrails/policy.ts";
import { matches, matchesHost } from "../../src/patterns.ts";

const types = fc.uniqueArray(fc.constantFrom(...DETECTED_TYPES), { maxLength: 3 });
const mode = fc.constantFrom(...MODES);
const name = fc.constantFrom("web_search*", "web_search", "web_*", "*", "bash", "bash_20250124", "calc");
const host = fc.constantFrom("example.com", "*.example.com", "a.example.com", "*.a.example.com", "x.org");

/** As an administrator may write them. */
const guardrails: fc.Arbitrary<Guardrails> = fc.record(
  {
    mode,
    redact: types,
    secrets: mode,
    block: types,
    patterns: fc.uniqueArray(
      fc.record({ name: fc.constantFrom("ticket", "staff"), pattern: fc.constantFrom("T-\\d+", "S\\d"), mode }),
      { selector: (pattern) => pattern.name },
    ),
    max_input_chars: fc.integer({ min: 1, max: 9 }),
    allow_tools: fc.uniqueArray(name, { maxLength: 4 }),
    allow_url_sources: fc.oneof(fc.boolean(), fc.uniqueArray(host, { maxLength: 4 })),
    betas: fc.uniqueArray(name, { maxLength: 4 }),
    unmask: fc.boolean(),
    output: fc.record({ redact: types, secrets: mode }, { requiredKeys: [] }),
  },
  { requiredKeys: [] },
);

const NAMES = ["web_search", "web_fetch", "bash", "bash_20250124", "calc", "other"];
const HOSTS = ["example.com", "a.example.com", "b.a.example.com", "x.org", "y.org"];
const allows = {
  name: (list: readonly string[] | null, one: string) => list === null || list.some((entry) => matches(entry, one)),
  host: (list: readonly string[] | null, one: string) => list === null || list.some((entry) => matchesHost(entry, one)),
};

/** Whether nothing that `b` forbids is allowed by `a`, and nothing is done less. */
function atLeastAsStrict(a: Policy, b: Policy): boolean {
  const acts = (of: Policy["input"], than: Policy["input"]) =>
    Object.entries(than).every(([type, act]) => MODES.indexOf(of[type] ?? "off") >= MODES.indexOf(act));
  const limits = (of: Limits, than: Limits) =>
    (than.maxInputChars === null || (of.maxInputChars !== null && of.maxInputChars <= than.maxInputChars)) &&
    NAMES.every((one) => allows.name(than.tools, one) || !allows.name(of.tools, one)) &&
    NAMES.every((one) => allows.name(than.betas, one) || !allows.name(of.betas, one)) &&
    HOSTS.every((one) => allows.host(than.urlHosts, one) || !allows.host(of.urlHosts, one));
  return (
    acts(a.input, b.input) &&
    acts(a.output, b.output) &&
    b.patterns.every((one) =>
      a.patterns.some(({ name: other, pattern }) => other === one.name && pattern === one.pattern),
    ) &&
    limits(a.enforced, b.enforced) &&
    limits(a.counted, b.counted) &&
    (b.unmask !== false || a.unmask === false)
  );
}

describe("both", () => {
  it("is the same in either order, and over itself, and grouped otherwise", () => {
    fc.assert(
      fc.property(guardrails, guardrails, guardrails, (x, y, z) => {
        const [a, b, c] = [policyOf(x), policyOf(y), policyOf(z)];
        expect(both(a, a)).toEqual(a);
        expect(both(a, b)).toEqual(both(b, a));
        expect(both(both(a, b), c)).toEqual(both(a, both(b, c)));
      }),
      { numRuns: 500 },
    );
  });

  it("is never weaker than either, and allows what both allow", () => {
    fc.assert(
      fc.property(guardrails, guardrails, (x, y) => {
        const [a, b] = [policyOf(x), policyOf(y)];
        const merged = both(a, b);
        expect(atLeastAsStrict(merged, a) && atLeastAsStrict(merged, b)).toBe(true);
        for (const one of NAMES) {
          const byBoth = allows.name(a.enforced.tools, one) && allows.name(b.enforced.tools, one);
          expect(allows.name(merged.enforced.tools, one)).toBe(byBoth);
        }
        for (const one of HOSTS) {
          const byBoth = allows.host(a.enforced.urlHosts, one) && allows.host(b.enforced.urlHosts, one);
          expect(allows.host(merged.enforced.urlHosts, one)).toBe(byBoth);
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe("stricter", () => {
  it.each<readonly [string, Guardrails | null, Guardrails | null, Partial<Policy> | null]>([
    ["nothing from nobody", null, null, null],
    ["nothing from what is off", { mode: "off", redact: ["EMAIL"], allow_tools: [], max_input_chars: 1 }, null, null],
    ["nothing from what asks for nothing", { unmask: true }, {}, null],
    ["masks what is to be redacted", { redact: ["EMAIL"] }, null, { input: { EMAIL: "mask" } }],
    [
      "blocks what is to be blocked, also if it is to be redacted",
      { redact: ["EMAIL"], block: ["EMAIL"] },
      null,
      { input: { EMAIL: "block" } },
    ],
    [
      "masks what own patterns find",
      { patterns: [{ name: "t", pattern: "T" }] },
      null,
      { input: { t: "mask" }, patterns: [{ name: "t", pattern: "T" }] },
    ],
    [
      "does no more than its mode",
      { mode: "mask", block: ["EMAIL"], secrets: "block" },
      null,
      { input: { EMAIL: "mask", SECRET: "mask" } },
    ],
    [
      "only counts in audit",
      { mode: "audit", block: ["EMAIL"], max_input_chars: 5, output: { redact: ["IP"] } },
      null,
      {
        input: { EMAIL: "audit" },
        output: { IP: "audit" },
        enforced: { maxInputChars: null, tools: null, urlHosts: null, betas: null },
        counted: { maxInputChars: 5, tools: null, urlHosts: null, betas: null },
      },
    ],
    [
      "takes the stricter of two",
      { redact: ["EMAIL", "IP"] },
      { mode: "audit", redact: ["EMAIL"], secrets: "mask" },
      { input: { EMAIL: "mask", IP: "mask", SECRET: "audit" } },
    ],
    [
      "puts values back where one side says so",
      { redact: ["EMAIL"], unmask: true },
      { redact: ["IP"] },
      { unmask: true },
    ],
    ["does not where one side says no", { redact: ["EMAIL"], unmask: true }, { unmask: false }, { unmask: false }],
  ])("%s", (_what, key, workspace, expected) => {
    const policy = stricter(key, workspace);
    if (expected === null) expect(policy).toBeNull();
    else expect(policy).toMatchObject(expected);
    if (expected?.input) expect(policy?.input).toEqual(expected.input);
  });

  it("narrows lists to what both allow", () => {
    const a = {
      allow_tools: ["web_*", "calc"],
      allow_url_sources: ["*.example.com", "x.org"],
      betas: ["*"],
      max_input_chars: 9,
    };
    const b = {
      allow_tools: ["web_search*", "bash"],
      allow_url_sources: ["a.example.com", "example.com"],
      betas: ["b"],
      max_input_chars: 3,
    };
    expect(stricter(a, b)?.enforced).toEqual({
      maxInputChars: 3,
      tools: ["web_search*"],
      urlHosts: ["a.example.com"],
      betas: ["b"],
    });
    expect(stricter({ allow_url_sources: false }, { allow_url_sources: true })?.enforced.urlHosts).toEqual([]);
  });
});

const parseGuardrails = parser(guardrailsInput);

describe("guardrailsInput", () => {
  it("takes whatever may be written, and gives it back", () => {
    fc.assert(
      fc.property(guardrails, (given) => {
        expect(parseGuardrails(given)).toEqual({ ok: true, value: given });
      }),
      { numRuns: 300 },
    );
  });

  it.each<readonly [unknown, string]>([
    [{ redcat: [] }, "redcat: unknown field"],
    [{ mode: "strict" }, "mode: must be one of off, audit, mask, block"],
    [
      { redact: ["EMAIL", "NAME"] },
      "redact.1: must be one of EMAIL, PHONE, CREDIT_CARD, IBAN, US_SSN, CN_ID, IP, SECRET",
    ],
    [{ redact: "EMAIL" }, "redact: must be a list of types"],
    [{ block: ["IP", "IP"] }, "block: holds an entry twice"],
    [{ secrets: true }, "secrets: must be one of off, audit, mask, block"],
    [{ max_input_chars: 0 }, "max_input_chars: must be a whole number from 1 to 100000000"],
    [{ allow_tools: ["a b"] }, "allow_tools.0: must be 1 to 128 letters, digits, _, -, . or :, and may end in *"],
    [
      { allow_tools: Array.from({ length: MAX_LISTED + 1 }, (_, n) => `t${n}`) },
      `allow_tools: must not have more than ${MAX_LISTED} entries`,
    ],
    [{ allow_url_sources: "x.org" }, "allow_url_sources: must be true, false or a list of hosts"],
    [
      { allow_url_sources: ["x.org", "https://x.org"] },
      "allow_url_sources.1: must be a host such as example.com or *.example.com, in lower case",
    ],
    [{ unmask: "yes" }, "unmask: must be true or false"],
    [
      { output: { redact: ["X"] } },
      "output.redact.0: must be one of EMAIL, PHONE, CREDIT_CARD, IBAN, US_SSN, CN_ID, IP, SECRET",
    ],
    [{ output: { block: [] } }, "output.block: unknown field"],
    [
      { patterns: [{ name: "1", pattern: "x" }] },
      "patterns.0.name: must be 1 to 32 letters, digits, _ or -, and begin with a letter",
    ],
    [{ patterns: [{ name: "email", pattern: "x" }] }, "patterns.0.name: is the name of a type that is built in"],
    [{ patterns: [{ name: "t" }] }, "patterns.0.pattern: Field required"],
    [{ patterns: ["a", "A"].map((name) => ({ name, pattern: "x" })) }, "patterns: holds a name twice"],
    [
      { patterns: Array.from({ length: MAX_PATTERNS + 1 }, (_, n) => ({ name: `t${n}`, pattern: "x" })) },
      `patterns: must not have more than ${MAX_PATTERNS} entries`,
    ],
  ])("refuses %j and names the field", (given, message) => {
    expect(parseGuardrails(given)).toEqual({ ok: false, error: { kind: "invalid_request", message } });
  });
});
