/** Conversations over HTTP: every route, who may use it, what it answers, and what is paid. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { Conversation, Message, Turn } from "../../clients/typescript/protocol.ts";
import { framesOf, type Json, MODEL, type Reply, type Talk, talk } from "../support/conversations.ts";
import { type Gateway, startGateway, until } from "../support/gateway.ts";
import { eventsIn, Joined, Refused, textIn, Viewer } from "../support/socket.ts";
import { COST, gate, holdBefore, startTellingClaude, type TellingClaude, USAGE } from "../support/telling-claude.ts";

let claude: TellingClaude;
let gateway: Gateway;
/** Two keys of one workspace, and one of another. */
let mine: Talk;
let colleague: Talk;
let stranger: Talk;

beforeAll(async () => {
  claude = await startTellingClaude();
  gateway = await startGateway(claude.url, {
    bindings: { MAX_ATTEMPTS: "2", LEDGER_DEADLINE_MS: "5000" },
  });
  const workspace = await makeWorkspace("theirs");
  mine = talk(gateway.url, await gateway.makeKey());
  colleague = talk(gateway.url, await gateway.makeKey());
  stranger = talk(gateway.url, await gateway.makeKey({ workspace }));
});
afterAll(async () => {
  await gateway?.stop();
  await claude?.stop();
});
const usual: TellingClaude["plan"] = ({ asked }) => ({ say: ["I heard ", asked, "."] });
beforeEach(() => {
  claude.plan = usual;
});

async function makeWorkspace(name: string): Promise<string> {
  const response = await gateway.admin("workspaces", { json: { name } });
  return ((await response.json()) as { id: string }).id;
}

const one = (id: string, rest = ""): string => `/v1/conversations/${id}${rest}`;
const errorOf = (reply: Reply<unknown>): Json => ((reply.json as Json).error ?? {}) as Json;
const refusal = (reply: Reply<unknown>): unknown[] => [reply.status, errorOf(reply).type];
const textOf = ({ content }: Message): string =>
  typeof content === "string" ? content : content.map(({ text }) => String(text ?? "")).join("");
const said = async (who: Talk, id: string, query = ""): Promise<string[]> =>
  (await who.messages(id, query)).data.map(textOf);
const idle = (who: Talk, id: string): Promise<Conversation> =>
  until(async () => {
    const now = await who.read(id);
    return now.state === "idle" && now.queued.length === 0 ? now : undefined;
  }, "the conversation to be idle");

