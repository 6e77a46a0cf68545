/**
 * Conversations whose runtime dies as by `kill -9`, whose lines break at any byte, and on which everybody does everything
 * at once: what was shown is never taken back, nothing is missing, nothing comes twice, nothing is paid for twice.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { LoggedFrame, ServerFrame } from "../../clients/typescript/protocol.ts";
import { framesOf, isTaken, type Talk, talk } from "../support/conversations.ts";
import { type Gateway, type Key, startGateway, until } from "../support/gateway.ts";
import { pause } from "../support/scripted-upstream.ts";
import { eventsIn, follow, Joined, startLine, textIn, type Viewer } from "../support/socket.ts";
import { COST, gate, startTellingClaude, type TellingClaude } from "../support/telling-claude.ts";

let claude: TellingClaude;
const folder = mkdtempSync(join(tmpdir(), "sluice-kills-"));
const running: Gateway[] = [];

beforeAll(async () => {
  claude = await startTellingClaude();
});
afterEach(async () => {
  for (const gateway of running.splice(0)) await gateway.stop();
});
afterAll(async () => {
  await claude?.stop();
  rmSync(folder, { recursive: true, force: true });
});

async function start(state: string, port = 0): Promise<Gateway> {
  const bindings = { LEDGER_DEADLINE_MS: "5000" };
  const gateway = await startGateway(claude.url, { bindings, stateDir: join(folder, state), port });
  running.push(gateway);
  return gateway;
}

/** Kills it, and starts another one where it was. */
async function restart(gateway: Gateway, state: string): Promise<Gateway> {
  running.splice(running.indexOf(gateway), 1);
  await gateway.kill();
  return start(state, gateway.port);
}

const tokens = (count: number, bytes = 8): string[] =>
  Array.from({ length: count }, (_, n) => `${n}`.padStart(bytes - 1, ".").concat(" "));
const isEnd = ({ type }: { type: string }): boolean => type === "turn.completed" || type === "turn.failed";
/** Of a turn that left an answer. One that was killed before is begun anew when its words are said again. */
const isLasting = (frame: ServerFrame): boolean =>
  (frame.type === "turn.completed" || frame.type === "turn.failed") && frame.message !== null;
const logOf = async (who: Talk, id: string): Promise<LoggedFrame[]> => framesOf(await who.log(id));

/**
 * Every turn in a log is what one upstream call sent: all of it where it completed, else its beginning. Calls that were
 * begun and never shown are the only ones beside it.
 */
function checkAgainstOriginal(log: readonly LoggedFrame[], words: (turn: string) => string): void {
  for (const end of log.filter(isEnd)) {
    const shown = eventsIn(log, end.turn);
    const originals = claude.of(words(end.turn)).map(({ events }) => events);
    const match = originals.find((events) => shown.every((event, n) => event === events[n]));
    expect(match, `${end.turn} is the beginning of no call: ${shown.slice(0, 3).join(" ")}`).toBeDefined();
    if (end.type === "turn.completed") expect(shown).toHaveLength(match?.length ?? 0);
  }
}

/** Each upstream call that was settled is in the audit once, with its own tokens. */
async function expectPaidOnce(gateway: Gateway, key: Key, completed: number): Promise<void> {
  const rows = await gateway.audit(key, 1);
  const turns = rows.filter(({ turn_id, cost_micro_usd }) => turn_id !== null && cost_micro_usd !== 0);
  expect(new Set(turns.map(({ request_id }) => request_id)).size).toBe(turns.length);
  const whole = turns.filter(({ outcome }) => outcome === "complete");
  expect(whole.map(({ cost_micro_usd }) => cost_micro_usd)).toEqual(whole.map(() => COST));
  expect(whole.length).toBeLessThanOrEqual(completed);
}

