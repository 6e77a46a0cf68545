/** The object of one answer: who runs, who attaches, what is kept, for how long, and what a death leaves. */
import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { AnswerObject, Claim, Keep } from "../../src/answers/protocol.ts";
import { type Turn, takeTurn } from "../../src/answers/turn.ts";
import type { Upload } from "../../src/answers/upload.ts";
import type { Forwarding } from "../../src/hotpath/forward.ts";
import { leaseBook } from "../../src/hotpath/leases.ts";
import { type CallFacts, CallRecord, type Ending } from "../../src/hotpath/settle.ts";
import { KEY_DEFAULTS, type KeyPolicy } from "../../src/identity/key-record.ts";
import { NOTHING } from "../../src/ledger/amounts.ts";
import type { Access } from "../../src/ledger/lease-book.ts";
import { type Answer, LEASE_MS, type Ledger } from "../../src/ledger/protocol.ts";

const DAY = 24 * 3_600_000;
const KEEP: Keep = { ms: DAY, clientErrors: true };
const BODY = JSON.stringify({
  type: "message",
  model: "claude-opus-5-5",
  content: [],
  usage: { input_tokens: 1, output_tokens: 1 },
});

/** What the upstream says, and how often it was asked. */
let upstream: () => Response | Promise<Response>;
let asked = 0;
let names = 0;
const newName = (): string => `answer ${++names}`;
const stub = (name: string) => env.ANSWER.getByName(name);
const object = (name: string): AnswerObject => stub(name) as unknown as AnswerObject;