describe("a conversation", () => {
  it("is made with a model alone, and has everything else then", async () => {
    const reply = await mine.call<Conversation>("POST", "/v1/conversations", { model: MODEL });
    expect(reply.status).toBe(201);
    const made = reply.json;
    expect(made).toMatchObject({
      type: "conversation",
      state: "idle",
      model: MODEL,
      system: null,
      tools: [],
      options: {},
      ttl_seconds: 30 * 24 * 3_600,
      on_busy: "queue",
      metadata: {},
      seq: 0,
      turn: null,
      queued: [],
      awaiting_tool_results: [],
      leaf: null,
      turns: 0,
      cost_micro_usd: 0,
    });
    expect(made.id).toMatch(/^conv_[0-9A-Za-z_-]{30,}$/);
    expect(made.max_tokens).toBeGreaterThan(0);
    expect(Date.parse(made.expires_at) - Date.parse(made.created_at)).toBe(30 * 24 * 3_600_000);
    expect(await mine.read(made.id)).toEqual(made);
    expect(reply.headers.get("x-sluice-request-id")).toMatch(/\S/);
  });

  it("says of every wrong field which one it is, and makes nothing", async () => {
    const before = (await mine.list("?limit=500")).data.length;
    const wrong: readonly (readonly [Json | string, string])[] = [
      [{}, "model"],
      [{ model: 3 }, "model"],
      [{ model: MODEL, modle: "x" }, "modle"],
      [{ model: MODEL, max_tokens: 0 }, "max_tokens"],
      [{ model: MODEL, max_tokens: "many" }, "max_tokens"],
      [{ model: MODEL, ttl_seconds: 0 }, "ttl_seconds"],
      [{ model: MODEL, ttl_seconds: 400 * 24 * 3_600 + 1 }, "ttl_seconds"],
      [{ model: MODEL, ttl_seconds: 1.5 }, "ttl_seconds"],
      [{ model: MODEL, on_busy: "wait" }, "on_busy"],
      [{ model: MODEL, context: { strategy: "forget" } }, "strategy"],
      [{ model: MODEL, context: { strategy: "none", keep_turns: -1 } }, "keep_turns"],
      [{ model: MODEL, context: { max_input_tokens: 0 } }, "max_input_tokens"],
      [{ model: MODEL, metadata: { a: 1 } }, "metadata"],
      [{ model: MODEL, tools: "all" }, "tools"],
      [{ model: MODEL, system: 7 }, "system"],
    ];
    for (const [body, field] of wrong) {
      const reply = await mine.call("POST", "/v1/conversations", body);
      expect([body, ...refusal(reply)]).toEqual([body, 400, "invalid_request_error"]);
      expect(String(errorOf(reply).message)).toContain(field);
    }
    for (const text of ["", "{", "[]", "null", '"x"', "[".repeat(1_000_000)]) {
      const reply = await mine.call("POST", "/v1/conversations", text);
      expect(refusal(reply)).toEqual([400, "invalid_request_error"]);
    }
    const large = await mine.call("POST", "/v1/conversations", { model: MODEL, system: "x".repeat(8 * 1024 * 1024) });
    expect(refusal(large)).toEqual([413, "request_too_large"]);
    expect((await mine.list("?limit=500")).data).toHaveLength(before);
  });

  it("answers another method with 405, and another path with 404", async () => {
    const { id } = await mine.create();
    for (const [method, path] of [
      ["PUT", one(id)],
      ["DELETE", "/v1/conversations"],
      ["PATCH", one(id, "/messages")],
      ["POST", one(id, "/events")],
      ["GET", one(id, "/cancel")],
      ["POST", one(id, "/socket")],
    ] as const) {
      const reply = await mine.call(method, path, method === "GET" ? undefined : {});
      expect([method, path, reply.status]).toEqual([method, path, 405]);
      expect(reply.headers.get("allow")).toMatch(/GET|POST/);
    }
    expect((await mine.call("GET", one(id, "/nothing"))).status).toBe(404);
  });

  it("is changed field by field, by any key of its workspace, and says no to what cannot be changed", async () => {
    const { id, ...made } = await mine.create({ system: "Be brief.", metadata: { a: "1" } });
    const changed = await colleague.call<Conversation>("PATCH", one(id), {
      system: "Be long.",
      metadata: { b: "2" },
      ttl_seconds: 3_600,
      context: { strategy: "truncate", max_input_tokens: 5_000, keep_turns: 2 },
      on_busy: "reject",
    });
    expect(changed.status).toBe(200);
    expect(changed.json).toMatchObject({
      id,
      model: made.model,
      system: "Be long.",
      metadata: { b: "2" },
      ttl_seconds: 3_600,
      on_busy: "reject",
      context: { strategy: "truncate", max_input_tokens: 5_000, keep_turns: 2, summary_model: null },
    });
    expect(await mine.read(id)).toEqual(changed.json);
    for (const wrong of [{ id: "conv_x" }, { state: "idle" }, { seq: 7 }, { leaf: "msg_nobody" }, { ttl_seconds: 0 }]) {
      const reply = await mine.call("PATCH", one(id), wrong);
      expect([wrong, reply.status]).toEqual([wrong, 400]);
    }
    expect(await mine.read(id)).toEqual(changed.json);
  });

  it("is listed for its workspace, newest first, page by page; a cursor is good for that alone (X-04)", async () => {
    const who = talk(gateway.url, await gateway.makeKey({ workspace: await makeWorkspace("pages") }));
    const made: string[] = [];
    for (let n = 0; n < 7; n++) made.push((await who.create({ metadata: { n: String(n) } })).id);
    const seen: string[] = [];
    let cursor = "";
    for (let page = 0; page < 10; page++) {
      const { data, has_more, next_cursor } = await who.list(`?limit=3${cursor}`);
      seen.push(...data.map(({ id }) => id));
      expect(has_more).toBe(next_cursor !== null);
      if (!has_more) break;
      const foreign = await stranger.call("GET", `/v1/conversations?limit=3&cursor=${next_cursor}`);
      expect([foreign.status, (foreign.json as { data?: unknown[] }).data ?? []]).not.toEqual([
        200,
        [expect.anything()],
      ]);
      for (const { id } of (foreign.json as { data?: { id: string }[] }).data ?? []) expect(made).not.toContain(id);
      cursor = `&cursor=${next_cursor}`;
    }
    expect(seen).toEqual(made.toReversed());
    for (const query of ["?limit=0", "?limit=501", "?limit=x", "?cursor=nonsense"]) {
      expect([query, (await who.call("GET", `/v1/conversations${query}`)).status]).toEqual([query, 400]);
    }
  });
});

