import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  parseChangeKey,
  parseChangeWorkspace,
  parseCreateKey,
  parseCreateWorkspace,
  parseRotateKey,
} from "../../src/admin/input.ts";
import { mergeLimits, shownBudget } from "../../src/admin/stored.ts";
import { parseTime } from "../../src/fields.ts";
import { readCredential } from "../../src/identity/credential.ts";
import { completePolicy, KEY_DEFAULTS, type KeyLimits } from "../../src/identity/key-record.ts";
import { SCOPES } from "../../src/identity/scopes.ts";
import { between, matches, oneOf, page, readQuery, time } from "../../src/query.ts";
import type { Result } from "../../src/result.ts";
import { describeFailure, type Failure } from "../../src/wire/errors.ts";

const problemOf = (result: Result<unknown, Failure>): string | null =>
  result.ok ? null : describeFailure(result.error).message;
const create = (fields: object) => problemOf(parseCreateKey({ name: "n", ...fields }));
const texts = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, "v"]));
const models = (count: number) => Array.from({ length: count }, (_, i) => `m${i}`);
const aliases = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, n) => [`a${n}`, "opus"]));
const aliasRule =
  "must lead to a Claude model: its id, its id without `claude-` or the name of its line, and perhaps suffixes";

describe("fields of a key, at each limit and one past it", () => {
  it.each([
    { name: "n" },
    { name: "n".repeat(100) },
    { name: `  ${"n".repeat(100)}\t` },
    { name: "😀".repeat(100) },
    { name: "' OR 1=1--" },
    { workspace: "w" },
    { workspace: "W_-9".repeat(16) },
    { scopes: ["messages"] },
    { scopes: [...SCOPES] },
    { models: null },
    { models: models(100) },
    { models: ["m".repeat(127), `${"m".repeat(127)}*`, "us.anthropic/claude@x:1[1m]"] },
    { limits: {} },
    { limits: { requests_per_minute: 1, max_request_bytes: 1 } },
    { limits: { requests_per_minute: 1_000_000, max_request_bytes: 33_554_432 } },
    { budget: null },
    { budget: { usd: 0.000001, period: "day" } },
    { budget: { usd: 10_000_000, period: "week", mode: "strict" } },
    { budget: { usd: 1.5, period: "month", mode: "soft" } },
    { budget: { usd: 1, period: "total" } },
    { on_disconnect: "cancel", on_revoke: "finish", fail_open: false },
    { on_disconnect: "drain", on_revoke: "cut", fail_open: true },
    { cache: null },
    { cache: { ttl_seconds: 1 } },
    { cache: { ttl_seconds: 86_400 } },
    { expires_at: null },
    { expires_at: "2027-01-31T00:00:00Z" },
    { expires_at: "2027-01-31T00:00:00.5+05:30" },
    { metadata: {} },
    { metadata: texts(16) },
    { metadata: { ["k".repeat(64)]: "v".repeat(512), constructor: "text", toString: "text" } },
  ])("takes %j", (fields) => {
    expect(create(fields)).toBeNull();
  });

  const scopeRule = `must be one of ${SCOPES.join(", ")}`;
  const modelRule = "must be a model id, or a prefix ending in *";
  const nameRule = "must be 1 to 100 printable characters";
  const workspaceRule = "must be 1 to 64 letters, digits, _ or -";
  const timeRule = "must be an RFC 3339 time, such as 2027-01-31T00:00:00Z";
  const minuteRule = "must be a whole number from 1 to 1000000";
  const bytesRule = "must be a whole number from 1 to 33554432";
  it.each([
    [{ name: undefined }, "name: Field required"],
    [{ name: "" }, `name: ${nameRule}`],
    [{ name: " \t " }, `name: ${nameRule}`],
    [{ name: "n".repeat(101) }, `name: ${nameRule}`],
    [{ name: "a\nb" }, `name: ${nameRule}`],
    [{ name: "a\u0000b" }, `name: ${nameRule}`],
    [{ name: "a\u2028b" }, `name: ${nameRule}`],
    [{ name: "\ud800" }, `name: ${nameRule}`],
    [{ name: 5 }, `name: ${nameRule}`],
    [{ name: null }, `name: ${nameRule}`],
    [{ workspace: "" }, `workspace: ${workspaceRule}`],
    [{ workspace: "w".repeat(65) }, `workspace: ${workspaceRule}`],
    [{ workspace: "a b" }, `workspace: ${workspaceRule}`],
    [{ workspace: "w\n" }, `workspace: ${workspaceRule}`],
    [{ workspace: null }, `workspace: ${workspaceRule}`],
    [{ scopes: [] }, "scopes: must name at least one scope"],
    [{ scopes: "messages" }, "scopes: must be a list of scopes"],
    [{ scopes: ["messages", "messages"] }, "scopes: holds an entry twice"],
    [{ scopes: ["messages", "root"] }, `scopes.1: ${scopeRule}`],
    [{ scopes: ["constructor"] }, `scopes.0: ${scopeRule}`],
    [{ scopes: [["messages"]] }, `scopes.0: ${scopeRule}`],
    [{ models: [] }, "models: must name at least one model"],
    [{ models: models(101) }, "models: must not name more than 100 models"],
    [{ models: ["m", "m"] }, "models: holds an entry twice"],
    [{ models: ["*"] }, `models.0: ${modelRule}`],
    [{ models: ["m".repeat(128)] }, `models.0: ${modelRule}`],
    [{ models: ["a*b"] }, `models.0: ${modelRule}`],
    [{ models: ["m m"] }, `models.0: ${modelRule}`],
    [{ models: [null] }, `models.0: ${modelRule}`],
    [{ limits: null }, "limits: must be an object"],
    [{ limits: [] }, "limits: must be an object"],
    [{ limits: { requests_per_minute: 0 } }, `limits.requests_per_minute: ${minuteRule}`],
    [{ limits: { requests_per_minute: 1_000_001 } }, `limits.requests_per_minute: ${minuteRule}`],
    [{ limits: { requests_per_minute: 1.5 } }, `limits.requests_per_minute: ${minuteRule}`],
    [{ limits: { requests_per_minute: 0.5 } }, `limits.requests_per_minute: ${minuteRule}`],
    [{ limits: { requests_per_minute: 1e300 } }, `limits.requests_per_minute: ${minuteRule}`],
    [{ limits: { requests_per_minute: "5" } }, `limits.requests_per_minute: ${minuteRule}`],
    [{ limits: { requests_per_minute: null } }, `limits.requests_per_minute: ${minuteRule}`],
    [{ limits: { max_request_bytes: 0 } }, `limits.max_request_bytes: ${bytesRule}`],
    [{ limits: { max_request_bytes: 33_554_433 } }, `limits.max_request_bytes: ${bytesRule}`],
    [{ limits: { foo: 1 } }, "limits.foo: unknown field"],
    [{ expires_at: "tomorrow" }, `expires_at: ${timeRule}`],
    [{ expires_at: "2027-01-31" }, `expires_at: ${timeRule}`],
    [{ expires_at: "2027-02-29T00:00:00Z" }, `expires_at: ${timeRule}`],
    [{ expires_at: 5 }, `expires_at: ${timeRule}, or null`],
    [{ metadata: null }, "metadata: must be an object of texts"],
    [{ metadata: [] }, "metadata: must be an object of texts"],
    [{ metadata: texts(17) }, "metadata: must not have more than 16 entries"],
    [{ metadata: { a: 5 } }, "metadata.a: must be a text"],
    [{ metadata: { a: { b: "c" } } }, "metadata.a: must be a text"],
    [{ metadata: { a: "v".repeat(513) } }, "metadata.a: must not be longer than 512 characters"],
    [
      { metadata: { ["k".repeat(65)]: "v" } },
      `metadata.${"k".repeat(64)}: must not have a name of more than 64 characters`,
    ],
    [{ budget: 5 }, "budget: must be an object, or null"],
    [{ budget: [] }, "budget: must be an object, or null"],
    [{ budget: { usd: 5 } }, "budget.period: Field required"],
    [{ budget: { period: "day" } }, "budget.usd: Field required"],
    [{ budget: { usd: 5, period: "year" } }, "budget.period: must be one of day, week, month, total"],
    [{ budget: { usd: 5, period: "day", mode: "hard" } }, "budget.mode: must be one of strict, soft"],
    [{ budget: { usd: 5, period: "day", mode: null } }, "budget.mode: must be one of strict, soft"],
    [{ budget: { usd: 5, period: "day", micro_usd: 5_000_000 } }, "budget.micro_usd: unknown field"],
    [{ budget: { usd: 5, period: "day", spent: 0 } }, "budget.spent: unknown field"],
    [{ on_disconnect: "keep" }, "on_disconnect: must be one of cancel, drain"],
    [{ on_disconnect: null }, "on_disconnect: must be one of cancel, drain"],
    [{ on_revoke: "cancel" }, "on_revoke: must be one of finish, cut"],
    [{ fail_open: "true" }, "fail_open: must be true or false"],
    [{ fail_open: null }, "fail_open: must be true or false"],
    [{ aliases: null }, "aliases: must be an object of names and what they lead to"],
    [{ aliases: ["opus"] }, "aliases: must be an object of names and what they lead to"],
    [{ aliases: aliases(51) }, "aliases: must not hold more than 50 aliases"],
    [{ aliases: { a: "opus", b: "a" } }, "aliases.b: must not lead to another alias"],
    [{ aliases: { fine: "opus(high)", a: "opus(extreme)" } }, `aliases.a: ${aliasRule}`],
    [{ aliases: { a: "gpt-4o", b: "gpt-4o" } }, `aliases.a: ${aliasRule}; aliases.b: ${aliasRule}`],
    [{ guardrails: [] }, "guardrails: must be an object, or null"],
    [
      { guardrails: { patterns: [{ name: "a", pattern: "(" }] } },
      "guardrails.patterns.0.pattern: a bracket that nothing closes is not allowed (at character 2)",
    ],
    [{ cache: true }, "cache: must be an object, or null"],
    [{ cache: {} }, "cache.ttl_seconds: Field required"],
    [{ cache: { ttl_seconds: 0 } }, "cache.ttl_seconds: must be a whole number from 1 to 86400"],
    [{ cache: { ttl_seconds: 86_401 } }, "cache.ttl_seconds: must be a whole number from 1 to 86400"],
    [{ cache: { ttl_seconds: 1.5 } }, "cache.ttl_seconds: must be a whole number from 1 to 86400"],
    [{ cache: { ttl_seconds: 300, scope: "all" } }, "cache.scope: unknown field"],
    [{ ["x".repeat(1000)]: 1 }, `${"x".repeat(64)}: unknown field`],
  ])("refuses %.80j", (fields, message) => {
    expect(problemOf(parseCreateKey(JSON.parse(JSON.stringify({ name: "n", ...fields }))))).toBe(message);
  });

  it("A-01..05 refuses fields of power, K-12", () => {
    for (const name of [
      "role",
      "user_role",
      "is_admin",
      "allowed_routes",
      "tenant_id",
      "created_by",
      "id",
      "version",
    ]) {
      expect(create({ [name]: "admin" })).toBe(`${name}: unknown field`);
      expect(problemOf(parseChangeKey({ [name]: "admin" }))).toBe(`${name}: unknown field`);
    }
    // A key stays in the workspace it was made for.
    expect(problemOf(parseChangeKey({ workspace: "tB" }))).toBe("workspace: unknown field");
  });

  it("tells everything that is wrong at once", () => {
    expect(
      create({ limits: { requests_per_minute: 0, foo: 1 }, colour: "red", scopes: [] })
        ?.split("; ")
        .sort(),
    ).toEqual(
      [
        "colour: unknown field",
        "limits.foo: unknown field",
        `limits.requests_per_minute: ${minuteRule}`,
        "scopes: must name at least one scope",
      ].sort(),
    );
  });

  it("takes prototype keys for what they are: unknown fields", () => {
    const hostile = JSON.parse(
      '{"name":"n","__proto__":{"admin":true},"constructor":{"prototype":{"admin":true}},"limits":{"__proto__":{"requests_per_minute":1}},"metadata":{"__proto__":"x"}}',
    );
    expect(problemOf(parseCreateKey(hostile))?.split("; ").sort()).toEqual([
      "__proto__: unknown field",
      "constructor: unknown field",
      "limits.__proto__: unknown field",
      "metadata.__proto__: can't be the name of an entry",
    ]);
    expect("admin" in {}).toBe(false);
  });

  it("needs an object", () => {
    for (const value of [null, [], 5, "text", true, undefined]) {
      expect(problemOf(parseCreateKey(value))).toBe("the request body must be a JSON object");
    }
  });

  it.each([
    ["requests_per_minute", 1_000_000],
    ["requests_burst", 1_000_000],
    ["input_tokens_per_minute", 1_000_000_000],
    ["input_tokens_burst", 1_000_000_000],
    ["output_tokens_per_minute", 1_000_000_000],
    ["output_tokens_burst", 1_000_000_000],
    ["concurrent_requests", 100_000],
    ["max_request_bytes", 33_554_432],
  ])("takes limits.%s from 1 to %i, in a new key, a change and, but for bytes, a workspace", (limit, most) => {
    const parsers = [parseCreateKey, parseChangeKey, parseCreateWorkspace, parseChangeWorkspace];
    for (const parse of limit === "max_request_bytes" ? parsers.slice(0, 2) : parsers) {
      const problem = (value: unknown) => problemOf(parse({ name: "n", limits: { [limit]: value } }));
      const rule = `limits.${limit}: must be a whole number from 1 to ${most}`;
      expect([problem(1), problem(most)]).toEqual([null, null]);
      for (const value of [0, -1, most + 1, 1.5, "1", true, {}, 1e300]) expect(problem(value)).toBe(rule);
      const mayBeNull = parse === parseChangeKey || parse === parseChangeWorkspace;
      expect(problem(null)).toBe(mayBeNull ? null : rule);
    }
    if (limit !== "max_request_bytes") return;
    for (const parse of [parseCreateWorkspace, parseChangeWorkspace]) {
      expect(problemOf(parse({ name: "n", limits: { max_request_bytes: 1 } }))).toBe(
        "limits.max_request_bytes: unknown field",
      );
    }
  });

  it.each([
    ["connect_ms", 3_600_000],
    ["first_byte_ms", 3_600_000],
    ["silence_ms", 3_600_000],
    ["total_ms", 3_600_000],
    ["stream_total_ms", 86_400_000],
  ])("takes timeouts.%s from 1 to %i, in a new key and a change, and never of a workspace", (limit, most) => {
    for (const parse of [parseCreateKey, parseChangeKey]) {
      const problem = (value: unknown) => problemOf(parse({ name: "n", timeouts: { [limit]: value } }));
      const rule = `timeouts.${limit}: must be a whole number from 1 to ${most}`;
      expect([problem(1), problem(most)]).toEqual([null, null]);
      for (const value of [0, -1, most + 1, 1.5, "1", true, {}, 1e300]) expect(problem(value)).toBe(rule);
      expect(problem(null)).toBe(parse === parseChangeKey ? null : rule);
      expect(problemOf(parse({ name: "n", timeouts: { [`${limit}_`]: 1 } }))).toBe(`timeouts.${limit}_: unknown field`);
      for (const timeouts of [null, [], 5]) {
        expect(problemOf(parse({ name: "n", timeouts }))).toBe("timeouts: must be an object");
      }
    }
    for (const parse of [parseCreateWorkspace, parseChangeWorkspace]) {
      expect(problemOf(parse({ name: "n", timeouts: { [limit]: 1 } }))).toBe("timeouts: unknown field");
    }
  });

  it("takes of a workspace what its keys share, and nothing that is a key's own", () => {
    for (const id of ["w", "ws_x", "W_-9".repeat(16)]) {
      expect(problemOf(parseCreateWorkspace({ id, name: "n", limits: {}, budget: null, metadata: {} }))).toBeNull();
    }
    for (const id of ["", "w".repeat(65), "a:b", "a/b", " a", null, 5]) {
      expect(problemOf(parseCreateWorkspace({ id, name: "n" }))).toBe("id: must be 1 to 64 letters, digits, _ or -");
    }
    expect(problemOf(parseCreateWorkspace({}))).toBe("name: Field required");
    expect(problemOf(parseChangeWorkspace({ id: "w" }))).toBe("id: unknown field");
    for (const name of [
      ...["scopes", "models", "expires_at", "on_disconnect", "on_revoke", "fail_open", "cache", "aliases", "version"],
      "cache_epoch",
    ]) {
      expect(problemOf(parseCreateWorkspace({ name: "n", [name]: null }))).toBe(`${name}: unknown field`);
      expect(problemOf(parseChangeWorkspace({ [name]: null }))).toBe(`${name}: unknown field`);
    }
  });

  it("lets PATCH take single limits away, and checks the grace of a rotation", () => {
    expect(parseChangeKey({ limits: { requests_per_minute: null } }).ok).toBe(true);
    expect(parseChangeKey({}).ok).toBe(true);
    for (const grace_seconds of [0, 2_592_000]) expect(parseRotateKey({ grace_seconds }).ok).toBe(true);
    for (const grace_seconds of [-1, 2_592_001, 0.5, "5", null]) {
      expect(problemOf(parseRotateKey({ grace_seconds }))).toBe(
        "grace_seconds: must be a whole number from 0 to 2592000",
      );
    }
    expect(problemOf(parseRotateKey({ grace: 1 }))).toBe("grace: unknown field");
  });

  it("never throws, whatever the JSON, and never repeats a value", () => {
    const field = fc.constantFrom(
      ...[
        "name",
        "scopes",
        "models",
        "limits",
        "budget",
        "expires_at",
        "metadata",
        "workspace",
        "fail_open",
        "id",
        "x",
      ],
    );
    const canary = "CANARY-sk-sluice";
    const value = fc.oneof(
      fc.jsonValue(),
      fc.constant(canary),
      fc.constant([canary, canary]),
      fc.constant([canary, 1]),
    );
    const body = fc.oneof(fc.jsonValue(), fc.dictionary(field, value));
    fc.assert(
      fc.property(body, (json) => {
        for (const parse of [
          parseCreateKey,
          parseChangeKey,
          parseRotateKey,
          parseCreateWorkspace,
          parseChangeWorkspace,
        ]) {
          const message = problemOf(parse(json));
          if (message !== null) expect(message).not.toContain("CANARY");
        }
      }),
      { numRuns: 2_000 },
    );
  });
});

