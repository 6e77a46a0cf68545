import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type CacheableCall, cacheKey, MAX_CACHEABLE_BYTES } from "../../src/cache/cache-key.ts";
import { upstreamRequestHeaders } from "../../src/wire/headers.ts";
import { jsonTexts, spelled } from "./spelling.ts";

const encoder = new TextEncoder();
const HEADERS = {
  "anthropic-version": "2026-10-21",
  "content-type": "application/json",
};
const BODY = { model: "claude-opus-5-5", max_tokens: 10, messages: [{ role: "user", content: "x" }] };

type Changes = Partial<Omit<CacheableCall, "body">> & { readonly body?: unknown; readonly text?: string };

const keyOf = ({ body = BODY, text = JSON.stringify(body), ...call }: Changes = {}) =>
  cacheKey({
    ...{ workspace: "ws_a", epoch: 0, target: "/v1/messages?beta=true", headers: HEADERS },
    ...call,
    body: encoder.encode(text),
  });

async function key(changes: Changes = {}): Promise<string> {
  const made = await keyOf(changes);
  if (!made.ok) throw new Error(made.error);
  return made.value;
}

/** Every place in a value: the way to it, by names and numbers. */
function* places(value: unknown, way: readonly (string | number)[] = []): Generator<readonly (string | number)[]> {
  yield way;
  if (Array.isArray(value)) for (const [i, one] of value.entries()) yield* places(one, [...way, i]);
  else if (typeof value === "object" && value !== null) {
    for (const [name, one] of Object.entries(value)) yield* places(one, [...way, name]);
  }
}

/** A copy in which the value at a place is another one; `undefined` takes it away. */
function changed(value: unknown, way: readonly (string | number)[], by: (value: unknown) => unknown): unknown {
  const [first, ...rest] = way;
  if (first === undefined) return by(value);
  if (Array.isArray(value)) {
    const one = changed(value[Number(first)], rest, by);
    return value.flatMap((kept, i) => (i !== first ? [kept] : one === undefined ? [] : [one]));
  }
  const copy = Object.create(null) as Record<string, unknown>;
  for (const [name, kept] of Object.entries(value as object)) {
    const one = name === first ? changed(kept, rest, by) : kept;
    if (one !== undefined) copy[name] = one;
  }
  return copy;
}

const anotherOne = (value: unknown): unknown => {
  if (typeof value === "string") return `${value} `;
  if (typeof value === "number") return Number.isInteger(value) && Math.abs(value) < 1e9 ? value + 1 : String(value);
  if (typeof value === "boolean") return !value;
  if (Array.isArray(value)) return [...value, null];
  return value === null ? 0 : { ...(value as object), "one more": null };
};

/** Known fields of every kind, and fields that nobody knows. */
const bodies = fc
  .record(
    {
      model: fc.constantFrom("claude-opus-5-5", "claude-haiku-5-5", "an-alias"),
      max_tokens: fc.integer({ min: 1, max: 9_999 }),
      messages: fc.array(fc.record({ role: fc.constantFrom("user", "assistant"), content: jsonTexts }), {
        maxLength: 3,
      }),
      system: jsonTexts,
      tools: fc.array(fc.record({ name: fc.string(), input_schema: jsonTexts }), { maxLength: 2 }),
      tool_choice: jsonTexts,
      stream: fc.boolean(),
      stop_sequences: fc.array(fc.string(), { maxLength: 2 }),
      temperature: fc.double({ min: 0, max: 1, noNaN: true }),
      thinking: jsonTexts,
      output_config: jsonTexts,
      metadata: fc.record({ user_id: fc.string() }),
      cache_control: fc.constant({ type: "ephemeral" }),
      service_tier: fc.constantFrom("auto", "standard_only"),
      speed: fc.constantFrom("standard", "fast"),
      inference_geo: fc.constantFrom("us", "global"),
      context_management: jsonTexts,
      safeguards: jsonTexts,
      "not known yet": jsonTexts,
    },
    { requiredKeys: ["model", "max_tokens", "messages", "not known yet"] },
  )
  .map((body) => body as Record<string, unknown>);