describe("ownership", () => {
  it("gives another workspace, and a guess, the same 404 on every route and at the socket (X-01, X-02, X-06)", async () => {
    const { id } = await mine.create();
    await mine.send(id, "hello");
    const deleted = (await mine.create()).id;
    expect((await mine.call("DELETE", one(deleted))).status).toBeLessThan(300);
    const guesses = [
      `${id.slice(0, -1)}${id.endsWith("A") ? "B" : "A"}`,
      `${id}A`,
      id.slice(0, -1),
      "conv_1",
      "x",
      "conv_",
      "%00",
      id.toUpperCase(),
    ];
    const routes: readonly (readonly [string, string, Json?])[] = [
      ["GET", ""],
      ["PATCH", "", { metadata: {} }],
      ["DELETE", ""],
      ["POST", "/messages", { content: "x" }],
      ["POST", "/messages", { content: "x", stream: true }],
      ["GET", "/messages"],
      ["GET", "/events"],
      ["POST", "/cancel", {}],
      ["GET", "/export"],
    ];
    const bodies = new Set<string>();
    const ask = async (who: Talk, of: string): Promise<void> => {
      for (const [method, rest, json] of routes) {
        const reply = await who.call(method, one(of, rest), json);
        expect([of, method, rest, reply.status]).toEqual([of, method, rest, 404]);
        bodies.add(JSON.stringify({ ...reply.json, request_id: null }));
      }
      const refused = await who
        .socket(of, { protocols: [], headers: { authorization: `Bearer ${who.key.key}` } })
        .catch((why) => why);
      expect(refused).toBeInstanceOf(Refused);
      expect((refused as Refused).status).toBe(404);
      const socket = await who.socket(of);
      expect((await socket.closed).code).toBe(4404);
      expect(socket.frames.filter(({ type }) => type !== "error")).toEqual([]);
    };
    await ask(stranger, id);
    for (const guess of [deleted, ...guesses]) await ask(mine, guess);
    expect([...bodies]).toHaveLength(1);
    // Nothing of it has been touched, and a key of the same workspace may do everything.
    expect(await said(colleague, id)).toEqual(["hello", "I heard hello."]);
    expect((await colleague.send(id, "and I")).status).toBe(200);
  });

  it("needs the scope, and a credential", async () => {
    const { id } = await mine.create();
    const narrow = talk(gateway.url, await gateway.makeKey({ scopes: ["messages"] }));
    expect(refusal(await narrow.call("GET", one(id)))).toEqual([403, "permission_error"]);
    expect(refusal(await narrow.call("POST", "/v1/conversations", { model: MODEL }))).toEqual([
      403,
      "permission_error",
    ]);
    expect((await (await narrow.socket(id)).closed).code).toBe(4403);
    const nobody = talk(gateway.url, { id: "key_x", key: "sk-sluice-nobody" });
    expect(refusal(await nobody.call("GET", one(id)))).toEqual([401, "authentication_error"]);
    expect((await (await nobody.socket(id)).closed).code).toBe(4401);
    const bare = await Viewer.open(`${gateway.url}${one(id, "/socket")}`, { protocols: ["sluice.v1"] });
    expect((await bare.closed).code).toBe(4401);
  });
});

