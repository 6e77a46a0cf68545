/**
 * Conversations with the simulated Claude, which checks what the API checks: pairs of tool calls and results, signatures of
 * thinking over their exact prefix, the prompt cache, sizes. And its faults, through to the viewer.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ContentBlock, Message, TurnResult } from "../../clients/typescript/protocol.ts";
import { type LocalWorker, startLocalWorker } from "../../scripts/local-runtime.ts";
import { framesOf, type Json, MODEL, type Reply, type Talk, talk } from "../support/conversations.ts";
import { type AuditRow, type Gateway, type Key, startGateway, until } from "../support/gateway.ts";
import { eventsIn, textIn } from "../support/socket.ts";

let simulator: LocalWorker;
let gateway: Gateway;
let key: Key;
let mine: Talk;

beforeAll(async () => {
  simulator = await startLocalWorker({ config: "simulator/wrangler.toml", bundle: "dist/simulator" });
  gateway = await startGateway(simulator.url, {
    bindings: { SILENCE_TIMEOUT_MS: "1500", FIRST_BYTE_TIMEOUT_MS: "1500", LEDGER_DEADLINE_MS: "5000" },
  });
  key = await gateway.makeKey();
  mine = talk(gateway.url, key);
});
afterAll(async () => {
  await gateway?.stop();
  await simulator?.stop();
});

type Call = { target: string; body: string; outcome: string; status: number; events: number };
/** What has arrived at the simulator, oldest first. */
async function calls(limit = 200): Promise<Call[]> {
  const response = await fetch(`${simulator.url}/sim/requests?limit=${limit}`);
  return ((await response.json()) as { data: Call[] }).data.toReversed();
}
const bodiesOf = async (words: string, path = "/v1/messages"): Promise<Json[]> =>
  (await calls())
    .filter((call) => call.target.startsWith(path) && call.body.includes(words))
    .map(({ body }) => JSON.parse(body) as Json);

const blocksOf = (message: Message | null | undefined): readonly ContentBlock[] =>
  typeof message?.content === "string" ? [{ type: "text", text: message.content }] : (message?.content ?? []);
const messagesOf = (body: Json | undefined): readonly { role: string; content: unknown }[] =>
  (body?.messages ?? []) as { role: string; content: unknown }[];
const callsIn = (result: Reply<TurnResult>): readonly string[] =>
  blocksOf(result.json.message).flatMap((block) => (block.type === "tool_use" ? [String(block.id)] : []));
const resultFor = (id: string, text: string): ContentBlock => ({ type: "tool_result", tool_use_id: id, content: text });

const TOOLS = [
  {
    name: "get_weather",
    input_schema: { type: "object", properties: { place: { type: "string" } }, required: ["place"] },
  },
  { name: "get_time", input_schema: { type: "object", properties: { zone: { type: "string" } }, required: ["zone"] } },
];
const THINKING = { thinking: { type: "adaptive" } };