describe("dollars", () => {
  const MOST = 10_000_000_000_000;
  const decimal = (micro: number, digits = 6) => {
    const text = String(micro).padStart(digits + 1, "0");
    return `${text.slice(0, -digits)}.${text.slice(-digits)}`;
  };
  const read = (usd: string) => parseCreateKey(JSON.parse(`{"name":"n","budget":{"usd":${usd},"period":"day"}}`));
  const rule = "budget.usd: must be a number above 0, up to 10000000, with at most 6 decimals";
  const amount = fc.oneof(
    fc.integer({ min: 1, max: MOST }),
    fc.integer({ min: 1, max: 10_000_000 }),
    fc.integer({ min: MOST - 10_000_000, max: MOST }),
  );

  it("become the very µUSD that the decimals say, and these the same decimals again (100,000 runs)", () => {
    fc.assert(
      fc.property(amount, (micro) => {
        const parsed = read(decimal(micro));
        if (!parsed.ok || !parsed.value.budget) throw new Error(`refused ${decimal(micro)}`);
        expect(parsed.value.budget).toEqual({ micro_usd: micro, period: "day", mode: "strict" });
        const { usd } = JSON.parse(JSON.stringify(shownBudget(parsed.value.budget)));
        expect(usd.toFixed(6)).toBe(decimal(micro));
      }),
      { numRuns: 100_000, examples: [[100_000], [1_005_000], [4_350_000], [1], [MOST], [8_192_000_001]] },
    );
  });

  it("with a seventh decimal are refused, never rounded (100,000 runs)", () => {
    const tenth = fc.integer({ min: 1, max: MOST * 10 }).filter((tenths) => tenths % 10 !== 0);
    fc.assert(
      fc.property(tenth, (tenths) => {
        expect(problemOf(read(decimal(tenths, 7)))).toBe(rule);
      }),
      { numRuns: 100_000, examples: [[1], [9], [MOST * 10 - 1]] },
    );
  });

  it.each(["0", "-0", "-1", "0.0000001", "10000000.000001", "10000001", "1e8", "1e308", "1e999", '"5"', "null", "[5]"])(
    "refuses %s",
    (usd) => {
      expect(problemOf(read(usd))).toBe(rule);
    },
  );

  it("may be written as JSON allows", () => {
    for (const usd of ["1e-6", "5", "5.0", "50e-1", "5.000000000"]) expect(problemOf(read(usd))).toBeNull();
  });
});