describe("a turn", () => {
  it("is answered as JSON, is in the history, is paid once, and is charged to who said it", async () => {
    const [speaker, other] = [await gateway.makeKey({ budget: { usd: 10, period: "total" } }), await gateway.makeKey()];
    const { id } = await talk(gateway.url, other).create({ system: "Be brief.", metadata: { a: "b" } });
    const who = talk(gateway.url, speaker);
    const reply = await who.send(id, { content: "good day", id: "c1" });
    expect(reply.status).toBe(200);
    expect(reply.json).toMatchObject({
      type: "turn",
      state: "completed",
      client_id: "c1",
      key_id: speaker.id,
      model: MODEL,
      stop_reason: "end_turn",
      usage: { ...USAGE, cache_read_input_tokens: 0, cache_creation_input_tokens: 0, cache_read_share: 0 },
      cost_micro_usd: COST,
      cost_usd: COST / 1_000_000,
      cut: null,
      error: null,
      message: { role: "assistant", content: [{ type: "text", text: "I heard good day." }], stop_reason: "end_turn" },
    });
    const [call] = claude.of("good day");
    expect(call?.body).toMatchObject({ model: MODEL, stream: true });
    expect(JSON.stringify(call?.body.system)).toContain("Be brief.");
    const { data } = await who.messages(id);
    expect(data.map(({ role, type }) => [role, type])).toEqual([
      ["user", "message"],
      ["assistant", "message"],
    ]);
    expect(data[1]).toEqual(reply.json.message);
    expect(data[1]?.parent).toBe(data[0]?.id);
    const now = await who.read(id);
    expect(now).toMatchObject({ state: "idle", turns: 1, leaf: data[1]?.id, cost_micro_usd: COST, turn: null });
    const rows = (await gateway.audit(speaker, 2)).filter(({ turn_id }) => turn_id === reply.json.id);
    expect(rows.filter(({ cost_micro_usd }) => cost_micro_usd !== 0)).toMatchObject([
      { conversation_id: id, status: 200, outcome: "complete", ...USAGE, cost_micro_usd: COST, key_id: speaker.id },
    ]);
    expect((await gateway.settled(speaker)).budget?.spent_micro_usd).toBe(COST);
    const usage = await gateway.usage(`key=${other.id}`);
    expect(usage.cost_micro_usd ?? 0).toBe(0);
  });

  it("is told as events with numbers, byte for byte what came from upstream, and again from every number on", async () => {
    const { id } = await mine.create();
    claude.plan = () => ({ say: ["grüße ", "👋", ' "quoted" \\ \u2028', "\n", "end"], paceMs: 3 });
    const stream = await mine.stream(id, { content: "tell", id: "c1" });
    expect(stream.status).toBe(200);
    expect(stream.headers["content-type"]).toMatch(/^text\/event-stream/);
    expect((await stream.ended).whole).toBe(true);
    const frames = framesOf(stream.events);
    const joined = new Joined();
    for (const frame of frames) joined.add(frame);
    expect(frames[0]).toMatchObject({ type: "turn.started", id: "c1", content: "tell" });
    expect(frames.at(-1)).toMatchObject({ type: "turn.completed", state: "completed", cost_usd: COST / 1_000_000 });
    expect(eventsIn(frames)).toEqual(claude.of("tell")[0]?.events);
    for (const event of claude.of("tell")[0]?.events ?? []) expect(stream.text).toContain(event);
    const count = frames.length;
    expect((await mine.read(id)).seq).toBe(count);
    for (let after = 0; after <= count; after++) {
      for (const [query, headers] of [
        [`?after=${after}`, {}],
        ["", { "last-event-id": String(after) }],
      ] as const) {
        const again = await colleague.events(id, query, headers);
        expect([after, again.status, (await again.ended).whole]).toEqual([after, 200, true]);
        expect(again.events).toEqual(stream.events.slice(after));
      }
    }
    for (const query of [`?after=${count + 1}`, "?after=-1", "?after=x", "?after=1.5", "?after=99999999999999999999"]) {
      const wrong = await mine.events(id, query);
      expect([query, wrong.status]).toEqual([query, 400]);
    }
  });

  it("is followed live by whoever comes in the middle, from any number, to its end and no further", async () => {
    const { id } = await mine.create();
    const middle = holdBefore(4);
    claude.plan = () => ({ say: ["a", "b", "c", "d", "e"], before: middle.before });
    const first = await mine.stream(id, "live");
    await first.until((events) => events.length === 5);
    const viewers = await Promise.all([0, 1, 3, 5].map((after) => colleague.events(id, `?after=${after}`)));
    await Promise.all(
      viewers.map((viewer, n) => viewer.until((events) => events.length === 5 - ([0, 1, 3, 5][n] ?? 0))),
    );
    middle.open();
    for (const [n, viewer] of viewers.entries()) {
      expect((await viewer.ended).whole).toBe(true);
      expect((await first.ended).whole).toBe(true);
      expect(viewer.events).toEqual(first.events.slice([0, 1, 3, 5][n]));
    }
    expect(textIn(framesOf(first.events))).toBe("abcde");
  });

  it("goes on to its end when everybody has left", async () => {
    const { id } = await mine.create();
    const middle = holdBefore(3);
    claude.plan = () => ({ say: ["a", "b", "c"], before: middle.before });
    const stream = await mine.stream(id, "leave me");
    await stream.until((events) => events.length >= 3);
    stream.leave();
    await new Promise((done) => setTimeout(done, 100));
    middle.open();
    expect(await idle(mine, id)).toMatchObject({ turns: 1, cost_micro_usd: COST });
    expect(await said(mine, id)).toEqual(["leave me", "abc"]);
    expect(claude.of("leave me").map(({ state }) => state)).toEqual(["complete"]);
  });

  it("runs once however often it is sent under one id, and refuses other words under it", async () => {
    const { id } = await mine.create();
    const held = holdBefore(2);
    claude.plan = () => ({ say: ["once"], before: held.before });
    const first = mine.send(id, { content: "same", id: "c1" });
    await until(() => claude.of("same").length === 1, "the call");
    const [json, sse] = [mine.send(id, { content: "same", id: "c1" }), mine.stream(id, { content: "same", id: "c1" })];
    const header = mine.send(id, "same", { "idempotency-key": "c1" });
    const other = await mine.send(id, { content: "different", id: "c1" });
    expect(refusal(other)).toEqual([422, "invalid_request_error"]);
    held.open();
    const turn = (await first).json;
    expect((await json).json).toEqual(turn);
    expect((await header).json).toEqual(turn);
    const stream = await sse;
    await stream.ended;
    expect(eventsIn(framesOf(stream.events))).toEqual(claude.of("same")[0]?.events);
    expect((await mine.send(id, { content: "same", id: "c1" })).json).toEqual(turn);
    expect(claude.of("same")).toHaveLength(1);
    expect(await said(mine, id)).toEqual(["same", "once"]);
  });

  it("waits while another runs, in order, up to 8 of them; or is refused where that is wanted", async () => {
    const { id } = await mine.create();
    const held = gate();
    claude.plan = ({ asked }) => ({
      say: [`re ${asked}`],
      before: (nth) => (asked === "first" && nth === 2 ? held.passed : undefined),
    });
    const first = mine.send(id, "first");
    await until(async () => ((await mine.read(id)).state === "processing" ? true : undefined), "the first turn");
    const waiting: Promise<Reply<Turn>>[] = [];
    for (let n = 1; n <= 8; n++) {
      waiting.push(mine.send(id, `queued ${n}`));
      await until(async () => (await mine.read(id)).queued.length === n || undefined, `${n} waiting`);
    }
    expect(refusal(await mine.send(id, "ninth"))).toEqual([429, "rate_limit_error"]);
    expect(refusal(await mine.send(id, { content: "no", on_busy: "reject" }))).toEqual([409, "conflict_error"]);
    expect(refusal(await mine.send(id, { content: "no", options: { on_busy: "reject" } }))).toEqual([
      409,
      "conflict_error",
    ]);
    held.open();
    expect((await first).json.state).toBe("completed");
    for (const turn of waiting) expect((await turn).json.state).toBe("completed");
    const spoken = ["first", ...Array.from({ length: 8 }, (_, n) => `queued ${n + 1}`)];
    expect(await said(mine, id)).toEqual(spoken.flatMap((words) => [words, `re ${words}`]));
    const log = framesOf(await mine.log(id));
    const kinds = log.filter(({ type }) => type !== "event").map(({ type }) => type);
    expect(kinds.filter((kind) => kind === "turn.queued")).toHaveLength(8);
    // Never two turns at once: their events do not mix.
    let running: string | null = null;
    for (const frame of log) {
      if (frame.type === "turn.started") {
        expect(running).toBeNull();
        running = frame.turn;
      } else if (frame.type === "event") expect(frame.turn).toBe(running);
      else if (frame.type === "turn.completed") running = null;
    }
  });

  it("is cancelled: upstream is left at once, what was said stays, and the next one goes on from there", async () => {
    const { id } = await mine.create();
    claude.plan = ({ asked }) =>
      asked === "long" ? { say: Array.from({ length: 1_000 }, (_, n) => `w${n} `), paceMs: 10 } : { say: ["fine"] };
    const stream = await mine.stream(id, "long");
    await stream.until((events) => events.length > 8);
    const cancelled = await colleague.call<Conversation>("POST", one(id, "/cancel"));
    expect(cancelled.status).toBe(200);
    await stream.ended;
    const frames = framesOf(stream.events);
    expect(frames.at(-1)).toMatchObject({ type: "turn.failed", state: "cancelled", error: { type: "cancelled" } });
    await until(() => claude.of("long")[0]?.state === "gone" || undefined, "upstream to be left", 3_000);
    const { data } = await mine.messages(id);
    expect(data[1]).toMatchObject({ role: "assistant", incomplete: true });
    expect(data[1] && textOf(data[1])).toBe(textIn(frames));
    expect(textIn(frames)).toMatch(/^w0 w1 /);
    const again = await mine.call("POST", one(id, "/cancel"));
    expect(again.status).toBe(200);
    expect((await mine.send(id, "next")).json.state).toBe("completed");
    const sent = claude.of("next")[0]?.body.messages;
    expect(sent?.map(({ role }) => role)).toEqual(["user", "assistant", "user"]);
    expect(JSON.stringify(sent?.[1]?.content)).toContain("w0 w1");
    // What was said was paid for, by a bounded guess, and nothing is held any more.
    expect((await mine.read(id)).cost_micro_usd).toBeGreaterThan(COST);
  });

  it("that fails before it has said anything leaves the history as it was, and can be said again", async () => {
    const { id } = await mine.create();
    await mine.send(id, "before");
    claude.plan = () => ({ status: 400 });
    const failed = await mine.send(id, { content: "try", id: "c2" });
    expect(failed.status).toBeGreaterThanOrEqual(400);
    expect(await said(mine, id)).toEqual(["before", "I heard before."]);
    claude.plan = usual;
    expect((await mine.send(id, { content: "try", id: "c2" })).json).toMatchObject({ state: "completed" });
    expect(await said(mine, id)).toEqual(["before", "I heard before.", "try", "I heard try."]);
  });

  it("that upstream cuts off keeps what it had said, and says that it failed", async () => {
    const { id } = await mine.create();
    claude.plan = () => ({ say: ["half ", "of ", "it"], cutAfter: 4 });
    const stream = await mine.stream(id, "cut");
    await stream.ended;
    const frames = framesOf(stream.events);
    expect(frames.at(-1)).toMatchObject({ type: "turn.failed", state: "failed" });
    expect(textIn(frames)).toBe("half of ");
    const { data } = await mine.messages(id);
    expect(data.map(textOf)).toEqual(["cut", "half of "]);
    expect(data[1]).toMatchObject({ incomplete: true });
    claude.plan = usual;
    expect((await mine.send(id, "on")).json.state).toBe("completed");
  });

  it("pause_turn is gone on with, in the same turn, and is one answer in the history", async () => {
    const { id } = await mine.create();
    const search = { type: "server_tool_use", id: "srvtoolu_1", name: "web_search", input: { query: "x" } };
    let calls = 0;
    claude.plan = () =>
      ++calls < 3
        ? { say: [`part ${calls} `], blocks: calls === 1 ? [search] : [], stopReason: "pause_turn" }
        : { say: ["done"] };
    const stream = await mine.stream(id, "search");
    await stream.ended;
    const frames = framesOf(stream.events);
    expect(new Set(frames.map((frame) => ("turn" in frame ? frame.turn : "")))).toHaveProperty("size", 1);
    expect(frames.at(-1)).toMatchObject({ type: "turn.completed", stop_reason: "end_turn" });
    expect(frames.filter((frame) => frame.type === "event" && frame.event.type === "message_start")).toHaveLength(3);
    const { data } = await mine.messages(id);
    expect(data).toHaveLength(2);
    expect(data[1] && textOf(data[1])).toBe("part 1 part 2 done");
    expect(await mine.read(id)).toMatchObject({ cost_micro_usd: 3 * COST });
    const last = claude.told.at(-1)?.body.messages;
    expect(last?.map(({ role }) => role)).toEqual(["user", "assistant"]);
  });

  it("is refused by limits, money and models before it begins: nothing is stored and nobody is told (B-04)", async () => {
    const slow = talk(gateway.url, await gateway.makeKey({ limits: { requests_per_minute: 4 } }));
    const poor = talk(gateway.url, await gateway.makeKey({ budget: { usd: 0.0001, period: "total", mode: "strict" } }));
    const narrow = talk(gateway.url, await gateway.makeKey({ models: ["claude-haiku-*"] }));
    const { id } = await mine.create();
    expect(refusal(await poor.send(id, "x"))).toEqual([429, "billing_error"]);
    expect((await narrow.send(id, "x")).status).toBeGreaterThanOrEqual(400);
    let refused: Reply<Turn> | undefined;
    for (let n = 0; n < 6 && !refused; n++) {
      const reply = await slow.send(id, `n${n}`);
      if (reply.status !== 200) refused = reply;
    }
    expect(refused && refusal(refused)).toEqual([429, "rate_limit_error"]);
    expect(Number(refused?.headers.get("retry-after"))).toBeGreaterThan(0);
    const now = await mine.read(id);
    const started = framesOf(await mine.log(id)).filter(({ type }) => type === "turn.started");
    expect(started).toHaveLength(now.turns);
    expect(await said(mine, id)).toHaveLength(2 * now.turns);
  });

  it("refuses words that are none", async () => {
    const { id } = await mine.create();
    for (const body of [
      {},
      { content: "" },
      { content: [] },
      { content: 7 },
      { content: [{ text: "no type" }] },
      { content: "x", extra: 1 },
      { content: "x", on_busy: "x" },
      { content: "x", id: "" },
      { content: "x", regenerate: true },
      { content: "x", edit: "msg_nobody" },
      { regenerate: "msg_nobody" },
      { regenerate: true },
      { content: [{ type: "tool_result", tool_use_id: "toolu_nobody", content: "x" }] },
    ]) {
      const reply = await mine.send(id, body as Json);
      expect([body, reply.status >= 400 && reply.status < 500]).toEqual([body, true]);
    }
    expect(await mine.read(id)).toMatchObject({ turns: 0, seq: 0, leaf: null });
  });
});

