/**
 * Clients that leave: at every byte of a stream, one by one and all at once. Each call is settled once and for no less
 * than what was delivered, nothing stays reserved, and a drained call is counted to the token.
 */
import { request } from "node:http";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { event, MODEL } from "../support/counting-claude.ts";
import { type AuditRow, type Gateway, type Key, startGateway, until, withKey } from "../support/gateway.ts";
import { pause, type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const MAX_TOKENS = 60;
const INPUT_TOKENS = 25;
const CACHE_READ_TOKENS = 40;
const OUTPUT_TOKENS = 31;
/** Each of ten characters, at most five tokens of three bytes or more. */
const TEXTS = ["The quick ", "brown fox ", "jumps over", " lazy dogs"];
const TOKENS_PER_TEXT = 3;

const START = event("message_start", {
  message: {
    model: MODEL,
    usage: { input_tokens: INPUT_TOKENS, cache_read_input_tokens: CACHE_READ_TOKENS, output_tokens: 1 },
  },
});
const DELTAS = TEXTS.map((text) => event("content_block_delta", { index: 0, delta: { type: "text_delta", text } }));
const END = event("message_delta", {
  delta: { stop_reason: "end_turn" },
  usage: { output_tokens: OUTPUT_TOKENS },
});
const WHOLE = Buffer.from(START + DELTAS.join("") + END + event("message_stop"));
/** Of those before the first event, of which nothing is delivered, every eighth. */
const OFFSETS = Array.from({ length: WHOLE.length + 1 }, (_, at) => at).filter(
  (at) => at >= START.length - 1 || at % 8 === 0,
);
/** Two prices of claude-opus-5-5 at work, and that of its cache reads, in µUSD per token. */
const costOf = (input: number, cacheRead: number, output: number): number =>
  Math.round(input * 4 + cacheRead * 0.2 + output * 20);

let upstream: ScriptedUpstream;
let gateway: Gateway;
/** Calls whose client has left, by the number in their body. */
const left = new Set<number>();

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url, { bindings: { LEDGER_DEADLINE_MS: "5000" } });
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
});
beforeEach(() => {
  left.clear();
  upstream.received.length = 0;
  // So many bytes, then silence until the client has left, then the rest a bit at a time.
  upstream.script = async (response, { body }) => {
    const { at, n } = JSON.parse(body.toString()) as { at: number; n: number };
    response.writeHead(200, { "content-type": "text/event-stream" });
    if (at > 0) response.write(WHOLE.subarray(0, at));
    while (!left.has(n) && !response.destroyed) await pause(5);
    const rest = WHOLE.subarray(at);
    const size = Math.max(1, Math.ceil(rest.length / 4));
    for (let from = 0; from < rest.length && !response.destroyed; from += size) {
      await pause(25);
      response.write(rest.subarray(from, from + size));
    }
    response.end();
  };
});

/** Calls, and leaves when so many bytes of the answer have come; tells how many had. */
function leaveAt(key: Key, at: number, n: number, stream = true): Promise<number> {
  const body = JSON.stringify({ model: MODEL, max_tokens: MAX_TOKENS, stream, at, n, messages: [] });
  // Before its first event is whole there is no answer.
  const unheard = at < START.length;
  return new Promise((resolve, reject) => {
    const call = request(`${gateway.url}/v1/messages`, { method: "POST", headers: withKey(key), agent: false });
    let bytes = 0;
    const leave = (): void => {
      // While nothing is written to it the runtime notices a connection that is reset, not one that is closed.
      if (unheard) call.socket?.resetAndDestroy();
      else call.destroy();
      left.add(n);
      resolve(bytes);
    };
    call.on("error", () => {});
    call.on("response", (response) => {
      if (response.statusCode !== 200) reject(new Error(`status ${response.statusCode}`));
      response.on("error", () => {});
      response.on("data", (piece: Buffer) => {
        bytes += piece.length;
        if (bytes >= at) leave();
      });
    });
    call.end(body);
    if (!unheard) return;
    // Not a byte of the answer has come, and the upstream has been asked.
    const asked = `"n":${n},`;
    void until(() => upstream.received.some(({ body }) => body.includes(asked)) || undefined, "the call").then(leave);
  });
}

