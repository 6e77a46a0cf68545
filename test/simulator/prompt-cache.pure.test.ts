import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LOOKBACK_BLOCKS, MAX_BREAKPOINTS, PromptCache } from "../../simulator/cache.ts";
import { answered, ask, type Json, modelNamed } from "./support.ts";

const MINUTE = 60_000;
const ephemeral = (ttl?: string): Json => ({ cache_control: { type: "ephemeral", ...(ttl ? { ttl } : {}) } });
/** About so many tokens. */
const long = (seed: string, tokens = 600): string => seed.padEnd(tokens * 4, `${seed} `);
const text = (value: string, more: Json = {}): Json => ({ type: "text", text: value, ...more });
const user = (...blocks: Json[]): Json => ({ role: "user", content: blocks });

type Figures = { input: number; read: number; write5m: number; write1h: number };

/** A cache of its own, and what it does with a request. */
function asker(): (body: Json, now?: number, scope?: string) => Figures {
  const cache = new PromptCache();
  return (body, now = 0, scope = "key") => {
    const { usage } = answered({ max_tokens: 1, ...body }, { cache, now, scope });
    return {
      input: usage.input_tokens,
      read: usage.cache_read_input_tokens,
      write5m: usage.cache_creation.ephemeral_5m_input_tokens,
      write1h: usage.cache_creation.ephemeral_1h_input_tokens,
    };
  };
}