describe("mergeLimits", () => {
  it("keeps, replaces and takes away one by one", () => {
    const before: KeyLimits = { requests_per_minute: 10, requests_burst: 5, max_request_bytes: 9 };
    expect(mergeLimits(before, {})).toEqual({ ok: true, value: before });
    expect(mergeLimits(before, { requests_per_minute: 20, concurrent_requests: 3 })).toEqual({
      ok: true,
      value: { requests_per_minute: 20, requests_burst: 5, max_request_bytes: 9, concurrent_requests: 3 },
    });
    expect(mergeLimits(before, { requests_burst: null, max_request_bytes: null, concurrent_requests: null })).toEqual({
      ok: true,
      value: { requests_per_minute: 10 },
    });
    expect(before).toEqual({ requests_per_minute: 10, requests_burst: 5, max_request_bytes: 9 });
  });

  it("lets no burst stand without its limit, and says which", () => {
    for (const bucket of ["requests", "input_tokens", "output_tokens"]) {
      const problem = `limits.${bucket}_burst: needs limits.${bucket}_per_minute beside it`;
      const both = { [`${bucket}_per_minute`]: 10, [`${bucket}_burst`]: 5 };
      expect(problemOf(mergeLimits({}, { [`${bucket}_burst`]: 5 }))).toBe(problem);
      expect(problemOf(mergeLimits(both, { [`${bucket}_per_minute`]: null }))).toBe(problem);
      expect(mergeLimits(both, { [`${bucket}_per_minute`]: null, [`${bucket}_burst`]: null })).toEqual({
        ok: true,
        value: {},
      });
      expect(mergeLimits({ [`${bucket}_per_minute`]: 10 }, { [`${bucket}_burst`]: 1_000 }).ok).toBe(true);
    }
    expect(problemOf(mergeLimits({}, { requests_burst: 1, output_tokens_burst: 1 }))).toBe(
      "limits.requests_burst: needs limits.requests_per_minute beside it; limits.output_tokens_burst: needs limits.output_tokens_per_minute beside it",
    );
  });
});

