/** A key's store of turns in the Workers runtime: what it keeps, for whom, for how long, and what an isolate makes of it. */
import { evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, describe, expect, it, vi } from "vitest";
import { mintKey } from "../../src/identity/api-key.ts";
import { KEY_DEFAULTS, type KeyPolicy } from "../../src/identity/key-record.ts";
import type { Ledger } from "../../src/ledger/protocol.ts";
import { emptyMemory, Memory, type NewResponse } from "../../src/openai/memory.ts";
import {
  MAX_CHAIN_LENGTH,
  MAX_RECALLED_BYTES,
  MAX_RESPONSE_BYTES,
  MAX_STORE_BYTES,
  MAX_TURN_BYTES,
  RESPONSE_KEPT_MS,
  THINKING_KEPT_MS,
  type TurnStoreObject,
} from "../../src/openai/store-protocol.ts";
import type { TurnStore } from "../../src/openai/turn-store.ts";
import { PIECE_BYTES } from "../../src/pieces.ts";
import type { Block } from "../../src/wire/openai/draft.ts";
import { call as control, makeKey } from "../admin/control-plane.ts";
import { call, messageOf, text, thought } from "../support/drafts.ts";

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const NOT_FOUND = { ok: false, error: { kind: "invalid_request", code: "previous_response_not_found" } };

let named = 0;
const newKey = (): string => `key_store_${++named}`;
const stub = (key: string) => env.TURN_STORE.getByName(key);
const objectOf = (key: string) => stub(key) as unknown as TurnStoreObject;
const memory = (key: string): Memory => new Memory(env as unknown as Env, key, () => {});
const inside = <T>(key: string, run: (store: TurnStore, state: DurableObjectState) => T | Promise<T>): Promise<T> =>
  runInDurableObject(stub(key) as unknown as DurableObjectStub<TurnStore>, run);
const rows = (key: string, statement: string) =>
  inside(key, (_, { storage }) => storage.sql.exec<Record<string, SqlStorageValue>>(statement).toArray());
const count = async (key: string, table: string): Promise<number> =>
  Number((await rows(key, `SELECT count(*) AS n FROM ${table}`))[0]?.n);
const tables = (key: string) =>
  rows(key, "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('kept', 'call', 'piece')");
const alarmOf = (key: string) => inside(key, (_, { storage }) => storage.getAlarm());

const turn = (...calls: string[]): Block[] => [thought("hm"), text("Let me look."), ...calls.map((id) => call(id))];
const response = (id: string, parent: string | null = null, changes: Partial<NewResponse> = {}): NewResponse => ({
  id,
  parent,
  turns: JSON.stringify({ input: [], model: "m", answer: [text(id)] }),
  object: `{"id":"${id}"}`,
  input: [`asked for ${id}`],
  ...changes,
});
const answersOf = async (key: string, id: string): Promise<unknown> => {
  const chain = await memory(key).response(id);
  return chain.ok ? chain.value.map(({ answer }) => answer[0]?.text) : chain;
};

/** The runtime's own clock stays behind all of this, so that no alarm fires by itself. */
function startClock(): number {
  const start = Date.now() + 300 * DAY;
  vi.useFakeTimers({ now: start, toFake: ["Date"] });
  return start;
}

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

