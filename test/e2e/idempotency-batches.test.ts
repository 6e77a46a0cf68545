/** `Idempotency-Key` where something is made that must not be made twice: batches and their end. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type Gateway, type Key, startFleet, startGateway, until, withKey } from "../support/gateway.ts";
import { pause, type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const MODEL = "claude-haiku-5-5";
const CREATE = "messages/batches";
const bindings = { LEDGER_DEADLINE_MS: "5000" };

let upstream: ScriptedUpstream;
let gateway: Gateway;
let made = 0;
let workspaces = 0;
/** Answers wait for it. */
let gate: Promise<void>;
const folder = mkdtempSync(join(tmpdir(), "sluice-idempotency-batches-"));

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url, { bindings });
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
  rmSync(folder, { recursive: true, force: true });
});
beforeEach(() => {
  upstream.received.length = 0;
  gate = Promise.resolve();
  upstream.script = async (response, { target, method }) => {
    await gate;
    response.setHeader("content-type", "application/json");
    const id = /obj_\d+/.exec(target)?.[0] ?? `obj_${++made}`;
    const url = `${upstream.url}/v1/messages/batches/${id}/results`;
    response.end(JSON.stringify({ id, type: "message_batch", told: `${method} ${target} ${made}`, results_url: url }));
  };
});

/** Holds the upstream's answers back until it is called. */
function closeGate(): () => void {
  const { promise, resolve } = Promise.withResolvers<void>();
  gate = promise;
  return resolve;
}

const makeKey = (at = gateway, fields: Record<string, unknown> = {}): Promise<Key> =>
  at.makeKey({
    workspace: `w_${++workspaces}`,
    scopes: ["messages", "batches", "files"],
    limits: { concurrent_requests: 40 },
    ...fields,
  });

const bodyOf = (text: string, count = 1): string =>
  JSON.stringify({
    requests: Array.from({ length: count }, (_, n) => ({
      custom_id: `r${n}`,
      params: { model: MODEL, max_tokens: 50, messages: [{ role: "user", content: text }] },
    })),
  });

type Called = { status: number; replayed: boolean; text: string; id: string };

async function post(
  key: Key,
  idempotencyKey: string,
  options: { at?: Gateway; path?: string; body?: string | null; signal?: AbortSignal } = {},
): Promise<Called> {
  const { at = gateway, path = CREATE, body = bodyOf("hi"), signal } = options;
  const response = await fetch(`${at.url}/v1/${path}`, {
    method: "POST",
    headers: withKey(key, { "idempotency-key": idempotencyKey }),
    ...(body === null ? {} : { body }),
    ...(signal ? { signal } : {}),
  });
  const text = await response.text();
  const { id = "" } = JSON.parse(text) as { id?: string };
  return { status: response.status, replayed: response.headers.get("idempotent-replayed") === "true", text, id };
}

const cancel = (key: Key, idempotencyKey: string, id: string, at = gateway): Promise<Called> =>
  post(key, idempotencyKey, { at, path: `${CREATE}/${id}/cancel`, body: null });

/** Rows of the key's batches, those without an id too. */
async function rowsOf(key: Key, at = gateway): Promise<{ id: string | null; upstream: string | null }[]> {
  const db = await at.worker.miniflare.getD1Database("DB");
  const found = db.prepare("SELECT id, upstream FROM batches WHERE key_id = ? ORDER BY seq").bind(key.id);
  return (await found.all<{ id: string | null; upstream: string | null }>()).results;
}

async function read(key: Key, id: string, at = gateway): Promise<number> {
  return (await fetch(`${at.url}/v1/${CREATE}/${id}`, { headers: withKey(key) })).status;
}

const row = (id: string) => [{ id, upstream: "up_default" }];