describe("completePolicy", () => {
  const old = {
    id: "key_1",
    version: 3,
    workspace: "w",
    name: "n",
    scopes: ["messages" as const],
    models: null,
    limits: { requests_per_minute: 5 },
    expires_at: null,
    revoked_at: null,
    secrets: [],
  };

  it("fills in what a policy stored earlier lacks, and changes nothing that is there", () => {
    expect(completePolicy(old)).toEqual({
      ...old,
      budget: null,
      on_disconnect: "cancel",
      on_revoke: "finish",
      fail_open: false,
      timeouts: {},
      cache: null,
      aliases: {},
      guardrails: null,
    });
    const budget = { micro_usd: 5, period: "day", mode: "soft" } as const;
    const whole = {
      ...old,
      ...KEY_DEFAULTS,
      budget,
      on_disconnect: "drain",
      on_revoke: "cut",
      fail_open: true,
    } as const;
    expect(completePolicy(whole)).toEqual(whole);
  });
});

describe("parseTime", () => {
  it("reads back what it wrote, for every moment of the years 0 to 9999", () => {
    fc.assert(
      fc.property(
        fc.date({
          min: new Date("0000-01-01T00:00:00Z"),
          max: new Date("9999-12-31T23:59:59.999Z"),
          noInvalidDate: true,
        }),
        (date) => {
          expect(parseTime(date.toISOString())).toBe(date.getTime());
        },
      ),
    );
    expect(parseTime("2026-11-21T00:00:00.123456789+01:00")).toBe(Date.parse("2026-11-20T23:00:00.123Z"));
  });

  it.each([
    "",
    "2026-11-21",
    "2026-11-21T00:00Z",
    "2026-11-21 00:00:00Z",
    "2026-11-21T00:00:00",
    "2026-02-29T00:00:00Z",
    "2026-04-31T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-11-21T24:00:00Z",
    "2026-11-21T23:60:00Z",
    "2026-11-21T00:00:00+99:99",
    "+010000-01-01T00:00:00Z",
    "9999-12-31T23:59:59-23:59",
    "0000-01-01T00:00:00+23:59",
    "2026-11-21T00:00:00Z'--",
    "1732147200",
  ])("refuses %j", (text) => {
    expect(parseTime(text)).toBeNull();
  });
});

