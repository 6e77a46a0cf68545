/** Every fault, on the wire. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { KEY, type Running, startSimulator } from "./running.ts";
import { accumulate, type Json, MODEL, parseSse } from "./support.ts";

let simulator: Running;
beforeAll(async () => {
  simulator = await startSimulator();
});
afterAll(() => simulator?.stop());

const body = (faults: string, more: Json = {}): Json => ({
  model: `${MODEL}${faults}`,
  max_tokens: 1000,
  stream: true,
  messages: [{ role: "user", content: "say: one two 👋👋 three" }],
  ...more,
});
const streamed = async (faults: string, more: Json = {}): Promise<string> =>
  (await simulator.post(body(faults, more))).text();
const namesIn = (text: string): string[] => text.match(/(?<=^event: )\w+/gm) ?? [];
const timed = async (run: () => Promise<unknown>): Promise<number> => {
  const start = performance.now();
  await run();
  return performance.now() - start;
};

describe("before the answer", () => {
  it("waits for the first byte: ttfb", async () => {
    expect(await timed(() => simulator.post(body("+ttfb=300")))).toBeGreaterThan(290);
  });

  it("takes faults from a header as well, and lets the model's suffix win", async () => {
    const response = await simulator.post(body("+status=503"), { "anthropic-sim-fault": "status=529; retry_after=3" });
    expect(response.status).toBe(503);
    expect(response.headers.get("retry-after")).toBe("3");
    const models = await fetch(`${simulator.url}/v1/models`, {
      headers: { "x-api-key": "sk-ant-x", "anthropic-version": "2026-10-21", "anthropic-sim-fault": "status=500" },
    });
    expect(models.status).toBe(500);
  });

  it("answers with a status, its type and what belongs to it: status, retry_after_ms, should_retry, error_code", async () => {
    const response = await simulator.post(
      body("+status=429+retry_after=7+retry_after_ms=70+should_retry=false+error_code=enforced_spend_limit_reached"),
    );
    expect(response.status).toBe(429);
    const headers = Object.fromEntries(response.headers);
    expect(headers).toMatchObject({ "retry-after": "7", "retry-after-ms": "70", "x-should-retry": "false" });
    expect(await response.json()).toMatchObject({
      type: "error",
      error: { type: "rate_limit_error", details: { error_code: "enforced_spend_limit_reached" } },
      request_id: headers["request-id"],
    });
    const other = await simulator.post(body("+status=400+error_type=billing_error"));
    expect(await other.json()).toMatchObject({ error: { type: "billing_error" } });
  });

  it.each([301, 302, 307, 308])("redirects: redirect=%i, location", async (status) => {
    const response = await simulator.post(body(`+redirect=${status}`));
    expect([response.status, response.headers.get("location")]).toEqual([
      status,
      "https://redirected.invalid/v1/messages",
    ]);
    const elsewhere = await simulator.post(body(`+redirect=${status}+location=/v1/other`));
    expect(elsewhere.headers.get("location")).toBe("/v1/other");
  });

  it("says another content type, and then no JSON in an error: content_type", async () => {
    expect((await simulator.post(body("+content_type=text/plain"))).headers.get("content-type")).toBe("text/plain");
    const error = await simulator.post(body("+status=502+content_type=text/html"));
    expect([error.headers.get("content-type"), await error.text()]).toEqual([
      "text/html",
      "<html><body><h1>502</h1></body></html>",
    ]);
  });

  it.each(["hang", "no_headers"])("never answers: %s", async (fault) => {
    const call = simulator.raw(body(`+${fault}`), { after: 400, how: "reset" });
    expect((await call).bytes.length).toBe(0);
    await expect.poll(async () => (await simulator.journal())[0]?.outcome).toBe("client_gone");
  });

  it("F-02: says when to come back in odd ways: retry_after, retry_after_ms, retry_after_date", async () => {
    for (const value of ["-1", "abc", "99999999"]) {
      const response = await simulator.post(body(`+status=429+retry_after=${value}+retry_after_ms=${value}`));
      const { headers } = response;
      expect([headers.get("retry-after"), headers.get("retry-after-ms")]).toEqual([value, value]);
    }
    const before = Math.floor(Date.now() / 1000) * 1000;
    const dated = await simulator.post(body("+status=429+retry_after_date=30"));
    const text = dated.headers.get("retry-after") ?? "";
    expect(new Date(Date.parse(text)).toUTCString()).toBe(text);
    expect(Date.parse(text)).toBeGreaterThanOrEqual(before + 30_000);
    expect(Date.parse(text)).toBeLessThanOrEqual(Date.now() + 30_000);
  });

  it("F-03: fails so many times and is well again: fail_times, fail_id", async () => {
    const statuses: number[] = [];
    for (let i = 0; i < 4; i++) {
      statuses.push((await simulator.post(body("+status=529+fail_times=2+fail_id=f03"))).status);
    }
    expect(statuses).toEqual([529, 529, 200, 200]);
  });

  it("F-30: fails for so long and is well again: fail_ms", async () => {
    const status = async (): Promise<number> =>
      (await simulator.post(body("+status=529+fail_ms=300+fail_id=f30"))).status;
    expect(await status()).toBe(529);
    await expect.poll(status).toBe(200);
  });

  it("F-29: takes faults behind the key, so that accounts fail differently, and hides them in the journal", async () => {
    const statuses: number[] = [];
    for (const key of ["sk-ant-pool-one1+status=429", "sk-ant-pool-two2+status=500+error_type=api_error", KEY]) {
      statuses.push((await simulator.post(body(""), { "x-api-key": key })).status);
    }
    expect(statuses).toEqual([429, 500, 200]);
    const [, , first] = await simulator.journal(3);
    expect(Object.fromEntries(first?.headers as [string, string][])["x-api-key"]).toBe("…one1");
    const won = await simulator.post(body("+status=503"), { "x-api-key": "sk-ant-pool-one1+status=429" });
    expect(won.status).toBe(503);
    const models = await fetch(`${simulator.url}/v1/models`, {
      headers: { authorization: "Bearer sk-ant-pool-one1+status=429", "anthropic-version": "2026-10-21" },
    });
    expect(models.status).toBe(429);
    const same = await simulator.post(body(""), { "x-api-key": "sk-ant-pool-one1" });
    expect(same.headers.get("anthropic-organization-id")).toBe(won.headers.get("anthropic-organization-id"));
  });

  it("F-21: answers with two headers of one name, or very large ones: double_headers, big_headers", async () => {
    const doubled = await simulator.post(body("+double_headers"));
    expect(doubled.headers.getSetCookie()).toEqual(["sim=1", "sim=2"]);
    expect(doubled.headers.get("x-sim-double")).toBe("1, 2");
    const large = await simulator.post(body("+big_headers=10000"));
    const padding = [...large.headers].filter(([name]) => name.startsWith("x-sim-padding-"));
    expect(padding.reduce((sum, [, value]) => sum + value.length, 0)).toBe(10_000);
  });

  it("F-25: leaves the body unread for so long: slow_body", async () => {
    const slow = { "anthropic-sim-fault": "slow_body=300" };
    expect(await timed(() => simulator.post(body(""), slow))).toBeGreaterThan(290);
    await simulator.raw(body(""), { after: 300, how: "reset" }, "slow_body=60000");
    await expect.poll(async () => (await simulator.journal())[0]?.outcome).toBe("client_gone");
  });

  it("tells the wrong knob by its name", async () => {
    const response = await simulator.post(body("+pace=slow"));
    expect(response.status).toBe(400);
    expect(await response.text()).toContain("fault pace: must be a whole number");
  });
});

describe("in the stream", () => {
  it("waits between events: pace", async () => {
    const events = namesIn(await streamed("")).length;
    expect(await timed(() => streamed("+pace=20"))).toBeGreaterThan((events - 1) * 20 - 5);
  });

  it("sends an error as the first event: error_first", async () => {
    expect(parseSse(await streamed("+error_first=overloaded_error"))).toMatchObject([
      {
        name: "error",
        data: {
          error: { type: "overloaded_error", message: "Overloaded" },
          request_id: expect.stringMatching(/^req_/),
        },
      },
    ]);
  });

  it("sends an error after so many events: error_after, error_type", async () => {
    expect(namesIn(await streamed("+error_after=4+error_type=api_error"))).toEqual([
      "message_start",
      "content_block_start",
      "ping",
      "content_block_delta",
      "error",
    ]);
  });

  it("cuts the connection after exactly so many bytes, inside a character too: cut", async () => {
    const whole = Buffer.from(await streamed(""));
    const inside = whole.indexOf("👋") + 2;
    for (const count of [0, 1, 700, inside]) {
      const { bytes, ended } = await simulator.raw(body(`+cut=${count}`));
      expect([bytes.length, ended]).toEqual([count, false]);
    }
    expect((await simulator.journal())[0]).toMatchObject({ outcome: "cut" });
  });

  it("cuts the connection after so many events: cut_after", async () => {
    const { bytes, ended } = await simulator.raw(body("+cut_after=3"));
    expect([namesIn(bytes.toString()).length, ended]).toEqual([3, false]);
    expect((await simulator.journal())[0]).toMatchObject({ outcome: "cut", events: 3 });
  });

  it("ends properly, but early: end, end_after", async () => {
    const byBytes = await simulator.raw(body("+end=500"));
    expect([byBytes.bytes.length, byBytes.ended]).toEqual([500, true]);
    const byEvents = await simulator.raw(body("+end_after=5"));
    expect([namesIn(byEvents.bytes.toString()).length, byEvents.ended]).toEqual([5, true]);
  });

  it("falls silent after so many events, and notices a reset: silence_after", async () => {
    const { bytes } = await simulator.raw(body("+silence_after=4"), { after: 500, how: "reset" });
    expect(namesIn(bytes.toString()).length).toBe(4);
    await expect.poll(async () => (await simulator.journal())[0]).toMatchObject({ outcome: "client_gone", events: 4 });
  });

  it("F-11: sends headers and then nothing: silence_after=0, silence=0", async () => {
    for (const fault of ["+silence_after=0", "+silence=0"]) {
      const response = await simulator.post(body(fault));
      expect(response.status).toBe(200);
      await response.body?.cancel();
    }
  });

  it("falls silent after so many bytes: silence", async () => {
    const { bytes, ended } = await simulator.raw(body("+silence=700"), { after: 500, how: "reset" });
    expect([bytes.length, ended]).toEqual([700, false]);
  });

  it("F-13: goes on with pings alone, for ever: pings_after", async () => {
    const { bytes, ended } = await simulator.raw(body("+pings_after=2+pace=10"), { after: 500, how: "fin" });
    const names = namesIn(bytes.toString());
    expect(names.slice(0, 2)).toEqual(["message_start", "content_block_start"]);
    expect(names.length).toBeGreaterThan(5);
    expect([new Set(names.slice(2)), ended]).toEqual([new Set(["ping"]), false]);
    await expect.poll(async () => (await simulator.journal())[0]?.outcome).toBe("client_gone");
  });

  it("begins with something else than the message: first_event", async () => {
    const plain = (text: string): string => text.replaceAll(/msg_\w+|req_\w+/g, "id");
    const usual = plain(await streamed(""));
    const [ping, unknown, comment] = await Promise.all(
      ["ping", "unknown", "comment"].map(async (kind) => plain(await streamed(`+first_event=${kind}`))),
    );
    expect(ping).toBe(`event: ping\ndata: {"type":"ping"}\n\n${usual}`);
    expect(unknown).toBe(`event: sim_unknown\ndata: {"type":"sim_unknown"}\n\n${usual}`);
    expect(comment).toBe(`: first\n\n${usual}`);
  });

  it("can fall silent after its last event", async () => {
    const { bytes, ended } = await simulator.raw(body("+silence_after=11"), { after: 500, how: "reset" });
    expect([namesIn(bytes.toString()).at(-1), ended]).toEqual(["message_stop", false]);
  });

  it("comes in pieces: drip with drip_ms, chunk", async () => {
    const size = Buffer.byteLength(await streamed(""));
    expect(await timed(() => streamed("+drip=200+drip_ms=30"))).toBeGreaterThan((Math.ceil(size / 200) - 1) * 30 - 5);
    for (const fault of ["+drip=100+drip_ms=1", "+chunk=64"]) {
      const events = parseSse(await streamed(fault));
      expect(accumulate(events)).toMatchObject({ content: [{ text: "one two 👋👋 three" }] });
    }
  });

  it("never ends, and stops when the client leaves: endless", async () => {
    const { bytes } = await simulator.raw(body("+endless+pace=10"), { after: 500, how: "fin" });
    expect(namesIn(bytes.toString()).length).toBeGreaterThan(10);
    await expect.poll(async () => (await simulator.journal())[0]?.outcome).toBe("client_gone");
    const events = (await simulator.journal())[0]?.events;
    await new Promise((done) => setTimeout(done, 200));
    expect((await simulator.journal())[0]?.events).toBe(events);
  });

  it("breaks the JSON of one event: malformed", async () => {
    const lines = (await streamed("+malformed=3")).split("\n").filter((line) => line.startsWith("data: "));
    const broken = lines.map((line) => {
      try {
        JSON.parse(line.slice(6));
        return false;
      } catch {
        return true;
      }
    });
    expect(broken.flatMap((isBroken, i) => (isBroken ? [i] : []))).toEqual([3]);
  });

  it("is framed otherwise: crlf, cr, bom, comments, padded", async () => {
    const plain = (text: string): string => text.replaceAll(/msg_\w+|req_\w+/g, "id");
    const usual = plain(await streamed(""));
    expect(plain(await streamed("+crlf"))).toBe(usual.replaceAll("\n", "\r\n"));
    expect(plain(await streamed("+cr"))).toBe(usual.replaceAll("\n", "\r"));
    const bytes = await (await simulator.post(body("+bom"))).bytes();
    expect([...bytes.subarray(0, 3)]).toEqual([0xef, 0xbb, 0xbf]);
    expect(plain(await streamed("+comments")).replaceAll(": keep-alive\n", "")).toBe(usual);
    const padded = plain(await streamed("+padded"));
    expect(padded).not.toBe(usual);
    expect(padded.replaceAll(/ +\}$/gm, "}")).toBe(usual);
  });

  it("F-18: has fields that clients skip, or no names of events: sse_fields, nul, no_names", async () => {
    const plain = (text: string): string => text.replaceAll(/msg_\w+|req_\w+/g, "id");
    const usual = plain(await streamed(""));
    expect(plain(await streamed("+no_names"))).toBe(usual.replaceAll(/^event: .*\n/gm, ""));
    expect(plain(await streamed("+nul")).replaceAll(": \0\n", "")).toBe(usual);
    const fields = plain(await streamed("+sse_fields"));
    expect(fields.match(/^id: \d+$/gm)).toEqual(namesIn(usual).map((_, i) => `id: ${i}`));
    expect(fields.replaceAll(/^id: \d+\nretry: 3000\n/gm, "")).toBe(usual);
  });

  it("carries events that nobody knows, and large ones: unknown_event, big_event", async () => {
    expect(namesIn(await streamed("+unknown_event"))).toContain("sim_unknown");
    const grown = (await streamed("+big_event=100000")).length - (await streamed("")).length;
    expect(grown).toBe(100_000);
  });

  it("names another model than asked: model_mismatch", async () => {
    const message = accumulate(parseSse(await streamed("+model_mismatch")));
    expect(message.model).not.toBe(MODEL);
    expect(accumulate(parseSse(await streamed(""))).model).toBe(MODEL);
  });

  it("has so many events of so many bytes: events, bytes", async () => {
    const events = parseSse(await streamed("+events=50+bytes=7"));
    const deltas = events.filter(({ name }) => name === "content_block_delta");
    expect(deltas.length).toBe(50);
    expect(deltas.every(({ data }) => (data.delta as Json).text === "xxxxxxx")).toBe(true);
    expect(accumulate(events)).toMatchObject({ usage: { output_tokens: 50 } });
  });
});

describe("in an answer that is not streamed", () => {
  const whole = { stream: false };

  it("cuts, ends early, drips and breaks the JSON", async () => {
    const cut = await simulator.raw(body("+cut=100", whole));
    expect([cut.bytes.length, cut.ended]).toEqual([100, false]);
    const silent = await simulator.raw(body("+silence=100", whole), { after: 400, how: "reset" });
    expect([silent.bytes.length, silent.ended]).toEqual([100, false]);
    const end = await simulator.raw(body("+end=100", whole));
    expect([end.bytes.length, end.ended]).toEqual([100, true]);
    expect(await timed(() => streamed("+drip=100+drip_ms=40", whole))).toBeGreaterThan(150);
    const malformed = await streamed("+malformed=0", whole);
    expect(() => JSON.parse(malformed)).toThrow(SyntaxError);
    expect(JSON.parse(await streamed("+chunk=50", whole))).toMatchObject({ type: "message" });
  });
});