describe("kill -9 in mid-turn", () => {
  it("before the first event: called again, and nobody sees more than a wait", async () => {
    let gateway = await start("before");
    const key = await gateway.makeKey();
    const who = talk(gateway.url, key);
    const { id } = await who.create();
    const held = gate();
    let calls = 0;
    claude.plan = () => ({ say: tokens(5), before: (nth) => (nth === 0 && ++calls === 1 ? held.passed : undefined) });
    const followed = follow(() => who.socket(id), isEnd);
    await until(async () => (await who.read(id)).state === "idle" || undefined, "the conversation");
    void who.send(id, { content: "early", id: "c1" }).catch(() => {});
    await until(() => claude.of("early").length === 1 || undefined, "the call");
    gateway = await restart(gateway, "before");
    const { joined, connections } = await followed;
    expect(connections).toBeGreaterThan(1);
    expect(joined.frames.at(-1)).toMatchObject({ type: "turn.completed" });
    expect(joined.frames.filter(({ type }) => type === "turn.started")).toHaveLength(1);
    expect(eventsIn(joined.frames)).toEqual(claude.of("early")[1]?.events);
    expect(claude.of("early")).toHaveLength(2);
    expect(await logOf(who, id)).toEqual(joined.frames);
    // It is the same message that is said again.
    expect((await who.send(id, { content: "early", id: "c1" })).json).toMatchObject({ state: "completed" });
    expect(claude.of("early")).toHaveLength(2);
    held.open();
  });

  it("and nobody is there to see it: it is found and brought to its end by itself", async () => {
    let gateway = await start("alone");
    const who = talk(gateway.url, await gateway.makeKey());
    const { id } = await who.create();
    const held = gate();
    let calls = 0;
    claude.plan = () => ({ say: tokens(5), before: (nth) => (nth === 0 && ++calls === 1 ? held.passed : undefined) });
    void who.send(id, "alone").catch(() => {});
    await until(() => claude.of("alone").length === 1 || undefined, "the call");
    gateway = await restart(gateway, "alone");
    await until(() => claude.of("alone")[1]?.state === "complete" || undefined, "the guard to look", 40_000);
    held.open();
    await until(async () => (await who.messages(id)).data.length === 2 || undefined, "the answer");
  }, 60_000);

  it("after it: interrupted with all that had been shown, and what waits goes on", async () => {
    let gateway = await start("after");
    const key = await gateway.makeKey();
    const who = talk(gateway.url, key);
    const { id } = await who.create();
    const held = gate();
    claude.plan = ({ asked }) => ({
      say: tokens(10),
      before: (nth) => (asked === "late" && nth === 7 ? held.passed : undefined),
    });
    const ends: string[] = [];
    const followed = follow(
      () => who.socket(id),
      (frame) => isEnd(frame) && ends.push(frame.type) === 3,
    );
    void who.send(id, { content: "late", id: "c1" }).catch(() => {});
    await until(() => claude.of("late")[0]?.events.length === 7 || undefined, "seven events");
    for (const words of ["waiting 1", "waiting 2"]) void who.send(id, words).catch(() => {});
    await until(async () => (await who.read(id)).queued.length === 2 || undefined, "the queue");
    gateway = await restart(gateway, "after");
    const { joined } = await followed;
    held.open();
    expect(ends).toEqual(["turn.failed", "turn.completed", "turn.completed"]);
    const failed = joined.frames.find(({ type }) => type === "turn.failed");
    expect(failed).toMatchObject({ state: "interrupted", error: { type: "interrupted" }, message: expect.any(String) });
    const shown = textIn(joined.frames, failed?.turn);
    expect(eventsIn(joined.frames, failed?.turn)).toEqual(claude.of("late")[0]?.events.slice(0, 7));
    expect(claude.of("late")).toHaveLength(1);
    const { data } = await who.messages(id);
    expect(data[1]).toMatchObject({ role: "assistant", incomplete: true, content: [{ type: "text", text: shown }] });
    expect(data.map(({ role }) => role)).toEqual(["user", "assistant", "user", "assistant", "user", "assistant"]);
    // The partial answer is what the model is told that it said.
    expect(JSON.stringify(claude.of("waiting 1")[0]?.body.messages[1])).toContain(shown.trim());
    expect(await logOf(who, id)).toEqual(joined.frames);
    await expectPaidOnce(gateway, key, 2);
    expect((await who.read(id)).state).toBe("idle");
  });

  it("again and again at random moments, with lines that break at random bytes: all viewers agree with the original", async () => {
    let gateway = await start("random");
    const key = await gateway.makeKey();
    const line = await startLine(gateway.port);
    line.breakAfter = () => 300 + Math.floor(Math.random() * 8_000);
    const who = talk(gateway.url, key);
    claude.plan = ({ asked }) => ({ say: [asked, " ", ...tokens(40)], paceMs: 3 + Math.random() * 10 });
    const ids = await Promise.all(Array.from({ length: 6 }, async () => (await who.create()).id));
    const TURNS = 4;
    const followers = ids.flatMap((id) =>
      [line.url, line.url, gateway.url].map((url) => {
        let ends = 0;
        return follow(
          () => who.socket(id, {}, url),
          (frame) => isLasting(frame) && ++ends === TURNS,
        );
      }),
    );
    // Each client says its words until they have been taken: the same id is the same message.
    const speakers = ids.map(async (id, n) => {
      for (let turn = 0; turn < TURNS; turn++) {
        for (;;) {
          const body = { content: `words ${n}-${turn}!`, id: `c${turn}` };
          const sent = await who.send(id, body).catch(() => null);
          // Taken, whatever became of it: the turn is there.
          if (sent && isTaken(sent)) break;
          if (sent && sent.status < 500) throw new Error(`${sent.status} ${sent.text}`);
          await pause(50);
        }
      }
    });
    for (let life = 0; life < 3; life++) {
      await pause(400 + Math.random() * 600);
      gateway = await restart(gateway, "random");
    }
    await Promise.all(speakers);
    const followed = await Promise.all(followers);
    expect(followed.some(({ connections }) => connections > 3)).toBe(true);
    let completed = 0;
    for (const [n, id] of ids.entries()) {
      const log = await logOf(who, id);
      for (const { joined } of followed.slice(3 * n, 3 * n + 3)) expect(joined.frames).toEqual(log);
      const words = new Map(
        log.flatMap((frame) => (frame.type === "turn.started" ? [[frame.turn, String(frame.content)]] : [])),
      );
      checkAgainstOriginal(log, (turn) => words.get(turn) ?? "?");
      const ends = log.filter(isLasting);
      expect(ends).toHaveLength(TURNS);
      for (const end of ends) if (end.type === "turn.failed") expect(end.state).toBe("interrupted");
      completed += ends.filter(({ type }) => type === "turn.completed").length;
      // And the history says what the events said.
      const { data } = await who.messages(id, "?limit=100");
      const answers = data.filter(({ role }) => role === "assistant");
      for (const answer of answers) {
        const text = (answer.content as readonly { text?: string }[]).map((block) => block.text ?? "").join("");
        expect(text).toBe(textIn(log, answer.turn));
      }
    }
    expect(completed).toBeGreaterThan(0);
    await expectPaidOnce(gateway, key, completed);
    await line.stop();
  }, 90_000);
});