describe("readQuery", () => {
  const spec = { limit: between(1, 500), from: time, kind: oneOf("a", "b"), id: matches(/^\d+$/, "a number") };
  const read = (query: string) => readQuery(`https://gw.test/admin/x?${query}`, spec);

  it("reads what is given and nothing else", () => {
    expect(read("limit=1&from=2026-11-21T00:00:00Z&kind=b&id=7")).toEqual({
      ok: true,
      value: { limit: 1, from: Date.parse("2026-11-21T00:00:00Z"), kind: "b", id: "7" },
    });
    expect(read("limit=500")).toEqual({ ok: true, value: { limit: 500 } });
    expect(read("")).toEqual({ ok: true, value: {} });
  });

  it.each([
    ["limit=0", "limit: must be a whole number from 1 to 500"],
    ["limit=501", "limit: must be a whole number from 1 to 500"],
    ["limit=1e9", "limit: must be a whole number from 1 to 500"],
    ["limit=-1", "limit: must be a whole number from 1 to 500"],
    ["limit=", "limit: must be a whole number from 1 to 500"],
    ["limit=99999999999999999999", "limit: must be a whole number from 1 to 500"],
    ["limit=1&limit=2", "limit: given more than once"],
    ["kind=c", "kind: must be one of a, b"],
    ["from=yesterday", "from: must be an RFC 3339 time, such as 2026-11-21T00:00:00Z"],
    ["sort=id;--", "sort: unknown parameter"],
    ["__proto__=1", "__proto__: unknown parameter"],
    ["constructor=1", "constructor: unknown parameter"],
    ["kind=x&limit=x", "kind: must be one of a, b; limit: must be a whole number from 1 to 500"],
    [`${"q".repeat(5000)}=1`, `${"q".repeat(64)}: unknown parameter`],
  ])("Q-02 refuses %.40s", (query, message) => {
    expect(problemOf(read(query))).toBe(message);
  });
});