describe("creating a batch", () => {
  it("I-01 again is the first one's answer, byte for byte, and makes and registers nothing", async () => {
    const key = await makeKey();
    const first = await post(key, "again");
    const again = await post(key, "again");
    expect([first.status, first.replayed]).toEqual([200, false]);
    expect(again).toEqual({ ...first, replayed: true });
    expect(JSON.parse(first.text)).toMatchObject({ results_url: `${gateway.url}/v1/${CREATE}/${first.id}/results` });
    expect(upstream.received).toHaveLength(1);
    expect(await rowsOf(key)).toEqual(row(first.id));
    expect(await read(key, first.id)).toBe(200);
    const audit = await gateway.rows(key, 2, "/v1/messages/batches");
    expect(audit.map(({ replayed, attempts, outcome }) => [replayed, attempts, outcome])).toEqual([
      [false, 1, "complete"],
      [true, 0, "complete"],
    ]);
  });

  it("I-02 twenty at once make one batch, with one row, and all are told of it in the same bytes", async () => {
    const open = closeGate();
    const key = await makeKey();
    const calls = Array.from({ length: 20 }, () => post(key, "crowd"));
    await until(() => upstream.received.length > 0 || undefined, "the run");
    open();
    const told = await Promise.all(calls);
    expect(new Set(told.map(({ status, text }) => `${status} ${text}`)).size).toBe(1);
    expect(told[0]?.status).toBe(200);
    expect(told.filter(({ replayed }) => replayed)).toHaveLength(19);
    expect(upstream.received).toHaveLength(1);
    expect(await rowsOf(key)).toEqual(row(told[0]?.id ?? ""));
  });

  it("I-03 another body is a 422; another key's is its own, of the same workspace or not", async () => {
    const key = await makeKey();
    const first = await post(key, "shared");
    const other = await post(key, "shared", { body: bodyOf("something else") });
    expect([other.status, other.text]).toEqual([422, expect.stringContaining("Idempotency-Key")]);
    expect((await post(key, "shared", { path: `${CREATE}?beta=true` })).status).toBe(422);
    expect((await cancel(key, "shared", first.id)).status).toBe(422);
    expect(upstream.received).toHaveLength(1);
    const stranger = await makeKey();
    const theirs = await post(stranger, "shared");
    expect([theirs.status, theirs.replayed]).toEqual([200, false]);
    expect(theirs.id).not.toBe(first.id);
    expect(await read(stranger, first.id)).toBe(404);
    expect(await rowsOf(stranger)).toEqual(row(theirs.id));
  });

  it("I-04 what the upstream refuses leaves no row, and is told again; what it fails at runs anew", async () => {
    const key = await makeKey();
    const usual = upstream.script;
    const refusing = (status: number): void => {
      upstream.script = (response) => {
        response.writeHead(status, { "content-type": "application/json" });
        response.end(`{"type":"error","error":{"type":"api_error","message":"no ${upstream.received.length}"}}`);
      };
    };
    refusing(400);
    const first = await post(key, "refused");
    expect([first.status, await post(key, "refused")]).toEqual([400, { ...first, replayed: true }]);
    expect(upstream.received).toHaveLength(1);
    refusing(500);
    expect((await post(key, "failed")).status).toBe(500);
    upstream.script = usual;
    const anew = await post(key, "failed");
    expect([anew.status, anew.replayed]).toEqual([200, false]);
    expect((await rowsOf(key)).filter(({ id }) => id !== null)).toEqual(row(anew.id));
  });

  it("L2 a strict budget is asked by the first one alone", async () => {
    const budget = { usd: 0.001, period: "total", mode: "strict" };
    const key = await makeKey(gateway, { budget });
    const large = bodyOf("hi", 1_000);
    expect((await post(key, "large", { body: large })).status).toBe(429);
    expect(upstream.received).toHaveLength(0);
    const [first, second] = await Promise.all([post(key, "small"), post(key, "small")]);
    expect([first.status, second.text]).toEqual([200, first.text]);
    expect(upstream.received).toHaveLength(1);
    expect((await gateway.settled(key)).budget).toMatchObject({ spent_micro_usd: 0, reserved_micro_usd: 0 });
  });

  it("a client that leaves before the answer has made it all the same, and finds it", async () => {
    const open = closeGate();
    const key = await makeKey();
    const leaving = new AbortController();
    const left = post(key, "leaver", { signal: leaving.signal }).catch(() => "left");
    await until(() => upstream.received.length === 1 || undefined, "the run");
    leaving.abort();
    expect(await left).toBe("left");
    open();
    await until(async () => (await rowsOf(key))[0]?.id ?? undefined, "the batch to be registered");
    const back = await post(key, "leaver");
    expect([back.status, back.replayed]).toEqual([200, true]);
    expect(upstream.received).toHaveLength(1);
    expect(await rowsOf(key)).toEqual(row(back.id));
    expect(await read(key, back.id)).toBe(200);
  });

  it("the Worker that asked dies before the answer: the batch is its workspace's, and its key finds it", async () => {
    const fleet = await startFleet(upstream.url, 2, { bindings });
    const [objects, worker] = fleet.gateways;
    try {
      const open = closeGate();
      const key = await makeKey(objects);
      const dying = post(key, "died", worker ? { at: worker } : {}).catch(() => "broken");
      await until(() => upstream.received.length === 1 || undefined, "the run");
      await worker?.kill();
      expect(await dying).toBe("broken");
      open();
      const back = await post(key, "died", { at: objects });
      expect([back.status, back.replayed]).toEqual([200, true]);
      expect(upstream.received).toHaveLength(1);
      expect(await rowsOf(key, objects)).toEqual(row(back.id));
      expect(await read(key, back.id, objects)).toBe(200);
    } finally {
      await fleet.stop();
    }
  }, 60_000);

  it("kill -9: what was kept is kept, its row too; what was running is void and runs anew", async () => {
    const stateDir = join(folder, "killed");
    let own = await startGateway(upstream.url, { bindings, stateDir });
    const key = await makeKey(own);
    const kept = await post(key, "kept", { at: own });
    closeGate();
    const running = post(key, "running", { at: own }).catch(() => "broken");
    await until(() => upstream.received.length === 2 || undefined, "the run");
    await own.kill();
    expect(await running).toBe("broken");
    gate = Promise.resolve();
    own = await startGateway(upstream.url, { bindings, stateDir });
    try {
      expect((await post(key, "kept", { at: own })).text).toBe(kept.text);
      const anew = await post(key, "running", { at: own });
      expect([anew.status, anew.replayed]).toEqual([200, false]);
      expect(upstream.received).toHaveLength(3);
      // The one in the middle is the one whose end nobody saw.
      const rows = await rowsOf(key, own);
      expect(rows.map(({ id }) => id)).toEqual([kept.id, null, anew.id]);
    } finally {
      await own.stop();
    }
  }, 60_000);

  it("D1 away when it is to be registered: taken back, all who wait are told, and the next one runs anew", async () => {
    const db = await gateway.worker.miniflare.getD1Database("DB");
    const key = await makeKey();
    const open = closeGate();
    const calls = [post(key, "away"), post(key, "away"), post(key, "away")];
    await until(() => upstream.received.length === 1 || undefined, "the run");
    // Let the others attach.
    await pause(200);
    await db.prepare("CREATE TRIGGER refuse BEFORE UPDATE ON batches BEGIN SELECT RAISE(ABORT, 'away'); END").run();
    try {
      open();
      for (const { status, text } of await Promise.all(calls)) {
        expect([status, text]).toEqual([503, expect.stringContaining("cancelled")]);
      }
    } finally {
      await db.prepare("DROP TRIGGER refuse").run();
    }
    const lost = `obj_${made}`;
    expect(upstream.received.map(({ target }) => target)).toEqual([
      "/v1/messages/batches",
      `/v1/messages/batches/${lost}/cancel`,
    ]);
    await until(() => gateway.log().includes(`"kind":"batches","id":"${lost}"`) || undefined, "the log line");
    const anew = await post(key, "away");
    expect([anew.status, anew.replayed]).toEqual([200, false]);
    expect(anew.id).not.toBe(lost);
    expect(await post(key, "away")).toEqual({ ...anew, replayed: true });
    expect(upstream.received).toHaveLength(3);
    expect((await rowsOf(key)).filter(({ id }) => id !== null)).toEqual(row(anew.id));
  });

  it("D1 away before the upstream is asked: a 503 that reaches nobody, and the next one runs", async () => {
    const db = await gateway.worker.miniflare.getD1Database("DB");
    const key = await makeKey();
    await db.prepare("CREATE TRIGGER refuse BEFORE INSERT ON batches BEGIN SELECT RAISE(ABORT, 'away'); END").run();
    try {
      expect((await post(key, "early")).status).toBe(503);
    } finally {
      await db.prepare("DROP TRIGGER refuse").run();
    }
    expect(upstream.received).toHaveLength(0);
    expect(await rowsOf(key)).toEqual([]);
    expect(await post(key, "early")).toMatchObject({ status: 200, replayed: false });
    const audit = await gateway.rows(key, 2, "/v1/messages/batches");
    expect(audit.map(({ status, attempts }) => [status, attempts])).toEqual([
      [503, 0],
      [200, 1],
    ]);
  });
});