async function leaveEverywhere(key: Key, atOnce: number): Promise<void> {
  for (let from = 0; from < OFFSETS.length; from += atOnce) {
    const offsets = OFFSETS.slice(from, from + atOnce);
    const delivered = await Promise.all(offsets.map((at) => leaveAt(key, at, at)));
    expect(delivered).toEqual(offsets.map((at) => (at < START.length ? 0 : at)));
    // The next ones would be refused while these hold their slots.
    await gateway.settled(key);
  }
}

const limits = { concurrent_requests: 40 };
const budget = { usd: 100, period: "total", mode: "strict" };

/** The rows of so many calls, each there once. */
async function rowsOf(key: Key, count: number): Promise<AuditRow[]> {
  const rows = await gateway.rows(key, count);
  expect(rows).toHaveLength(count);
  expect(new Set(rows.map((row) => row.request_id)).size).toBe(count);
  return rows;
}

async function expectSettled(key: Key, rows: readonly AuditRow[]): Promise<void> {
  const { budget, left } = await gateway.settled(key);
  expect(left.concurrent_requests).toEqual({ running: 0, remaining: limits.concurrent_requests });
  const sum = (name: string): number => rows.reduce((total, row) => total + Number(row[name]), 0);
  expect(budget).toMatchObject({ spent_micro_usd: sum("cost_micro_usd"), reserved_micro_usd: 0 });
  expect(await gateway.usage(`key=${key.id}`)).toMatchObject({
    unreported: 0,
    input_tokens: sum("input_tokens"),
    output_tokens: sum("output_tokens"),
    cost_micro_usd: sum("cost_micro_usd"),
  });
}

describe(`a client that leaves at each of ${OFFSETS.length} offsets of a stream (B-06)`, () => {
  it("with cancel: the input is exact, the output no less than what was delivered and no more than max_tokens", async () => {
    const key = await gateway.makeKey({ on_disconnect: "cancel", limits, budget });
    await leaveEverywhere(key, 40);
    const rows = await rowsOf(key, OFFSETS.length);
    // What was delivered at offset n held so much; more may have come before the upstream was told.
    const least = OFFSETS.map((at) => {
      const text = WHOLE.subarray(0, at).toString();
      const seen = DELTAS.filter((delta) => text.includes(delta)).length;
      return text.includes(END) ? OUTPUT_TOKENS : text.includes(START) ? 1 + seen * TOKENS_PER_TEXT : 0;
    });
    const outputs = rows.map((row) => Number(row.output_tokens)).sort((a, b) => a - b);
    least.sort((a, b) => a - b);
    for (const [i, bound] of least.entries()) expect(outputs[i]).toBeGreaterThanOrEqual(bound);
    for (const row of rows) {
      expect(row.output_tokens).toBeLessThanOrEqual(MAX_TOKENS);
      const known = row.model === MODEL;
      if (known) expect(row).toMatchObject({ input_tokens: INPUT_TOKENS, cache_read_input_tokens: CACHE_READ_TOKENS });
      // Nothing of the upstream's own count had come: a guess, and never nothing.
      else expect(row.input_tokens).toBeGreaterThan(0);
      expect(row.estimated).toBe(row.outcome !== "complete");
      if (known) {
        expect(row.cost_micro_usd).toBe(costOf(INPUT_TOKENS, CACHE_READ_TOKENS, Number(row.output_tokens)));
      }
    }
    const unknown = rows.filter((row) => row.model !== MODEL);
    expect(unknown.length).toBeLessThanOrEqual(START.length);
    await expectSettled(key, rows);
  });

  it("with drain: each is counted to the token, as the upstream made it", async () => {
    const key = await gateway.makeKey({ on_disconnect: "drain", limits, budget });
    await leaveEverywhere(key, 30);
    const rows = await rowsOf(key, OFFSETS.length);
    for (const row of rows) {
      expect(row).toMatchObject({
        input_tokens: INPUT_TOKENS,
        cache_read_input_tokens: CACHE_READ_TOKENS,
        output_tokens: OUTPUT_TOKENS,
        cost_micro_usd: costOf(INPUT_TOKENS, CACHE_READ_TOKENS, OUTPUT_TOKENS),
        estimated: false,
      });
    }
    expect(rows.filter((row) => row.drained).length).toBeGreaterThan(OFFSETS.length / 2);
    await expectSettled(key, rows);
  });
});