describe("branches", () => {
  it("are made by editing and by answering anew, seen by their leaf, and gone back to", async () => {
    const { id } = await mine.create();
    let nth = 0;
    claude.plan = ({ asked }) => ({ say: [`${++nth}: ${asked}`] });
    await mine.send(id, "one");
    await mine.send(id, "two");
    const old = await mine.messages(id);
    const [one1, , two] = old.data;
    const edited = await mine.send(id, { content: "TWO", edit: two?.id });
    expect(edited.status).toBe(200);
    expect(await said(mine, id)).toEqual(["one", "1: one", "TWO", "3: TWO"]);
    expect(claude.told.at(-1)?.body.messages).toHaveLength(3);
    const anew = await mine.send(id, { regenerate: true });
    expect(anew.status).toBe(200);
    expect(await said(mine, id)).toEqual(["one", "1: one", "TWO", "4: TWO"]);
    const named = await mine.send(id, { regenerate: one1?.id });
    expect(named.status).toBe(200);
    expect(await said(mine, id)).toEqual(["one", "5: one"]);
    const now = await mine.messages(id);
    expect(now.data[1]?.siblings).toEqual([old.data[1]?.id, now.data[1]?.id]);
    expect(await said(mine, id, `?leaf=${old.data[3]?.id}`)).toEqual(["one", "1: one", "two", "2: two"]);
    const back = await mine.call("PATCH", one(id), { leaf: old.data[3]?.id });
    expect(back.status).toBe(200);
    expect(await said(mine, id)).toEqual(["one", "1: one", "two", "2: two"]);
    const third = (await mine.messages(id)).data[2];
    expect(third?.siblings).toHaveLength(2);
    await mine.send(id, "three");
    expect(await said(mine, id)).toEqual(["one", "1: one", "two", "2: two", "three", "6: three"]);
    expect((await mine.call("GET", one(id, "/messages?leaf=msg_nobody"))).status).toBeGreaterThanOrEqual(400);
    // An edit of the first message has no parent.
    await mine.send(id, { content: "ONE", edit: one1?.id });
    expect(await said(mine, id)).toEqual(["ONE", "7: ONE"]);
    expect((await mine.messages(id)).data[0]).toMatchObject({
      parent: null,
      siblings: expect.arrayContaining([one1?.id]),
    });
  });

  it("come in pages", async () => {
    const { id } = await mine.create();
    for (const words of ["a", "b", "c"]) await mine.send(id, words);
    const all = (await mine.messages(id)).data;
    const seen: Message[] = [];
    let query = "?limit=2";
    for (let page = 0; page < 5; page++) {
      const { data, has_more, next_cursor } = await mine.messages(id, query);
      seen.push(...data);
      if (!has_more) break;
      query = `?limit=2&cursor=${next_cursor}`;
    }
    expect(seen).toEqual(all);
  });
});