describe("cancelling a batch", () => {
  it("twice with the same key is once at the upstream, with the same bytes; with another key it is twice", async () => {
    const key = await makeKey();
    const { id } = await post(key, "create");
    const first = await cancel(key, "cancel", id);
    const again = await cancel(key, "cancel", id);
    expect([first.status, first.replayed]).toEqual([200, false]);
    expect(again).toEqual({ ...first, replayed: true });
    expect(JSON.parse(first.text)).toMatchObject({ results_url: `${gateway.url}/v1/${CREATE}/${id}/results` });
    expect(upstream.received).toHaveLength(2);
    expect(await cancel(key, "another", id)).toMatchObject({ status: 200, replayed: false });
    expect(upstream.received).toHaveLength(3);
    const second = await post(key, "second");
    expect((await cancel(key, "cancel", second.id)).status).toBe(422);
  });

  it("racing is once; another workspace's is a 404 that asks nobody, whatever key it names", async () => {
    const key = await makeKey();
    const { id } = await post(key, "create");
    const open = closeGate();
    const calls = [cancel(key, "race", id), cancel(key, "race", id)];
    await until(() => upstream.received.length === 2 || undefined, "the run");
    open();
    const [first, second] = await Promise.all(calls);
    expect([first?.status, second?.text]).toEqual([200, first?.text]);
    const stranger = await makeKey();
    expect((await cancel(stranger, "race", id)).status).toBe(404);
    expect(upstream.received).toHaveLength(2);
  });

  it("of one that its upstream has forgotten is its 404, told again; reading it forgets it here too", async () => {
    const key = await makeKey();
    const { id } = await post(key, "create");
    upstream.script = (response) => {
      response.statusCode = 404;
      response.end("{}");
    };
    expect(await cancel(key, "gone", id)).toMatchObject({ status: 404, replayed: false });
    expect(await cancel(key, "gone", id)).toMatchObject({ status: 404, replayed: true });
    expect(upstream.received).toHaveLength(2);
    expect(await read(key, id)).toBe(404);
    expect(await cancel(key, "gone", id)).toMatchObject({ status: 404, replayed: false });
    expect(upstream.received).toHaveLength(3);
  });
});