describe("turns with thinking", () => {
  it("are recalled by any of their calls, once, block for block, over a restart too", async () => {
    const key = newKey();
    const blocks = [...turn("toolu_1", "toolu_2"), { type: "redacted_thinking", data: "é\u{1f600}" }];
    await memory(key).rememberTurn(messageOf(blocks), "org-1");
    await memory(key).rememberTurn(messageOf(turn("toolu_3"), { id: "msg_02", model: "other" }), "org-1");
    for (const restart of [false, true]) {
      if (restart) await evictDurableObject(stub(key));
      expect(await memory(key).thinkingFor(["toolu_2", "call_none", "toolu_1"])).toEqual([
        { model: "claude-opus-5", organization: "org-1", blocks },
      ]);
      expect(await memory(key).thinkingFor(["toolu_1", "toolu_3"])).toEqual([
        { model: "other", organization: "org-1", blocks: turn("toolu_3") },
        { model: "claude-opus-5", organization: "org-1", blocks },
      ]);
    }
  });

  it("are not written when there is nothing to put back, and an object that was only asked has no tables", async () => {
    const key = newKey();
    await memory(key).rememberTurn(messageOf([text("hi"), call("toolu_1")]), "org-1");
    await memory(key).rememberTurn(messageOf([thought("hm"), text("hi")]), "org-1");
    expect(await memory(key).thinkingFor(["toolu_1"])).toEqual([]);
    expect(await answersOf(key, "resp_1")).toMatchObject(NOT_FOUND);
    expect(await tables(key)).toEqual([]);
    expect(await alarmOf(key)).toBeNull();
  });

  it("S-01 belong to one key", async () => {
    const [mine, other] = [newKey(), newKey()];
    await memory(mine).rememberTurn(messageOf(turn("toolu_1")), "org-1");
    await memory(mine).storeResponse(response("resp_1"));
    expect(await memory(other).thinkingFor(["toolu_1"])).toEqual([]);
    expect(await answersOf(other, "resp_1")).toMatchObject(NOT_FOUND);
    expect(await memory(other).part("resp_1", "object")).toEqual({ ok: true, value: null });
    expect(await memory(other).forget("resp_1")).toEqual({ ok: true, value: false });
    expect(await answersOf(mine, "resp_1")).toEqual(["resp_1"]);
  });

  it("told again replace themselves; a call's newest turn is the one that counts", async () => {
    const key = newKey();
    for (let i = 0; i < 3; i++) await memory(key).rememberTurn(messageOf(turn("toolu_1", "toolu_2")), "org-1");
    expect([await count(key, "kept"), await count(key, "call"), await count(key, "piece")]).toEqual([1, 2, 1]);
    await memory(key).rememberTurn(messageOf(turn("toolu_2"), { id: "msg_02", model: "newer" }), "org-1");
    expect(await memory(key).thinkingFor(["toolu_2"])).toMatchObject([{ model: "newer" }]);
    expect(await memory(key).thinkingFor(["toolu_1"])).toMatchObject([{ model: "claude-opus-5" }]);
  });

  it("are forgotten after a day, by the clock at once and by the alarm from storage", async () => {
    const start = startClock();
    const key = newKey();
    await memory(key).rememberTurn(messageOf(turn("toolu_1")), "org-1");
    expect(await alarmOf(key)).toBe(start + DAY);
    vi.setSystemTime(start + THINKING_KEPT_MS - 1);
    expect(await memory(key).thinkingFor(["toolu_1"])).toHaveLength(1);
    vi.setSystemTime(start + THINKING_KEPT_MS);
    expect(await memory(key).thinkingFor(["toolu_1"])).toEqual([]);
    expect(await count(key, "kept")).toBe(1);
    await runDurableObjectAlarm(stub(key));
    expect(await tables(key)).toEqual([]);
    expect(await alarmOf(key)).toBeNull();
    await memory(key).rememberTurn(messageOf(turn("toolu_1")), "org-1");
    expect(await memory(key).thinkingFor(["toolu_1"])).toHaveLength(1);
  });

  it("have a size that is kept and one past it that is not", async () => {
    const key = newKey();
    const sized = (bytes: number): Block[] => {
      const said = { organization: "org-1", blocks: [thought("x"), call("toolu_1")] };
      return [{ ...thought("x"), thinking: "x".repeat(1 + bytes - JSON.stringify(said).length) }, call("toolu_1")];
    };
    await memory(key).rememberTurn(messageOf(sized(MAX_TURN_BYTES + 1)), "org-1");
    expect(await memory(key).thinkingFor(["toolu_1"])).toEqual([]);
    await memory(key).rememberTurn(messageOf(sized(MAX_TURN_BYTES)), "org-1");
    expect(await memory(key).thinkingFor(["toolu_1"])).toEqual([
      { model: "claude-opus-5", organization: "org-1", blocks: sized(MAX_TURN_BYTES) },
    ]);
    const [largest] = await rows(key, "SELECT max(length(bytes)) AS bytes FROM piece");
    expect(largest?.bytes).toBe(PIECE_BYTES);
  });

  it("are recalled newest first, and no more than fit into a request", async () => {
    const key = newKey();
    const said = new Uint8Array(MAX_RECALLED_BYTES / 4);
    for (let i = 1; i <= 6; i++) await objectOf(key).remember({ id: `m${i}`, model: `${i}`, calls: [`c${i}`], said });
    const turns = await objectOf(key).recall(["c1", "c2", "c3", "c4", "c5", "c6"]);
    expect(turns.map(({ model }) => model)).toEqual(["6", "5", "4", "3"]);
  });
});