describe("the end of a conversation", () => {
  it("by its ttl: it is gone from everywhere, without anybody asking", async () => {
    const { id } = await mine.create({ ttl_seconds: 1 });
    const viewer = await mine.socket(id);
    await viewer.ping();
    expect((await viewer.closed).code).toBe(4404);
    expect((await mine.call("GET", one(id))).status).toBe(404);
    await until(
      async () => !(await mine.list("?limit=500")).data.some((other) => other.id === id) || undefined,
      "the list",
    );
  });

  it("is put off by every turn", async () => {
    const { id } = await mine.create({ ttl_seconds: 2 });
    for (let n = 0; n < 3; n++) {
      await new Promise((done) => setTimeout(done, 1_000));
      expect((await mine.send(id, `still ${n}`)).status).toBe(200);
    }
  });

  it("by deletion, in the middle of a turn: upstream is left, viewers are told, nothing is left behind (X-08)", async () => {
    const { id } = await mine.create();
    claude.plan = () => ({ say: Array.from({ length: 1_000 }, () => "on and "), paceMs: 10 });
    const stream = await mine.stream(id, "forever");
    await stream.until((events) => events.length > 4);
    const [viewer, waiting] = [await mine.socket(id), mine.send(id, "in vain")];
    await viewer.ping();
    await until(async () => (await mine.read(id)).queued.length === 1 || undefined, "the queue");
    const gone = await mine.call("DELETE", one(id));
    expect(gone.status).toBeLessThan(300);
    expect((await viewer.closed).code).toBe(4404);
    await stream.ended;
    expect((await waiting).status).toBeGreaterThanOrEqual(400);
    await until(() => claude.of("forever")[0]?.state === "gone" || undefined, "upstream to be left", 3_000);
    for (const rest of ["", "/messages", "/events", "/export"]) {
      expect([rest, (await mine.call("GET", one(id, rest))).status]).toEqual([rest, 404]);
    }
    expect((await mine.call("DELETE", one(id))).status).toBe(404);
    expect((await mine.list("?limit=500")).data.map((other) => other.id)).not.toContain(id);
    expect(claude.of("in vain")).toHaveLength(0);
  });

  it("leaves an export behind that says everything", async () => {
    const { id } = await mine.create({ system: "Be brief." });
    await mine.send(id, "one");
    const [first] = (await mine.messages(id)).data;
    await mine.send(id, { content: "uno", edit: first?.id });
    const reply = await mine.call<{ conversation: Conversation; messages: Message[]; turns: Turn[] }>(
      "GET",
      one(id, "/export"),
    );
    expect(reply.status).toBe(200);
    expect(reply.json.conversation).toEqual(await mine.read(id));
    expect(reply.json.messages.map(textOf)).toEqual(["one", "I heard one.", "uno", "I heard uno."]);
    expect(reply.json.turns.map(({ state }) => state)).toEqual(["completed", "completed"]);
  });
});