describe("everything at once", () => {
  it("send, cancel, change, delete, expiry and coming and going of fifty clients: no answer but the ones there are", async () => {
    const gateway = await start("races");
    const who = talk(gateway.url, await gateway.makeKey());
    claude.plan = ({ asked }) => ({ say: [asked, ...tokens(8)], paceMs: Math.random() * 6 });
    const ids = await Promise.all(
      Array.from({ length: 8 }, async (_, n) => (await who.create({ ttl_seconds: n < 2 ? 2 : 3_600 })).id),
    );
    const doomed = new Set(ids.slice(0, 4));
    const statuses = new Map<string, number>();
    const count = (what: string, status: number): void => {
      statuses.set(`${what} ${status}`, (statuses.get(`${what} ${status}`) ?? 0) + 1);
    };
    const viewers: Viewer[] = [];
    const one = (id: string, rest = ""): string => `/v1/conversations/${id}${rest}`;
    const acts: readonly ((id: string, n: number) => Promise<void>)[] = [
      async (id, n) => count("send", (await who.send(id, { content: `w${n}`, id: `c${n % 7}` })).status),
      async (id, n) => count("send", (await who.send(id, { content: `r${n}`, on_busy: "reject" })).status),
      async (id) => count("cancel", (await who.call("POST", one(id, "/cancel"))).status),
      async (id) => count("patch", (await who.call("PATCH", one(id), { metadata: { a: "b" } })).status),
      async (id) => count("read", (await who.call("GET", one(id, "/messages"))).status),
      async (id) => count("regenerate", (await who.send(id, { regenerate: true })).status),
      async (id, n) => {
        const stream = await who.stream(id, { content: `s${n}` });
        count("stream", stream.status);
        if (n % 2) stream.leave();
        await stream.ended;
      },
      async (id) => {
        const viewer = await who.socket(id);
        viewers.push(viewer);
        if (viewer.isOpen) viewer.send({ type: "resume", after: 0 });
        await pause(Math.random() * 200);
        viewer.check();
        if (Math.random() < 0.5) viewer.break();
      },
      async (id, n) => {
        if (doomed.has(id) && n > 30) count("delete", (await who.call("DELETE", one(id))).status);
      },
    ];
    await Promise.all(
      Array.from({ length: 50 }, async (_, client) => {
        for (let n = 0; n < 8; n++) {
          const id = ids[(client + n) % ids.length] ?? "";
          await acts[Math.floor(Math.random() * acts.length)]?.(id, client);
        }
      }),
    );
    const allowed: Record<string, readonly number[]> = {
      send: [200, 404, 409, 422, 429],
      cancel: [200, 404],
      patch: [200, 404, 409],
      read: [200, 404],
      regenerate: [200, 400, 404, 409, 429],
      stream: [200, 404, 409, 429],
      delete: [200, 204, 404],
    };
    for (const what of statuses.keys()) {
      const [name = "", status] = what.split(" ");
      expect([what, allowed[name]?.includes(Number(status))]).toEqual([what, true]);
    }
    for (const id of ids.slice(4)) {
      await until(async () => {
        const now = await who.read(id);
        return (now.state === "idle" && now.queued.length === 0) || undefined;
      }, `${id} to be idle`);
      const log = await logOf(who, id);
      const joined = new Joined();
      for (const frame of log) joined.add(frame);
      // Whatever was started has ended, once.
      const started = log.flatMap((frame) => (frame.type === "turn.started" ? [frame.turn] : []));
      const ended = log.filter(isEnd).map(({ turn }) => turn);
      expect(new Set(ended).size).toBe(ended.length);
      for (const turn of started) expect(ended).toContain(turn);
      expect((await who.send(id, "and on")).status).toBe(200);
    }
    await until(async () => {
      const states = await Promise.all(ids.slice(0, 2).map(async (id) => (await who.call("GET", one(id))).status));
      return states.every((status) => status === 404) || undefined;
    }, "the expiry");
    await until(() => claude.told.every(({ state }) => state !== "running") || undefined, "all calls to end");
    for (const viewer of viewers) {
      viewer.check();
      viewer.break();
    }
    expect(gateway.log()).not.toMatch(/"level":"error"|Uncaught|internal error/);
  }, 60_000);
});