describe("page", () => {
  it("has a cursor exactly when there is more", () => {
    fc.assert(
      fc.property(fc.nat(20), fc.integer({ min: 1, max: 20 }), (count, limit) => {
        const rows = Array.from({ length: Math.min(count, limit + 1) }, (_, i) => i);
        const { data, has_more, next_cursor } = page(rows, limit, String, (row) => row);
        expect(data).toEqual(rows.slice(0, limit));
        expect(has_more).toBe(count > limit);
        expect(next_cursor).toBe(count > limit ? String(limit - 1) : null);
      }),
    );
  });
});

describe("readCredential", () => {
  const read = (headers: Record<string, string>) => readCredential(new Headers(headers));

  it.each([
    [{ authorization: "Bearer k" }, "k"],
    [{ authorization: "bEARER k" }, "k"],
    [{ "x-api-key": "k" }, "k"],
    [{ "api-key": "k" }, "k"],
    [{ authorization: "Bearer k", "x-api-key": "k", "api-key": "k" }, "k"],
    [{ "x-api-key": "k".repeat(8_192) }, "k".repeat(8_192)],
  ])("finds the one in %.60j", (headers, credential) => {
    expect(read(headers as Record<string, string>)).toBe(credential);
  });

  it.each([
    {},
    { authorization: "" },
    { authorization: "Bearer" },
    { authorization: "Bearer " },
    { authorization: "Basic a2V5" },
    { authorization: "k" },
    { authorization: "Bearer k", "x-api-key": "other" },
    { authorization: "Bearer k", "x-api-key": "" },
    { authorization: "Basic a2V5", "x-api-key": "k" },
    { "x-api-key": "k", "api-key": "K" },
    { "x-api-key": "k".repeat(8_193) },
    { "x-api-key": "" },
  ])("H-01 K-01 finds none in %.60j", (headers) => {
    expect(read(headers as Record<string, string>)).toBeNull();
  });

  describe("takes Cloudflare Access' word for who is calling", () => {
    const assertion = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln";
    const added = { "cf-access-jwt-assertion": assertion };

    it.each([
      [{}, assertion],
      [{ "sec-fetch-site": "same-origin", origin: "https://gw.example" }, assertion],
      // A call's own credential counts, whether or not it is good.
      [{ "x-api-key": "k" }, "k"],
      [{ authorization: "Bearer k" }, "k"],
      [{ authorization: "Basic a2V5" }, null],
      [{ "x-api-key": "" }, null],
      [{ "x-api-key": "k", "api-key": "other" }, null],
      // A page of somebody else's, to which the browser lends its user's cookie.
      [{ "sec-fetch-site": "cross-site" }, null],
      [{ "sec-fetch-site": "same-site" }, null],
      [{ "sec-fetch-site": "none" }, null],
      [{ origin: "https://evil.example" }, null],
      [{ "cf-access-jwt-assertion": "k" }, null],
      [{ "cf-access-jwt-assertion": `${assertion}${"x".repeat(8_192)}` }, null],
    ])("beside %.70j: %.20j", (others, credential) => {
      expect(read({ ...added, ...others } as Record<string, string>)).toBe(credential);
    });

    it("unless another was shown elsewhere", () => {
      expect(readCredential(new Headers(added), ["k"])).toBe("k");
    });
  });
});