describe("stored responses", () => {
  it("are told as a chain, the oldest first, and given back as they were", async () => {
    const key = newKey();
    await memory(key).storeResponse(response("resp_1"));
    await memory(key).storeResponse(response("resp_2", "resp_1"));
    await memory(key).storeResponse(response("resp_3", "resp_2"));
    await memory(key).storeResponse(response("resp_2b", "resp_1"));
    await evictDurableObject(stub(key));
    expect(await answersOf(key, "resp_3")).toEqual(["resp_1", "resp_2", "resp_3"]);
    expect(await answersOf(key, "resp_2b")).toEqual(["resp_1", "resp_2b"]);
    expect(await memory(key).part("resp_2", "object")).toEqual({ ok: true, value: '{"id":"resp_2"}' });
    expect(await memory(key).part("resp_2", "items")).toEqual({ ok: true, value: '["asked for resp_2"]' });
  });

  it("told again stay what others go on from; an id that is given again for another one takes nothing away", async () => {
    const key = newKey();
    await memory(key).storeResponse(response("resp_1"));
    await memory(key).storeResponse(response("resp_2", "resp_1"));
    await memory(key).storeResponse(response("resp_1"));
    expect(await answersOf(key, "resp_2")).toEqual(["resp_1", "resp_2"]);
    expect(await count(key, "piece")).toBe(6);
    for (const words of ["two", "three"]) {
      const turns = JSON.stringify({ input: [], model: "m", answer: [text(words)] });
      await memory(key).storeResponse(response("resp_1", "resp_1", { turns }));
    }
    expect(await answersOf(key, "resp_1")).toEqual(["resp_1", "two", "three"]);
    expect(await answersOf(key, "resp_2")).toEqual(["resp_1", "resp_2"]);
    expect(await memory(key).forget("resp_1")).toEqual({ ok: true, value: true });
    for (const id of ["resp_1", "resp_2"]) expect(await answersOf(key, id)).toMatchObject(NOT_FOUND);
    expect(await count(key, "piece")).toBe(3);
    await memory(key).storeResponse(response("resp_4", "resp_3"));
    expect(await answersOf(key, "resp_4")).toMatchObject({ error: { message: expect.stringContaining("resp_3") } });
  });

  it("are gone at once when they are deleted, and so is what goes on from them", async () => {
    const key = newKey();
    for (const [id, parent] of [
      ["resp_1", null],
      ["resp_2", "resp_1"],
      ["resp_3", "resp_2"],
    ] as const) {
      await memory(key).storeResponse(response(id, parent));
    }
    expect(await memory(key).forget("resp_2")).toEqual({ ok: true, value: true });
    expect(await memory(key).forget("resp_2")).toEqual({ ok: true, value: false });
    for (const id of ["resp_2", "resp_3"]) {
      expect(await answersOf(key, id)).toMatchObject({
        error: {
          ...NOT_FOUND.error,
          message: "Previous response with id 'resp_2' not found.",
          param: "previous_response_id",
        },
      });
    }
    expect(await answersOf(key, "resp_1")).toEqual(["resp_1"]);
    expect(await memory(key).part("resp_2", "object")).toEqual({ ok: true, value: null });
    expect(await memory(key).part("resp_3", "object")).toMatchObject({ value: '{"id":"resp_3"}' });
    expect([await count(key, "kept"), await count(key, "piece")]).toEqual([2, 6]);
  });

  it("are kept for thirty days; the alarm takes each at its time, with those of the next hour", async () => {
    const start = startClock();
    const key = newKey();
    await memory(key).storeResponse(response("resp_1"));
    vi.setSystemTime(start + HOUR / 2);
    await memory(key).storeResponse(response("resp_2", "resp_1"));
    vi.setSystemTime(start + 2 * DAY);
    await memory(key).storeResponse(response("resp_3"));
    vi.setSystemTime(start + RESPONSE_KEPT_MS - 1);
    await runDurableObjectAlarm(stub(key));
    expect(await alarmOf(key)).toBe(start + RESPONSE_KEPT_MS - 1 + HOUR);
    expect(await answersOf(key, "resp_2")).toEqual(["resp_1", "resp_2"]);
    vi.setSystemTime(start + RESPONSE_KEPT_MS);
    expect(await answersOf(key, "resp_1")).toMatchObject(NOT_FOUND);
    expect(await answersOf(key, "resp_2")).toMatchObject(NOT_FOUND);
    vi.setSystemTime(start + RESPONSE_KEPT_MS + HOUR);
    await runDurableObjectAlarm(stub(key));
    expect(await count(key, "kept")).toBe(1);
    expect(await count(key, "piece")).toBe(3);
    expect(await alarmOf(key)).toBe(start + RESPONSE_KEPT_MS + HOUR + DAY);
    vi.setSystemTime(start + 2 * DAY + RESPONSE_KEPT_MS);
    await runDurableObjectAlarm(stub(key));
    expect(await tables(key)).toEqual([]);
  });

  it("keep large values in pieces, and of what is too large only that it was", async () => {
    const key = newKey();
    const long = "é\u{1f600}x".repeat(PIECE_BYTES / 3);
    const large = response("resp_1", null, {
      turns: JSON.stringify({ input: [], model: "m", answer: [text(long)] }),
      object: JSON.stringify({ long }),
    });
    await memory(key).storeResponse(large);
    expect(await answersOf(key, "resp_1")).toEqual([long]);
    expect(await memory(key).part("resp_1", "object")).toEqual({ ok: true, value: large.object });
    const exact = (extra: number) => ({
      ...response("resp_2"),
      object: "x".repeat(MAX_RESPONSE_BYTES - 100 + extra),
      turns: "y".repeat(98),
    });
    await memory(key).storeResponse({ ...exact(0), input: [] });
    expect(await memory(key).part("resp_2", "object")).toMatchObject({ value: exact(0).object });
    await memory(key).storeResponse({ ...exact(1), input: [] });
    expect(await memory(key).part("resp_2", "object")).toEqual({ ok: true, value: null });
    await memory(key).storeResponse(response("resp_3", "resp_2"));
    for (const id of ["resp_2", "resp_3"]) {
      expect(await answersOf(key, id)).toMatchObject({
        error: { code: "previous_response_too_long", param: "previous_response_id" },
      });
    }
    expect(await memory(key).forget("resp_2")).toEqual({ ok: true, value: true });
  });

  it("are a chain of a thousand, and no more; nor more bytes than one request takes", async () => {
    const key = newKey();
    await inside(key, async (store) => {
      const bytes = new TextEncoder().encode('{"input":[],"model":"m","answer":[]}');
      const parts = { turns: bytes, object: bytes, items: bytes };
      for (let i = 0; i <= MAX_CHAIN_LENGTH; i++)
        await store.keep({ id: `r${i}`, parent: i === 0 ? null : `r${i - 1}`, parts });
      const large = { ...parts, turns: new Uint8Array(12 * 1024 * 1024) };
      await store.keep({ id: "large", parent: null, parts: large });
      await store.keep({ id: "larger", parent: "large", parts: large });
    });
    expect(await answersOf(key, `r${MAX_CHAIN_LENGTH - 1}`)).toHaveLength(MAX_CHAIN_LENGTH);
    expect(await answersOf(key, `r${MAX_CHAIN_LENGTH}`)).toMatchObject({
      error: { code: "previous_response_too_long" },
    });
    expect(await objectOf(key).chain("large")).toMatchObject({ kind: "whole" });
    expect(await answersOf(key, "larger")).toMatchObject({ error: { code: "previous_response_too_long" } });
  });

  it("make room for new ones, the oldest first", async () => {
    const key = newKey();
    for (const id of ["resp_1", "resp_2"]) await memory(key).storeResponse(response(id));
    await rows(key, `UPDATE kept SET bytes = ${MAX_STORE_BYTES / 2} `);
    await evictDurableObject(stub(key));
    await memory(key).storeResponse(response("resp_3"));
    expect(await answersOf(key, "resp_1")).toMatchObject(NOT_FOUND);
    expect(await answersOf(key, "resp_2")).toEqual(["resp_2"]);
    expect(await answersOf(key, "resp_3")).toEqual(["resp_3"]);
    expect(await count(key, "piece")).toBe(6);
  });

  it("an id that can't be one is not found, and nobody is asked", async () => {
    const asked = vi.spyOn(env.TURN_STORE, "getByName");
    for (const id of ["", "x".repeat(257)]) {
      const key = newKey();
      expect(await answersOf(key, id)).toMatchObject({ error: { message: "Previous response not found." } });
      expect(await memory(key).part(id, "object")).toEqual({ ok: true, value: null });
      expect(await memory(key).forget(id)).toEqual({ ok: true, value: false });
    }
    expect(asked).not.toHaveBeenCalled();
  });
});