describe("tools", () => {
  it("wait for the results of all parallel calls, which go in one turn in the order of the calls", async () => {
    const { id } = await mine.create({ tools: TOOLS, options: THINKING });
    const asked = await mine.send(id, "use tools get_weather and get_time in Bern");
    expect(asked.json).toMatchObject({ state: "completed", stop_reason: "tool_use" });
    const [weather = "", time = ""] = callsIn(asked);
    expect((await mine.read(id)).awaiting_tool_results).toEqual([weather, time]);
    // Words, strangers, and the same twice are refused, by name.
    for (const content of [
      "just words",
      [resultFor("toolu_nobody", "x")],
      [resultFor(weather, "x"), resultFor(weather, "y")],
      [{ type: "text", text: "first" }, resultFor(weather, "x"), resultFor(time, "y")],
    ]) {
      const refused = await mine.send(id, { content } as Json);
      expect([content, refused.status]).toEqual([content, 400]);
      expect(refused.text).toMatch(/toolu_|tool_result/);
    }
    const part = await mine.send(id, { content: [resultFor(time, "noon")] });
    expect([part.status, part.json]).toEqual([
      202,
      expect.objectContaining({ state: "awaiting_tool_results", awaiting_tool_results: [weather] }),
    ]);
    expect((await mine.read(id)).awaiting_tool_results).toEqual([weather]);
    expect((await mine.send(id, { content: [resultFor(time, "again")] })).status).toBe(400);
    const done = await mine.send(id, { content: [resultFor(weather, "sunny"), { type: "text", text: "and so?" }] });
    expect(done.json).toMatchObject({ state: "completed", stop_reason: "end_turn" });
    const sent = (await bodiesOf("and so?"))[0]?.messages as { role: string; content: ContentBlock[] }[];
    const last = sent.at(-1);
    expect(last?.content.map((block) => block.tool_use_id ?? block.text)).toEqual([weather, time, "and so?"]);
    expect(sent.map(({ role }) => role)).toEqual(["user", "assistant", "user"]);
    // The thinking before the calls went along, signature and all: the simulator has checked it.
    expect(sent[1]?.content[0]).toMatchObject({ type: "thinking", signature: expect.stringMatching(/./) });
    expect((await mine.read(id)).awaiting_tool_results).toEqual([]);
    expect((await mine.messages(id)).data.map(({ role }) => role)).toEqual(["user", "assistant", "user", "assistant"]);
  });

  it("work over the socket too, and another branch may be taken instead", async () => {
    const { id } = await mine.create({ tools: TOOLS });
    const viewer = await mine.socket(id);
    const asked = await viewer.say("use tool get_weather", "c1");
    expect(asked).toMatchObject({ type: "turn.completed", stop_reason: "tool_use" });
    const [call = ""] = "awaiting_tool_results" in asked ? asked.awaiting_tool_results : [];
    viewer.send({ type: "send", id: "c2", content: "never mind" });
    expect((await viewer.next("error")).ref).toBe("c2");
    const from = viewer.frames.length;
    viewer.send({ type: "send", id: "c3", content: [resultFor(call, "rain")] });
    await viewer.ended({ from });
    expect(textIn(viewer.frames.slice(from))).toContain("The tool says: rain");
    await viewer.say("use tool get_time", "c4");
    const { data } = await mine.messages(id);
    const edited = await mine.send(id, { content: "no tools then", edit: data.at(-2)?.id });
    expect(edited.json).toMatchObject({ state: "completed", stop_reason: "end_turn" });
    viewer.check();
    await viewer.close();
  });

  it("that run upstream pause its answer, which the gateway goes on with: one turn, one message", async () => {
    const tools = [{ type: "web_search_20250305", name: "web_search" }, ...TOOLS];
    const { id } = await mine.create({ tools, options: THINKING });
    const found = await mine.send(id, "search 2");
    expect(found.json).toMatchObject({ state: "completed", stop_reason: "end_turn" });
    const kinds = blocksOf(found.json.message).map(({ type }) => type);
    expect(kinds.filter((type) => type.startsWith("server") || type.startsWith("web"))).toEqual([
      ...["server_tool_use", "web_search_tool_result"],
      ...["server_tool_use", "web_search_tool_result"],
    ]);
    const events = eventsIn(framesOf(await mine.log(id))).map((event) => (JSON.parse(event) as Json).type);
    expect(events.filter((type) => type === "message_start")).toHaveLength(3);
    // All of it goes back, thinking and all, and is taken.
    expect((await mine.send(id, "and so?")).json.state).toBe("completed");
    expect((await mine.read(id)).turns).toBe(2);
    expect(await mine.messages(id)).toMatchObject({ data: [{}, {}, {}, {}] });
  });

  it("a cancelled call is awaited by nobody", async () => {
    const { id } = await mine.create({ tools: TOOLS });
    const stream = await mine.stream(id, { content: "use tool get_weather", options: { model: `${MODEL}+pace=40` } });
    await stream.until((events) => events.some(({ data }) => JSON.stringify(data).includes("input_json_delta")));
    await mine.call("POST", `/v1/conversations/${id}/cancel`);
    await stream.ended;
    expect(stream.events.at(-1)?.data).toMatchObject({ type: "turn.failed", state: "cancelled" });
    expect((await mine.read(id)).awaiting_tool_results).toEqual([]);
    expect((await mine.send(id, "and on")).json.state).toBe("completed");
  });
});