beforeEach(() => {
  for (const level of ["log", "error"] as const) vi.spyOn(console, level).mockImplementation(() => {});
  asked = 0;
  upstream = () =>
    new Response(BODY, { headers: { "content-type": "application/json", "request-id": `req_${asked}` } });
  vi.spyOn(globalThis, "fetch").mockImplementation(async () => {
    asked++;
    return upstream();
  });
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

const policy: KeyPolicy = {
  ...KEY_DEFAULTS,
  id: "key_answers",
  version: 1,
  workspace: "w",
  name: "n",
  scopes: ["messages"],
  models: null,
  limits: {},
  budget: null,
  expires_at: null,
  revoked_at: null,
  secrets: [],
};
const facts: CallFacts = {
  requestId: "req_1",
  traceId: "t",
  startedAt: 0,
  method: "POST",
  route: "/v1/messages",
  keyId: policy.id,
  workspace: "w",
  sessionId: null,
  agentId: null,
  parentAgentId: null,
  client: null,
  modelRequested: null,
  stream: false,
  maxTokens: null,
  guess: null,
  admission: "lease",
  ledgerMs: 0,
};
const ledger: Ledger = {
  exchange: async (message): Promise<Answer> => ({
    policy,
    lent: message.ask ? message.ask.wanted : null,
    validMs: LEASE_MS,
    state: { requests: null, inputTokens: null, outputTokens: null, slots: null, budget: null, running: 0 },
    usual: { inputRatio: 1, promptRatio: 1, outputTokens: 1, costRatio: 1 },
  }),
  policy: async () => policy,
  putPolicy: async () => {},
};
const background: Promise<unknown>[] = [];
const access = (): Access => ({
  ledger: () => ledger,
  background: (work) => void background.push(work),
  deadlineMs: 250,
  since: leaseBook.now,
  storedRules: async () => null,
});
const forwarding: Forwarding = {
  path: "/v1/messages",
  method: "POST",
  headers: {},
  body: new TextEncoder().encode("{}"),
  wanted: { affinity: "a", model: null, bound: false, pinned: null },
  timeouts: { connectMs: 5_000, firstByteMs: 5_000, silenceMs: 5_000, totalMs: 5_000, streamTotalMs: 5_000 },
};

type Called = {
  turn: Turn;
  record: CallRecord;
  leave: () => void;
  ended: Promise<Ending>;
  answer(more?: Partial<Forwarding>): ReturnType<Turn["answer"]>;
};

/** A call that has been told what to do. */
async function claim(
  name: string,
  fingerprint = "f",
  keep = KEEP,
  { upload, ...more }: Partial<Claim> & { upload?: Upload } = {},
): Promise<Called | string> {
  const leaving = new AbortController();
  const token = crypto.randomUUID();
  const replayed = (response: Response, record: CallRecord): void => {
    response.headers.set("idempotent-replayed", "true");
    record.replayed = true;
  };
  const taken = await takeTurn(
    env.ANSWER,
    { name, claim: { token, fingerprint, ...more }, keep, upload, replayed },
    (work) => void background.push(work),
    leaving.signal,
  );
  if (!taken.ok) return taken.error === "client gone" ? taken.error : taken.error.kind;
  const turn = taken.value;
  const record = new CallRecord(
    { ...facts, requestId: token, startedAt: Date.now() },
    { access: access(), db: env.DB, log: {}, logJoinMs: 0 },
  );
  const ended = Promise.withResolvers<Ending>();
  record.onEnd = (ending) => {
    ended.resolve(ending);
    return ending;
  };
  return {
    turn,
    record,
    leave: () => leaving.abort(),
    ended: ended.promise,
    async answer(other = {}) {
      const admission = await leaseBook.admit(policy, () => ({ ...NOTHING, requests: 1, slots: 1 }), access());
      if (admission.kind !== "admitted") throw new Error(admission.kind);
      record.hold(admission.reservation);
      return turn.answer({ ...forwarding, ...other }, record, leaving.signal, false);
    },
  };
}

async function claimed(
  name: string,
  fingerprint?: string,
  keep?: Keep,
  more?: Parameters<typeof claim>[3],
): Promise<Called> {
  const call = await claim(name, fingerprint, keep, more);
  if (typeof call === "string") throw new Error(call);
  return call;
}

/** A whole call: its answer, as a client would see it, or the failure's kind. */
async function ask(name: string, fingerprint?: string, keep?: Keep): Promise<{ text: string; replayed: boolean }> {
  const call = await claim(name, fingerprint, keep);
  if (typeof call === "string") return { text: call, replayed: false };
  return readOut(await call.answer());
}

async function readOut(answer: Awaited<ReturnType<Turn["answer"]>>): Promise<{ text: string; replayed: boolean }> {
  if (!answer.ok)
    return { text: answer.error === "client gone" ? answer.error : answer.error.failure.kind, replayed: false };
  return { text: await answer.value.text(), replayed: answer.value.headers.has("idempotent-replayed") };
}

const tables = (name: string) =>
  runInDurableObject(stub(name), (_, { storage }) =>
    storage.sql
      .exec<{ name: string }>("SELECT name FROM sqlite_master WHERE name IN ('kept', 'pieces')")
      .toArray()
      .map((row) => row.name)
      .sort(),
  );
const alarmOf = (name: string) => runInDurableObject(stub(name), (_, { storage }) => storage.getAlarm());

/** Its memory is gone, as when the process dies. */
const die = (name: string): Promise<void> =>
  runInDurableObject(stub(name), (_, state) => state.abort("died")).catch(() => {});

describe("an upload", () => {
  const form = (boundary: string, content: string): Uint8Array =>
    new TextEncoder().encode(
      `--${boundary}\r\ncontent-disposition: form-data; name="file"\r\n\r\n${content}\r\n--${boundary}--\r\n`,
    );
  /** A call that uploads, and what became of it. */
  async function upload(name: string, boundary: string, content: string): Promise<{ text: string; replayed: boolean }> {
    const body = form(boundary, content);
    const call = await claim(name, "f", KEEP, { upload: { boundary, bytes: body.length } });
    if (typeof call === "string") return { text: call, replayed: false };
    return readOut(await call.answer({ body: new Response(body).body }));
  }
  /** An upstream that reads what it is sent. */
  const reading = (): void => {
    vi.mocked(globalThis.fetch).mockImplementation(async (_, init) => {
      asked++;
      await new Response(init?.body as BodyInit).bytes();
      return upstream();
    });
  };

  it("I-03 is known by what it carries, while its object lives and after", async () => {
    reading();
    const name = newName();
    expect(await upload(name, "first", "content")).toEqual({ text: BODY, replayed: false });
    expect(await upload(name, "second", "content")).toEqual({ text: BODY, replayed: true });
    expect(await upload(name, "second", "another")).toEqual({ text: "idempotency_mismatch", replayed: false });
    await evictDurableObject(stub(name));
    expect(await upload(name, "third", "content")).toEqual({ text: BODY, replayed: true });
    expect(await upload(name, "third", "contenT")).toEqual({ text: "idempotency_mismatch", replayed: false });
    expect(asked).toBe(1);
  });

  it("I-04 that the upstream refuses unread is not kept, since nobody knows what it was", async () => {
    const name = newName();
    upstream = () => new Response("{}", { status: 413 });
    const large = "x".repeat(1_000_000);
    expect(await upload(name, "first", large)).toEqual({ text: "{}", replayed: false });
    reading();
    upstream = () => new Response(BODY, { headers: { "content-type": "application/json" } });
    expect(await upload(name, "second", large)).toEqual({ text: BODY, replayed: false });
    expect(await upload(name, "third", large)).toEqual({ text: BODY, replayed: true });
    expect(asked).toBe(2);
  });

  it("of which half is missing is made of nothing and leaves the key free", async () => {
    const name = newName();
    reading();
    const body = form("first", "content");
    const call = await claimed(name, "f", KEEP, { upload: { boundary: "first", bytes: body.length + 10 } });
    const { text } = await readOut(await call.answer({ body: new Response(body).body }));
    expect(text).not.toBe(BODY);
    expect(await upload(name, "second", "content")).toEqual({ text: BODY, replayed: false });
  });
});

describe("turns over the object", () => {
  it("I-02 of calls at the same moment one runs; the others attach when it has begun", async () => {
    const name = newName();
    const first = await claimed(name);
    expect(first.turn.attached).toBe(false);
    let told = 0;
    const others = Array.from({ length: 5 }, async () => {
      const call = await claimed(name);
      told++;
      return call;
    });
    await scheduler.wait(50);
    expect(told).toBe(0);
    const answer = readOut(await first.answer());
    for (const other of await Promise.all(others)) {
      expect(other.turn.attached).toBe(true);
      expect(await readOut(await other.answer())).toEqual({ text: BODY, replayed: true });
      expect(await other.ended).toMatchObject({ status: 200, outcome: "complete" });
    }
    expect(await answer).toEqual({ text: BODY, replayed: false });
    expect(asked).toBe(1);
  });

  it("a call that is refused, or whose client leaves, passes the turn on", async () => {
    const name = newName();
    const first = await claimed(name);
    const second = claimed(name);
    first.turn.release();
    const third = claimed(name);
    (await second).leave();
    expect((await third).turn.attached).toBe(false);
    expect(asked).toBe(0);
  });

  it("a call that comes too late with its order joins the run that there is, and is paid for by that one", async () => {
    const name = newName();
    const slow = await claimed(name);
    // As after CLAIM_MS: another one has the turn now.
    slow.turn.release();
    const quick = await claimed(name);
    expect(await readOut(await quick.answer())).toEqual({ text: BODY, replayed: false });
    expect(await readOut(await slow.answer())).toEqual({ text: BODY, replayed: true });
    expect([slow.record.replayed, (await slow.ended).outcome]).toEqual([true, "complete"]);
    expect(asked).toBe(1);
  });

  it("I-03 another request is a mismatch, while it runs and when it is kept; late with its order, too", async () => {
    const name = newName();
    const late = await claimed(name, "other");
    late.turn.release();
    const first = await claimed(name);
    const waiting = claim(name, "other");
    expect(await readOut(await first.answer())).toMatchObject({ text: BODY });
    expect(await waiting).toBe("idempotency_mismatch");
    expect(await claim(name, "other")).toBe("idempotency_mismatch");
    expect(await readOut(await late.answer())).toEqual({ text: "idempotency_mismatch", replayed: false });
    expect(asked).toBe(1);
  });

  it("an object that can't be reached, or has too much to do, is a failure to be tried again, and nothing runs", async () => {
    const failing = (error: Error) =>
      ({
        getByName: () => ({ claim: () => Promise.reject(error), release: async () => {} }),
      }) as unknown as Env["ANSWER"];
    const wish = { name: "n", claim: { token: "t", fingerprint: "f" }, keep: KEEP, replayed: () => {} };
    const { signal } = new AbortController();
    for (const error of [new Error("broken"), Object.assign(new Error("busy"), { overloaded: true })]) {
      const turn = await takeTurn(failing(error), wish, () => {}, signal);
      expect(turn).toMatchObject({ ok: false, error: { kind: "unavailable" } });
    }
    let attempts = 0;
    const restarting = {
      getByName: () => ({
        claim: async () => {
          if (attempts++ === 0) throw Object.assign(new Error("Network connection lost."), { retryable: true });
          return { kind: "run" };
        },
      }),
    } as unknown as Env["ANSWER"];
    expect(await takeTurn(restarting, wish, () => {}, signal)).toMatchObject({ ok: true, value: { attached: false } });
  });
});

describe("what is kept", () => {
  it("I-01 survives the object's eviction, and a second one", async () => {
    const name = newName();
    await ask(name);
    for (let life = 0; life < 2; life++) {
      await evictDurableObject(stub(name));
      expect(await ask(name)).toEqual({ text: BODY, replayed: true });
      expect(await claim(name, "other")).toBe("idempotency_mismatch");
    }
    expect(asked).toBe(1);
  });

  it("I-04 only what was complete, and what is the client's own fault where that is asked for", async () => {
    type Case = readonly [status: number, keep: Keep, kept: boolean];
    const cases: readonly Case[] = [
      ...[200, 400, 404, 413, 422].map((status): Case => [status, KEEP, true]),
      ...[401, 402, 403, 408, 409, 429, 500, 529].map((status): Case => [status, KEEP, false]),
      [200, { ms: DAY, clientErrors: false }, true],
      [400, { ms: DAY, clientErrors: false }, false],
    ];
    for (const [status, keep, kept] of cases) {
      const name = newName();
      const headers = { "content-type": "application/json", "x-should-retry": "false" };
      upstream = () => new Response(BODY, { status, headers });
      await ask(name, "f", keep);
      expect([status, keep.clientErrors, (await claimed(name)).turn.attached]).toEqual([
        status,
        keep.clientErrors,
        kept,
      ]);
    }
  });

  it("I-05 is gone after its time, by the alarm or without it; an early alarm changes nothing", async () => {
    const start = Date.now();
    for (const alarm of [true, false]) {
      vi.useFakeTimers({ now: start, toFake: ["Date"] });
      const name = newName();
      await ask(name);
      expect(await alarmOf(name)).toBe(start + DAY);
      vi.setSystemTime(start + DAY - 1);
      await runDurableObjectAlarm(stub(name));
      expect(await alarmOf(name)).toBe(start + DAY);
      expect(await ask(name)).toEqual({ text: BODY, replayed: true });
      vi.setSystemTime(start + DAY);
      if (alarm) {
        await runDurableObjectAlarm(stub(name));
        await die(name);
        await runDurableObjectAlarm(stub(name));
        expect(await tables(name)).toEqual([]);
        expect(await alarmOf(name)).toBeNull();
      }
      // As for a key never used: another request may have it.
      expect(await ask(name, "other")).toEqual({ text: BODY, replayed: false });
      expect(await ask(name, "other")).toEqual({ text: BODY, replayed: true });
      expect(await claim(name)).toBe("idempotency_mismatch");
    }
  });

  it("lasts no longer than its time from then on where the clock leaps back", async () => {
    // The runtime's own clock stays behind all of this, so no alarm fires by itself.
    const start = Date.now() + 200 * DAY;
    vi.useFakeTimers({ now: start, toFake: ["Date"] });
    const name = newName();
    await ask(name);
    vi.setSystemTime(start - 100 * DAY);
    expect(await ask(name)).toMatchObject({ replayed: true });
    expect(await alarmOf(name)).toBe(start - 99 * DAY);
    vi.setSystemTime(start - 99 * DAY);
    expect(await ask(name)).toMatchObject({ replayed: false });
  });
});

describe("a run that comes to nothing", () => {
  it("I-04 fails alike for all who read along, and the next one runs anew", async () => {
    const name = newName();
    let go = false;
    upstream = async () => {
      while (!go) await scheduler.wait(5);
      return new Response("{}", { status: 500, headers: { "x-should-retry": "false" } });
    };
    const first = await claimed(name);
    const answer = first.answer();
    const second = await claimed(name);
    const third = second.answer();
    go = true;
    const [ran, attached] = await Promise.all([answer.then(readOut), third.then(readOut)]);
    expect(attached.text).toBe(ran.text);
    upstream = () => new Response(BODY, { headers: { "content-type": "application/json" } });
    expect(await ask(name)).toEqual({ text: BODY, replayed: false });
  });

  it("is void when its object dies; what it left is cleared away, and the next one runs anew", async () => {
    const name = newName();
    upstream = () =>
      new Response(
        new ReadableStream({
          type: "bytes",
          async pull(controller) {
            await scheduler.wait(10);
            controller.enqueue(new TextEncoder().encode("event: ping\ndata: {}\n\n".repeat(4_000)));
          },
        }),
        { headers: { "content-type": "text/event-stream" } },
      );
    const first = await claimed(name);
    const answer = await first.answer();
    const pieces = async () => {
      if ((await tables(name)).length === 0) return 0;
      return runInDurableObject(
        stub(name),
        (_, { storage }) => storage.sql.exec<{ n: number }>("SELECT count(*) AS n FROM pieces").one().n,
      );
    };
    while ((await pieces()) === 0) await scheduler.wait(10);
    const second = await claimed(name);
    const along = readOut(await second.answer());
    const read = readOut(answer).catch((error: unknown) => String(error));
    await die(name);
    // Its reader's connection breaks: no end that looks like one.
    expect(await read).toBeTypeOf("string");
    expect((await along).text).toMatch(/event: error\ndata: \{"type":"error",.*\}\n\n$/);
    expect(await second.ended).toMatchObject({ status: 200, outcome: "upstream_cut", errorType: "api_error" });
    expect(await pieces()).toBe(0);
    expect(await alarmOf(name)).not.toBeNull();
    upstream = () => new Response(BODY, { headers: { "content-type": "application/json" } });
    expect(await ask(name)).toEqual({ text: BODY, replayed: false });
  });

  it("leaves nothing in storage", async () => {
    const name = newName();
    upstream = () => new Response("{}", { status: 500, headers: { "x-should-retry": "false" } });
    await ask(name);
    await die(name);
    await runDurableObjectAlarm(stub(name));
    expect(await tables(name)).toEqual([]);
    expect(await alarmOf(name)).toBeNull();
  });

  it("an attached call that comes when it is forgotten is told to try again", async () => {
    const name = newName();
    upstream = async () => {
      await scheduler.wait(50);
      return new Response(BODY, { headers: { "content-type": "application/json" } });
    };
    const first = await claimed(name);
    const answer = first.answer();
    const second = await claimed(name);
    await die(name);
    expect(await answer).toMatchObject({ ok: false, error: { failure: { kind: "unavailable" } } });
    expect(await second.answer()).toMatchObject({ ok: false, error: { failure: { kind: "unavailable" } } });
    expect(await object(name).ending("no such run")).toBeNull();
  });
});

describe("calls of several owners", () => {
  const SHARED: Keep = { ms: DAY, clientErrors: false, stopReasons: ["end_turn"] };
  const apart = (name: string) => claimed(name, "f", SHARED, { apart: true });
  const message = (stopReason: string, status = 200) =>
    new Response(JSON.stringify({ ...JSON.parse(BODY), stop_reason: stopReason }), {
      status,
      headers: { "content-type": "application/json" },
    });
  const FAILED = { status: 500, headers: { "content-type": "application/json", "x-should-retry": "false" } };

  it("C-08 stand apart from the first one's failure: one of them tries again for all, and its failure is everyone's", async () => {
    const name = newName();
    upstream = async () => {
      await scheduler.wait(50);
      return new Response("{}", FAILED);
    };
    const first = await apart(name);
    const others = Array.from({ length: 5 }, () => apart(name));
    expect((await readOut(await first.answer())).text).toBe("{}");
    const next = await Promise.race(others);
    expect(next.turn.attached).toBe(false);
    const answer = readOut(await next.answer());
    const rest = (await Promise.all(others)).filter((one) => one !== next);
    expect(rest).toHaveLength(4);
    for (const one of rest) {
      expect(one.turn.attached).toBe(true);
      expect((await readOut(await one.answer())).text).toBe("{}");
    }
    await answer;
    expect(asked).toBe(2);
  });

  it("J-19 one that leaves while it waits to see holds nobody up", async () => {
    const name = newName();
    const gate = Promise.withResolvers<void>();
    upstream = async () => {
      await gate.promise;
      return new Response("{}", FAILED);
    };
    const first = await apart(name);
    const answer = first.answer();
    while (asked === 0) await scheduler.wait(10);
    const told = object(name).claim({ token: "leaver", fingerprint: "f", apart: true });
    const stayed = apart(name);
    await scheduler.wait(20);
    await object(name).release("leaver");
    gate.resolve();
    await answer;
    expect(await told).toEqual({ kind: "busy" });
    expect((await stayed).turn.attached).toBe(false);
  });

  it("join an answer as soon as it has begun as it should", async () => {
    const name = newName();
    upstream = async () => {
      await scheduler.wait(50);
      return message("end_turn");
    };
    const first = await apart(name);
    const second = apart(name);
    const answer = readOut(await first.answer());
    expect((await second).turn.attached).toBe(true);
    expect((await readOut(await (await second).answer())).text).toBe((await answer).text);
    expect(asked).toBe(1);
  });

  it("are kept only an answer that ended as it should", async () => {
    const name = newName();
    for (const [reason, status] of [
      ["refusal", 200],
      ["pause_turn", 200],
      ["end_turn", 201],
      ["end_turn", 200],
    ] as const) {
      upstream = () => message(reason, status);
      const call = await apart(name);
      expect(call.turn.attached).toBe(false);
      await readOut(await call.answer());
      await scheduler.wait(20);
    }
    expect((await apart(name)).turn.attached).toBe(true);
    expect(asked).toBe(4);
  });

  it("may find what is kept too old, and have it made anew", async () => {
    const name = newName();
    upstream = () => message("end_turn");
    await readOut(await (await apart(name)).answer());
    await scheduler.wait(20);
    const aged = (maxAgeMs: number) => claimed(name, "f", SHARED, { maxAgeMs });
    const young = await aged(60_000);
    expect(young.turn.attached).toBe(true);
    const got = await young.answer();
    expect(got.ok && got.value.headers.get("age")).toBe("0");
    await scheduler.wait(20);
    const second = await aged(10);
    expect(second.turn.attached).toBe(false);
    await readOut(await second.answer());
    expect(asked).toBe(2);
  });
});