describe("while the store is away", () => {
  const broken = (act: () => Promise<never>): Memory => {
    const store = new Proxy({}, { get: () => act });
    return new Memory({ TURN_STORE: { getByName: () => store } } as unknown as Env, "key", () => {});
  };

  it("thinking is done without, and a response that is gone on from is a 503", async () => {
    vi.spyOn(console, "error").mockReturnValue();
    const away = broken(() => Promise.reject(new Error("broken")));
    expect(await away.thinkingFor(["toolu_1"])).toEqual([]);
    await away.rememberTurn(messageOf(turn("toolu_1")), "org-1");
    await away.storeResponse(response("resp_1"));
    for (const asked of [away.response("resp_1"), away.part("resp_1", "object"), away.forget("resp_1")]) {
      expect(await asked).toMatchObject({ ok: false, error: { kind: "unavailable" } });
    }
  });

  it("nobody waits longer than the deadline, and a late write goes on", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    vi.spyOn(console, "error").mockReturnValue();
    const late = Promise.withResolvers<void>();
    const background: Promise<unknown>[] = [];
    const store = {
      recall: () => new Promise(() => {}),
      chain: () => new Promise(() => {}),
      remember: () => late.promise,
    };
    const slow = new Memory({ TURN_STORE: { getByName: () => store } } as unknown as Env, "key", (work) =>
      background.push(work),
    );
    const asked = [slow.thinkingFor(["toolu_1"]), slow.rememberTurn(messageOf(turn("toolu_1")), "org-1")];
    const chain = slow.response("resp_1");
    await vi.advanceTimersByTimeAsync(1_000);
    expect(await Promise.all(asked)).toEqual([[], undefined]);
    await vi.advanceTimersByTimeAsync(4_000);
    expect(await chain).toMatchObject({ ok: false, error: { kind: "unavailable" } });
    late.resolve();
    expect(await Promise.all(background)).toEqual([undefined]);
  });

  it("a question is put once more where the platform says that it may be", async () => {
    vi.spyOn(console, "error").mockReturnValue();
    let asked = 0;
    const retryable = (): Promise<never> =>
      Promise.reject(Object.assign(new Error("moved"), { retryable: ++asked > 0 }));
    expect(await broken(retryable).response("resp_1")).toMatchObject({ ok: false });
    expect(asked).toBe(2);
  });
});