describe("a context that grows over its limit", () => {
  const words = (n: number, count = 150): string => `repeat ${count} w${n}`;

  /** Turns, every third with a tool and all of them with thinking, over a limit that a few of them fill. */
  async function drive(
    context: Json,
    label: string,
    turns = 12,
  ): Promise<{ id: string; cuts: Json[]; bodies: Json[] }> {
    const { id } = await mine.create({
      system: `You are ${label}. ${"Stay as you are. ".repeat(20)}`,
      tools: TOOLS,
      options: THINKING,
      max_tokens: 2_000,
      context,
    });
    for (let n = 0; n < turns; n++) {
      const reply = await mine.send(id, n % 3 === 1 ? `use tools get_weather and get_time, turn ${n}` : words(n));
      expect([n, reply.status, reply.json.error ?? null]).toEqual([n, 200, null]);
      const called = callsIn(reply);
      if (called.length > 0) {
        const results = await mine.send(id, {
          content: called.map((call) => resultFor(call, `result ${n} `.repeat(30))),
        });
        expect([n, results.json.state]).toEqual([n, "completed"]);
      }
    }
    const log = framesOf(await mine.log(id));
    const cuts = log.flatMap((frame) => (frame.type === "context.cut" ? [frame.cut as unknown as Json] : []));
    return { id, cuts, bodies: (await bodiesOf(`You are ${label}`)).filter(({ stream }) => stream === true) };
  }

  const roles = (body: Json | undefined): string[] => messagesOf(body).map(({ role }) => role);

  it("truncate: the oldest go, tools stay in pairs, thinking stays valid, the rest stays, and it is told", async () => {
    const { id, cuts, bodies } = await drive({ strategy: "truncate", max_input_tokens: 2_500, keep_turns: 2 }, "Trudy");
    expect(cuts.length).toBeGreaterThan(0);
    for (const cut of cuts) {
      expect(cut).toMatchObject({ strategy: "truncate", reason: "max_input_tokens", summary: null });
      expect(cut.tokens_before).toBeGreaterThan(2_500);
      expect(cut.tokens_after).toBeLessThanOrEqual(2_500);
      expect(cut.messages).toBeGreaterThan(0);
    }
    // Cut back by much at once: not every turn.
    expect(cuts.length).toBeLessThanOrEqual(6);
    const last = bodies.at(-1);
    expect(roles(last)[0]).toBe("user");
    expect(JSON.stringify(last?.system)).toContain("Trudy");
    expect(last?.tools).toHaveLength(2);
    expect(JSON.stringify(last?.messages)).not.toContain("repeat 150 w0");
    expect(JSON.stringify(last?.messages)).toContain("repeat 150 w9");
    // All of it is still in the history.
    const { data } = await mine.messages(id, "?limit=100");
    expect(JSON.stringify(data[0])).toContain("repeat 150 w0");
    expect(data.every(({ type }) => type === "message")).toBe(true);
    for (const body of bodies) {
      const first = messagesOf(body)[0];
      expect(JSON.stringify(first?.content)).not.toContain("tool_result");
    }
    // What each call really took was within the limit, by upstream's own count.
    const turns = framesOf(await mine.log(id)).flatMap((frame) =>
      frame.type === "turn.completed" ? [frame.usage] : [],
    );
    for (const usage of turns) {
      expect(
        usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens,
      ).toBeLessThanOrEqual(2_500);
    }
  });

  it("summarize: a cheaper model says what went, which is kept, shown and billed", async () => {
    const { id, cuts, bodies } = await drive(
      { strategy: "summarize", max_input_tokens: 2_500, keep_turns: 2 },
      "Susan",
    );
    expect(cuts.length).toBeGreaterThan(0);
    expect(cuts[0]).toMatchObject({
      strategy: "summarize",
      reason: "max_input_tokens",
      summary: expect.stringMatching(/^msg_/),
    });
    const { data } = await mine.messages(id, "?limit=100");
    const summaries = data.filter(({ type }) => type === "summary");
    expect(summaries.length).toBeGreaterThan(0);
    expect(JSON.stringify(data)).toContain("repeat 150 w0");
    const text = String(blocksOf(summaries.at(-1))[0]?.text ?? summaries.at(-1)?.content);
    const first = messagesOf(bodies.at(-1))[0];
    expect(first?.role).toBe("user");
    expect(JSON.stringify(first?.content)).toContain(JSON.stringify(text).slice(1, 40));
    // Everything that was billed is in the conversation's own sum.
    const { cost_micro_usd: cost } = await mine.read(id);
    const rows = await until(async () => {
      const { data } = (await (await gateway.admin(`audit?conversation=${id}&limit=500`)).json()) as {
        data: AuditRow[];
      };
      return data.reduce((sum, row) => sum + Number(row.cost_micro_usd), 0) >= cost ? data : undefined;
    }, "all rows");
    expect(rows.reduce((sum, row) => sum + Number(row.cost_micro_usd), 0)).toBe(cost);
    const cheap = rows.filter(({ model }) => String(model).includes("haiku"));
    expect(cheap.length).toBeGreaterThanOrEqual(cuts.length);
    expect(cheap.every(({ cost_micro_usd }) => Number(cost_micro_usd) > 0)).toBe(true);
  });

  it("summarize with a model that cannot be had: truncated, and it is told why", async () => {
    const { cuts } = await drive(
      { strategy: "summarize", max_input_tokens: 1_200, keep_turns: 1, summary_model: `claude-haiku-5-5+status=400` },
      "Sonja",
      6,
    );
    expect(cuts.length).toBeGreaterThan(0);
    for (const cut of cuts)
      expect(cut).toMatchObject({ strategy: "truncate", reason: "summary_failed", summary: null });
  });

  it("a summary is paid for once, also where the message that it was made for is refused then", async () => {
    const poor = await gateway.makeKey({ budget: { usd: 1, period: "total" } });
    const its = talk(gateway.url, poor);
    const context = { strategy: "summarize", max_input_tokens: 900, keep_turns: 1 };
    const { id } = await its.create({ context, max_tokens: 1_000, system: "You are Paula." });
    for (let n = 0; n < 4; n++) await its.send(id, words(n, 250));
    const long = "much ".repeat(300);
    const refused = await its.send(id, { content: long, options: { max_tokens: 100_000 } });
    expect([refused.status, refused.text]).toEqual([429, expect.stringContaining("billing_error")]);
    expect((await its.messages(id)).data).toHaveLength(8);
    const before = await its.read(id);
    const fits = await its.send(id, long);
    expect(fits.json).toMatchObject({ state: "completed", cut: { strategy: "summarize" } });
    expect((await its.messages(id)).data.map(({ type }) => type)).toContain("summary");
    expect((await bodiesOf("repeat 250 w0")).filter(({ model }) => model === "claude-haiku-5-5")).toHaveLength(1);
    // What it cost is the conversation's from the moment that it was spent, and the ledger says the same.
    const { cost_micro_usd: cost } = await its.read(id);
    expect(cost - before.cost_micro_usd).toBe(fits.json.cost_micro_usd);
    expect((await gateway.settled(poor)).budget?.spent_micro_usd).toBe(cost);
  });

  it("none: nothing is cut, whatever the limit says", async () => {
    const { id, cuts, bodies } = await drive({ strategy: "none", max_input_tokens: 500 }, "Norma", 4);
    expect(cuts).toEqual([]);
    expect(JSON.stringify(bodies.at(-1)?.messages)).toContain("repeat 150 w0");
    expect((await mine.read(id)).turns).toBe(5);
  });

  it("whose newest turns alone are too large says so, and keeps nothing of what was said", async () => {
    const { id } = await mine.create({ context: { strategy: "truncate", max_input_tokens: 300, keep_turns: 1 } });
    await mine.send(id, "hello");
    const reply = await mine.send(id, "much ".repeat(2_000));
    expect([reply.status, (reply.json as unknown as { error: Json }).error.type]).toEqual([
      400,
      "invalid_request_error",
    ]);
    expect((await mine.messages(id)).data).toHaveLength(2);
    expect((await mine.send(id, "small")).json.state).toBe("completed");
  });
});