const headerValues = fc.stringMatching(/^[a-z0-9,-]{1,12}$/);
const headerSets = fc
  .dictionary(fc.stringMatching(/^(anthropic|x-stainless)-[a-z]{1,8}$/), headerValues, { maxKeys: 4 })
  .map((headers) => ({ ...HEADERS, "anthropic-beta": "a-2026,b-2026", ...headers }));

describe("cacheKey", () => {
  it("C-03 any forwarded body field that is changed, removed or added at any depth changes the key (3,000 bodies)", async () => {
    await fc.assert(
      fc.asyncProperty(
        bodies,
        fc.nat(),
        fc.constantFrom("change", "remove", "wrap", "add"),
        async (body, pick, how) => {
          const ways = [...places(body)].filter((way) => how === "add" || way.length > 0);
          const way = ways[pick % ways.length] ?? [];
          const other = changed(body, way, (value) => {
            if (how === "remove") return undefined;
            if (how === "wrap") return [value];
            if (how === "add" && (typeof value !== "object" || value === null)) return [value, value];
            return anotherOne(value);
          });
          const [before, after] = await Promise.all([keyOf({ body }), keyOf({ body: other })]);
          expect(before.ok).toBe(true);
          // What was made uncacheable by the change (a tool that is none any more) is no hit either.
          if (after.ok) expect(after).not.toEqual(before);
        },
      ),
      { numRuns: 3_000 },
    );
  });

  it("C-03 any forwarded header that is changed, removed or added changes the key (1,000 sets)", async () => {
    await fc.assert(
      fc.asyncProperty(headerSets, fc.nat(), fc.constantFrom("change", "remove", "add"), async (sent, pick, how) => {
        const headers: Record<string, string> = upstreamRequestHeaders(Object.entries(sent));
        const others: Record<string, string> = { ...headers };
        const names = Object.keys(headers).filter((name) => name.startsWith("anthropic-") || name === "content-type");
        const name = names[pick % names.length] ?? "";
        if (how === "change") others[name] += "x";
        else if (how === "remove") delete others[name];
        else others["anthropic-of-tomorrow"] = "1";
        expect(await key({ headers: others })).not.toBe(await key({ headers }));
      }),
      { numRuns: 1_000 },
    );
  });

  it("C-03 every header that is forwarded is in the key, or is left out by name", async () => {
    const client = [
      ...["user-agent", "accept", "x-stainless-retry-count", "x-stainless-timeout", "x-stainless-helper"],
      ...["content-type", "anthropic-version", "anthropic-beta", "anthropic-workspace-id", "anthropic-user-profile-id"],
      ...["anthropic-dangerous-direct-browser-access", "anthropic-new", "x-stainless-new", "x-custom", "cookie"],
    ];
    const counts: string[] = [];
    for (const name of client) {
      const [one, other] = ["1", "2"].map((value) => upstreamRequestHeaders([[name, value]]));
      if ((await key({ headers: one ?? {} })) !== (await key({ headers: other ?? {} }))) counts.push(name);
    }
    expect(counts).toEqual([
      ...["content-type", "anthropic-version", "anthropic-beta", "anthropic-workspace-id", "anthropic-user-profile-id"],
      ...["anthropic-dangerous-direct-browser-access", "anthropic-new", "x-stainless-new"],
    ]);
  });

  it("C-04 order, space, escapes and the form of numbers never change the key (1,500 bodies)", async () => {
    const headers = fc.shuffledSubarray(Object.entries({ ...HEADERS, "anthropic-beta": "a" }), { minLength: 3 });
    await fc.assert(
      fc.asyncProperty(bodies, fc.infiniteStream(fc.nat()), headers, async (body, choices, shuffled) => {
        const plain = await key({ body, headers: { ...HEADERS, "anthropic-beta": "a" } });
        expect(await key({ text: spelled(body, choices), headers: Object.fromEntries(shuffled) })).toBe(plain);
      }),
      { numRuns: 1_500 },
    );
  });

  it("C-02 differs by workspace, purge, path, query, version, betas, model and form of the answer", async () => {
    const keys = await Promise.all([
      key(),
      key({ workspace: "ws_b" }),
      key({ epoch: 1 }),
      key({ target: "/v1/messages" }),
      key({ target: "/v1/messages?beta=false" }),
      key({ headers: { ...HEADERS, "anthropic-version": "2023-06-01" } }),
      key({ headers: { ...HEADERS, "anthropic-beta": "a,b" } }),
      key({ headers: { ...HEADERS, "anthropic-beta": "b,a" } }),
      key({ body: { ...BODY, model: "claude-opus-5-5-20260101" } }),
      key({ body: { ...BODY, stream: true } }),
      key({ body: { ...BODY, stream: false } }),
      key({ body: { ...BODY, metadata: { user_id: "u" } } }),
    ]);
    expect(new Set(keys).size).toBe(keys.length);
    for (const one of keys) expect(one).toMatch(/^[0-9a-f]{64}$/);
  });

  const stateful = "container thread mcp_servers compaction fallbacks fallback_credit_token billing_policy diagnostics";
  const upstreamTools = "web_search_20250305 web_fetch_20250910 code_execution_20250825 mcp_toolset oracle_20270101";
  const url = { type: "image", source: { type: "url", url: "https://x" } };
  const uncacheable: Record<string, readonly (readonly [what: string, changes: object])[]> = {
    "max_tokens: 0": [["an answer of nothing", { max_tokens: 0 }]],
    "a tool that runs upstream": [
      ["a tool of an odd type", { tools: [{ type: 7 }] }],
      ...upstreamTools.split(" ").map((type) => [type, { tools: [{ name: "a" }, { type, name: "b" }] }] as const),
    ],
    "content that is not in the body": [
      ["a URL", { messages: [block(url)] }],
      ["a URL in a tool's result", { messages: [block({ type: "tool_result", content: [url] })] }],
      ["a URL in the system prompt", { system: [url] }],
      ["a file", { messages: [block({ type: "document", source: { type: "file", file_id: "f" } })] }],
      ["an upload", { messages: [block({ type: "container_upload", file_id: "f" })] }],
    ],
  };
  for (const name of `${stateful} output_format`.split(" ")) uncacheable[name] = [[name, { [name]: { any: 1 } }]];
  for (const [reason, cases] of Object.entries(uncacheable)) {
    it.each(cases)("has none for %s", async (_, changes) => {
      expect(await keyOf({ body: { ...BODY, ...changes } })).toEqual({ ok: false, error: reason });
    });
  }

  it("has none where a name occurs twice, at any depth", async () => {
    const twice = { ok: false, error: "a name that occurs twice in an object" };
    expect(await keyOf({ text: '{"model":"a","max_tokens":1,"temperature":0,"temperature":1}' })).toEqual(twice);
    expect(await keyOf({ text: '{"model":"a","messages":[{"role":"user","r\\u006fle":"user"}]}' })).toEqual(twice);
  });

  const cacheable: readonly (readonly [what: string, changes: object])[] = [
    [
      "tools that the client runs",
      { tools: [{ name: "a" }, { type: "custom", name: "b" }, { type: "bash_20250124" }] },
    ],
    ["content in the body", { messages: [block({ type: "image", source: { type: "base64", data: "QQ==" } })] }],
    ["a search result's source", { messages: [block({ type: "search_result", source: "https://x", content: [] })] }],
    ["context management", { context_management: { edits: [{ type: "clear_thinking_20251015", keep: "all" }] } }],
    ["fields that are null", { container: null, mcp_servers: null }],
    ["a temperature", { temperature: 0 }],
  ];
  it.each(cacheable)("has one for %s", async (_, changes) => {
    expect((await keyOf({ body: { ...BODY, ...changes } })).ok).toBe(true);
  });

  it("has one up to 4 MiB", async () => {
    const fill = MAX_CACHEABLE_BYTES - JSON.stringify({ ...BODY, system: "" }).length;
    expect((await keyOf({ body: { ...BODY, system: "x".repeat(fill) } })).ok).toBe(true);
    expect(await keyOf({ body: { ...BODY, system: "x".repeat(fill + 1) } })).toEqual({
      ok: false,
      error: "a large body",
    });
  });
});

function block(content: object) {
  return { role: "user", content: [content] };
}