describe("the store of a revoked key", () => {
  async function revoked(): Promise<string> {
    const { id, secretSha256 } = await mintKey(env.KEY_TAG_SECRET, Date.now());
    const policy: KeyPolicy = {
      ...KEY_DEFAULTS,
      id,
      version: 1,
      name: "n",
      workspace: "ws_default",
      scopes: ["messages"],
      models: null,
      limits: {},
      expires_at: null,
      revoked_at: null,
      secrets: [{ sha256: secretSha256, hint: "", created_at: 0, expires_at: null }],
    };
    const ledger = env.KEY_LEDGER.getByName(id) as unknown as Ledger;
    await ledger.putPolicy(policy);
    await memory(id).storeResponse(response("resp_1"));
    await runDurableObjectAlarm(stub(id));
    expect(await count(id, "kept")).toBe(1);
    const gone: KeyPolicy = { ...policy, version: 2, revoked_at: Date.now() };
    await ledger.putPolicy(gone);
    return id;
  }

  it("is emptied by whoever revokes it", async () => {
    const key = await revoked();
    await emptyMemory(env as unknown as Env, key);
    expect(await tables(key)).toEqual([]);
    expect(await alarmOf(key)).toBeNull();
    expect(await answersOf(key, "resp_1")).toMatchObject(NOT_FOUND);
  });

  it("is emptied by the control plane when it revokes the key", async () => {
    const { id } = await makeKey();
    await memory(id).rememberTurn(messageOf(turn("toolu_1")), "org-1");
    expect(await memory(id).thinkingFor(["toolu_1"])).toHaveLength(1);
    expect((await control(`keys/${id}`, { method: "DELETE" })).status).toBe(200);
    expect(await tables(id)).toEqual([]);
  });

  it("is emptied by its own alarm, should it not have been told", async () => {
    const key = await revoked();
    await runDurableObjectAlarm(stub(key));
    expect(await tables(key)).toEqual([]);
    expect(await alarmOf(key)).toBeNull();
  });

  it("waits for its next alarm while the ledger is away", async () => {
    const key = await revoked();
    await inside(key, async (store) => {
      Reflect.set(store, "env", {
        KEY_LEDGER: { getByName: () => ({ policy: () => Promise.reject(new Error("away")) }) },
      });
      await store.alarm();
    });
    expect(await count(key, "kept")).toBe(1);
    expect(await alarmOf(key)).not.toBeNull();
  });
});