describe("the prompt cache", () => {
  it("gives back an unchanged prefix on every turn (the share is told)", async () => {
    const { id } = await mine.create({
      system: `You are Casher. ${"Remember all of this well. ".repeat(200)}`,
      tools: TOOLS,
    });
    const shares: number[] = [];
    for (let n = 0; n < 6; n++) {
      const reply = await mine.send(id, `turn ${n}: ${"some more words ".repeat(10)}`);
      shares.push(reply.json.usage.cache_read_share);
    }
    expect(shares[0]).toBe(0);
    for (const share of shares.slice(1)) expect(share).toBeGreaterThan(0.9);
    for (const body of await bodiesOf("You are Casher")) {
      expect(JSON.stringify(body).split('"cache_control"').length - 1).toBeLessThanOrEqual(4);
    }
    expect((await mine.read(id)).usage.cache_read_share).toBeGreaterThan(0.7);
  });

  it("leaves the client's own breakpoints alone, and adds none beside one at the top", async () => {
    const cached = { type: "ephemeral" };
    const system = [{ type: "text", text: `You are Topper. ${"Remember. ".repeat(600)}` }];
    const { id } = await mine.create({ system, options: { cache_control: cached } });
    await mine.send(id, "one");
    await mine.send(id, "two");
    for (const body of await bodiesOf("You are Topper")) {
      expect(JSON.stringify(body).split('"cache_control"').length - 1).toBe(1);
    }
    const blocks = Array.from({ length: 4 }, (_, n) => ({
      type: "text",
      text: `You are Fourer ${n}`,
      cache_control: cached,
    }));
    const four = await mine.create({ system: blocks });
    for (const words of ["one", "two"]) expect((await mine.send(four.id, words)).json.state).toBe("completed");
  });
});