it("of twenty that leave at once before the first byte each is drained, though its answer goes to nobody (B-07)", async () => {
  const key = await gateway.makeKey({ on_disconnect: "drain", limits, budget });
  await Promise.all(Array.from({ length: 20 }, (_, n) => leaveAt(key, 0, n)));
  await gateway.settled(key);
  for (const row of await rowsOf(key, 20)) expect(row).toMatchObject({ drained: true, output_tokens: OUTPUT_TOKENS });
});

it("of two hundred that leave at once 32 are drained, the others are settled by estimate, and none is lost (B-07)", async () => {
  const key = await gateway.makeKey({ on_disconnect: "drain", budget });
  const at = START.length + (DELTAS[0]?.length ?? 0);
  upstream.script = async (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(WHOLE.subarray(0, at));
    while (left.size < 200) await pause(5);
    // The runtime learns that its client has left when it next writes to it.
    const more = at + (DELTAS[1]?.length ?? 0);
    response.write(WHOLE.subarray(at, more));
    await pause(700);
    response.end(WHOLE.subarray(more));
  };
  await Promise.all(Array.from({ length: 200 }, (_, n) => leaveAt(key, at, n)));
  const rows = await rowsOf(key, 200);
  const drained = rows.filter((row) => row.drained);
  expect(drained).toHaveLength(32);
  for (const row of drained) {
    expect(row).toMatchObject({ input_tokens: INPUT_TOKENS, output_tokens: OUTPUT_TOKENS, estimated: false });
  }
  for (const row of rows) {
    expect(row.input_tokens).toBe(INPUT_TOKENS);
    expect(row.output_tokens).toBeGreaterThanOrEqual(1 + TOKENS_PER_TEXT);
    expect(row.output_tokens).toBeLessThanOrEqual(MAX_TOKENS);
  }
  const { budget: state } = await gateway.settled(key);
  const spent = rows.reduce((sum, row) => sum + Number(row.cost_micro_usd), 0);
  expect(state).toMatchObject({ spent_micro_usd: spent, reserved_micro_usd: 0 });
});

it.each(["cancel", "drain"] as const)(
  "while an answer that is not streamed is being made, with %s: never for nothing (B-06, F-26)",
  async (on_disconnect) => {
    const key = await gateway.makeKey({ on_disconnect, limits, budget });
    upstream.script = async (response, { body }) => {
      const { n } = JSON.parse(body.toString()) as { n: number };
      while (!left.has(n)) await pause(5);
      await pause(150);
      response.setHeader("content-type", "application/json");
      const usage = {
        input_tokens: INPUT_TOKENS,
        cache_read_input_tokens: CACHE_READ_TOKENS,
        output_tokens: OUTPUT_TOKENS,
      };
      response.end(JSON.stringify({ type: "message", model: MODEL, content: [], usage }));
    };
    await Promise.all(Array.from({ length: 20 }, (_, n) => leaveAt(key, 0, n, false)));
    const rows = await rowsOf(key, 20);
    for (const row of rows) {
      if (on_disconnect === "drain") {
        expect(row).toMatchObject({ input_tokens: INPUT_TOKENS, output_tokens: OUTPUT_TOKENS, estimated: false });
      } else {
        expect(row).toMatchObject({ outcome: "client_gone", estimated: true });
        expect(row.input_tokens).toBeGreaterThan(0);
        expect(row.output_tokens).toBeGreaterThan(0);
      }
    }
    await expectSettled(key, rows);
  },
);