describe("the prompt cache", () => {
  it("writes at a breakpoint and reads the same prefix back", () => {
    const send = asker();
    const system = [text(long("rules"), ephemeral())];
    const first = send({ system, messages: [user(text("one"))] });
    expect(first).toMatchObject({ read: 0, write1h: 0 });
    expect(first.write5m).toBeGreaterThan(512);
    const second = send({ system, messages: [user(text("another question"))] });
    expect(second).toMatchObject({ read: first.write5m, write5m: 0, write1h: 0 });
  });

  it("grows with a conversation: each turn reads what the one before wrote", () => {
    const send = asker();
    const history: Json[] = [];
    let cached = 0;
    for (let turn = 0; turn < 5; turn++) {
      const now = send({ messages: [...history, user(text(long(`turn ${turn}`), ephemeral()))] });
      expect(now.read).toBe(cached);
      expect(now.write5m).toBeGreaterThan(0);
      expect(now.input).toBe(0);
      cached = now.read + now.write5m;
      history.push(user(text(long(`turn ${turn}`))), { role: "assistant", content: `answer ${turn}` });
    }
  });

  it("reads only whole prefixes that are exactly the same", () => {
    const blocks = fc.array(fc.constantFrom("a", "b"), { minLength: 1, maxLength: 6 });
    fc.assert(
      fc.property(fc.array(blocks, { minLength: 2, maxLength: 6 }), (prompts) => {
        const send = asker();
        const written = new Map<string, number>();
        for (const prompt of prompts) {
          const content = prompt.map((seed, i) => text(long(seed), i === prompt.length - 1 ? ephemeral() : {}));
          const now = send({ messages: [user(...content)] });
          const known = prompt.map((_, i) => written.get(prompt.slice(0, i + 1).join())).filter((size) => size);
          expect(now.read).toBe(known.at(-1) ?? 0);
          written.set(prompt.join(), now.read + now.write5m);
        }
      }),
      { numRuns: 100 },
    );
  });

  it("keeps five minutes from the last read, or an hour", () => {
    const send = asker();
    const short = { system: [text(long("short"), ephemeral())], messages: [user(text("x"))] };
    const lasting = { system: [text(long("lasting"), ephemeral("1h"))], messages: [user(text("x"))] };
    const size = send(short).write5m;
    expect(send(lasting).write1h).toBeGreaterThan(0);
    expect(send(short, 4 * MINUTE).read).toBe(size);
    expect(send(short, 8 * MINUTE).read).toBe(size);
    expect(send(short, 13 * MINUTE + 1)).toMatchObject({ read: 0, write5m: size });
    expect(send(lasting, 59 * MINUTE).read).toBeGreaterThan(0);
    expect(send(lasting, 119 * MINUTE + 1).read).toBe(0);
  });

  it("bills mixed lifetimes by their places: an hour first, then five minutes", () => {
    const send = asker();
    const body = {
      system: [text(long("system"), ephemeral("1h"))],
      messages: [user(text(long("document"), ephemeral()), text("question"))],
    };
    const first = send(body);
    expect(first.write1h).toBeGreaterThan(512);
    expect(first.write5m).toBeGreaterThan(512);
    expect(first.input).toBeGreaterThan(0);
    expect(send(body)).toMatchObject({ read: first.write1h + first.write5m, write1h: 0, write5m: 0 });
  });

  it.each([20, 21])("looks back over twenty blocks: an entry %i places from the end", (places) => {
    const send = asker();
    const blocks = Array.from({ length: 40 }, (_, i) => text(long(`block ${i}`, 100)));
    const upTo = (count: number): Json => ({
      messages: [user(...blocks.slice(0, count - 1), { ...blocks[count - 1], ...ephemeral() })],
    });
    const first = send(upTo(10));
    expect(send(upTo(10 + places - 1)).read).toBe(places <= LOOKBACK_BLOCKS ? first.write5m : 0);
  });

  it("does not keep a prefix below the model's minimum", () => {
    const { minCacheTokens } = modelNamed("claude-haiku-4-5");
    const send = asker();
    const body = (tokens: number): Json => ({
      model: "claude-haiku-4-5",
      system: [text("x".repeat(tokens * 4), ephemeral())],
      messages: [user(text("x"))],
    });
    expect(send(body(minCacheTokens - 100)).write5m).toBe(0);
    expect(send(body(minCacheTokens)).write5m).toBeGreaterThanOrEqual(minCacheTokens);
  });

  it("takes a top-level cache_control as a breakpoint on the last block", () => {
    const send = asker();
    const body = { messages: [user(text(long("all of it")))], cache_control: { type: "ephemeral", ttl: "1h" } };
    const first = send(body);
    expect(first).toMatchObject({ input: 0, write5m: 0 });
    expect(send(body).read).toBe(first.write1h);
  });

  it("is one for each credential and each model", () => {
    const send = asker();
    const body = { system: [text(long("secret"), ephemeral())], messages: [user(text("x"))] };
    send(body, 0, "one");
    expect(send(body, 0, "other").read).toBe(0);
    expect(send({ ...body, model: "claude-opus-5" }, 0, "one").read).toBe(0);
    expect(send(body, 0, "one").read).toBeGreaterThan(0);
  });

  it.each([
    ["tool_choice", { tool_choice: { type: "none" } }, { tools: true, system: true, messages: false }],
    ["thinking", { thinking: { type: "adaptive" } }, { tools: true, system: true, messages: false }],
    ["effort", { output_config: { effort: "low" } }, { tools: true, system: true, messages: false }],
    ["speed", { speed: "fast" }, { tools: true, system: false, messages: false }],
  ] as const)("loses the levels that %s belongs to, and no other", (_, change, kept) => {
    const tool = { name: "t", description: long("tool"), input_schema: { type: "object" }, ...ephemeral() };
    for (const [level, isKept] of Object.entries(kept)) {
      const send = asker();
      const body: Json = {
        tools: [level === "tools" ? tool : { ...tool, cache_control: undefined }],
        system: [text(long("system"), level === "system" ? ephemeral() : {})],
        messages: [user(text(long("message"), level === "messages" ? ephemeral() : {}))],
      };
      send(body);
      expect(send({ ...body, ...change }).read > 0, level).toBe(isKept);
    }
  });

  it("is filled by a request for no tokens", () => {
    const send = asker();
    const body = { system: [text(long("warm"), ephemeral())], messages: [user(text("x"))] };
    const parts = answered({ ...body, max_tokens: 0 });
    expect(parts.reply).toMatchObject({ blocks: [], stopReason: "max_tokens", outputTokens: 0 });
    expect(send({ ...body, max_tokens: 0 }).write5m).toBeGreaterThan(0);
    expect(send(body).read).toBeGreaterThan(0);
  });

  it.each([
    [MAX_BREAKPOINTS + 1, /A maximum of 4 blocks with cache_control may be provided. Found 5./],
    [MAX_BREAKPOINTS, undefined],
  ])("answers to %i breakpoints", (count, wrong) => {
    const blocks = Array.from({ length: count }, (_, i) => text(`block ${i}`, ephemeral()));
    const parts = ask({ messages: [user(...blocks)] });
    if (wrong) expect(parts).toMatch(wrong);
    else expect(typeof parts).toBe("object");
  });

  it("refuses a lifetime of an hour after one of five minutes, unknown lifetimes, and breakpoints on thinking", () => {
    const blocks = [text("a", ephemeral()), text("b", ephemeral("1h"))];
    expect(ask({ messages: [user(...blocks)] })).toMatch(/ttl='1h' cache_control block must not come after/);
    expect(ask({ messages: [user(text("a", ephemeral("2h")))] })).toMatch(/Input should be '5m' or '1h'/);
    expect(ask({ messages: [user(text("a", { cache_control: { type: "x" } }))] })).toMatch(/should be 'ephemeral'/);
    const thinking = { type: "thinking", thinking: "", signature: "x", ...ephemeral() };
    const turns = [user(text("a")), { role: "assistant", content: [thinking, text("b")] }, user(text("c"))];
    expect(ask({ messages: turns })).toMatch(/cannot be set on thinking blocks/);
  });
});