describe("faults of the upstream", () => {
  /** What the simulator says to the same words when it is asked directly, event by event. */
  async function original(words: string, fault: string): Promise<string[]> {
    const response = await fetch(`${simulator.url}/v1/messages`, {
      method: "POST",
      headers: { "x-api-key": "sk-ant-direct", "anthropic-version": "2023-06-01", "content-type": "application/json" },
      body: JSON.stringify({
        model: `${MODEL}+${fault}`,
        max_tokens: 1_000,
        stream: true,
        messages: [{ role: "user", content: words }],
      }),
    });
    const text = (await response.text()).replace(/^\uFEFF/, "");
    return text.split(/(?:\r\n\r\n|\n\n|\r\r)/).flatMap((block) => {
      const data = block
        .split(/\r\n|\n|\r/)
        .filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5))
        .join("\n");
      try {
        return data === "" ? [] : [plain(JSON.parse(data) as Json)];
      } catch {
        return [];
      }
    });
  }

  /** Without what differs from call to call. */
  function plain(event: Json): string {
    const { message, usage, ...rest } = event as Json & { message?: Json };
    return JSON.stringify(message ? { ...rest, model: message.model } : { ...rest, usage: usage ? "some" : undefined });
  }

  const WORDS = "say: grüße 👋 你好, and some more words to make a few events";

  it.each([
    "pace=1",
    "crlf",
    "cr",
    "bom",
    "comments",
    "padded",
    "no_names",
    "sse_fields",
    "nul",
    "unknown_event",
    "first_event=ping",
    "first_event=unknown",
    "first_event=comment",
    "chunk=3",
    "drip=40+drip_ms=1",
    "big_event=300000",
    "events=300+bytes=50",
  ])("%s: every event arrives as it was said", async (fault) => {
    const { id } = await mine.create({ max_tokens: 1_000 });
    const stream = await mine.stream(id, { content: WORDS, options: { model: `${MODEL}+${fault}` } });
    expect((await stream.ended).whole).toBe(true);
    const frames = framesOf(stream.events);
    expect(frames.at(-1)).toMatchObject({ type: "turn.completed" });
    const shown = eventsIn(frames).map((event) => plain(JSON.parse(event) as Json));
    expect(shown).toEqual(await original(WORDS, fault));
    const { data } = await mine.messages(id);
    expect(blocksOf(data[1])).toEqual([{ type: "text", text: textIn(frames) }]);
    // The log says the same again.
    expect(framesOf(await mine.log(id))).toEqual(frames);
  });

  it.each([
    ["error_after=6", "failed"],
    ["cut_after=6", "failed"],
    ["cut=813", "failed"],
    ["end_after=6", "failed"],
    ["silence_after=6", "failed"],
  ])("%s: what was said stays, the turn says that it failed, and the next one goes on", async (fault, state) => {
    const { id } = await mine.create();
    const stream = await mine.stream(id, { content: WORDS, options: { model: `${MODEL}+${fault}` } });
    expect((await stream.ended).whole).toBe(true);
    const frames = framesOf(stream.events);
    expect(frames.at(-1)).toMatchObject({ type: "turn.failed", state, error: { type: expect.any(String) } });
    const { data } = await mine.messages(id);
    const text = textIn(frames);
    if (text === "") expect(data).toHaveLength(0);
    else expect(data[1]).toMatchObject({ incomplete: true, content: [{ type: "text", text }] });
    expect((await mine.send(id, "say: on")).json).toMatchObject({ state: "completed" });
    expect((await mine.read(id)).state).toBe("idle");
  });

  it.each(["status=529+fail_times=1+fail_id=conv-a", "error_first=overloaded_error+fail_times=1+fail_id=conv-b"])(
    "%s: tried again by the gateway, and nobody sees it",
    async (fault) => {
      const { id } = await mine.create();
      const reply = await mine.send(id, { content: "say: after all", options: { model: `${MODEL}+${fault}` } });
      expect(reply.json).toMatchObject({ state: "completed", message: { content: [{ text: "after all" }] } });
      const log = framesOf(await mine.log(id));
      expect(textIn(log)).toBe("after all");
    },
  );

  it.each(["status=400", "status=413", "status=529+should_retry=false"])(
    "%s: the history is as it was",
    async (fault) => {
      const { id } = await mine.create();
      const reply = await mine.send(id, { content: "say: x", options: { model: `${MODEL}+${fault}` } });
      expect(reply.status).toBeGreaterThanOrEqual(400);
      expect((await mine.messages(id)).data).toEqual([]);
      expect(await mine.read(id)).toMatchObject({ state: "idle", leaf: null });
    },
  );

  it("malformed: what is no JSON is not passed on as an event, and nothing breaks", async () => {
    const { id } = await mine.create();
    const stream = await mine.stream(id, { content: WORDS, options: { model: `${MODEL}+malformed=5` } });
    expect((await stream.ended).whole).toBe(true);
    for (const event of stream.events) expect(event.data.type).toEqual(expect.any(String));
    expect((await mine.send(id, "say: on")).json.state).toBe("completed");
  });

  it("hang: the gateway's own deadline ends it, and it can be cancelled before", async () => {
    const { id } = await mine.create();
    const stream = mine.stream(id, { content: "say: x", options: { model: `${MODEL}+hang` } });
    await until(async () => (await mine.read(id)).state === "processing" || undefined, "the turn to run");
    await mine.call("POST", `/v1/conversations/${id}/cancel`);
    const { events, ended } = await stream;
    await ended;
    expect(events.at(-1)?.data).toMatchObject({ type: "turn.failed", state: "cancelled" });
    expect((await mine.send(id, "say: on")).json.state).toBe("completed");
  });
});
