import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { parseToken } from "../../../src/identity/jwt/form.ts";
import {
  keepSigningKeys,
  keepTokens,
  PUBLISHED_BEFORE_MS,
  type SigningRoom,
} from "../../../src/identity/jwt/keep-signing-keys.ts";
import { type Grant, mintToken, ownExpected, readGrant, secretMark } from "../../../src/identity/jwt/own-token.ts";
import { SigningKeys } from "../../../src/identity/jwt/signing.ts";
import { KEPT_AFTER_RETIRING_MS, loadSigningKeys } from "../../../src/identity/jwt/signing-store.ts";
import { verifyToken } from "../../../src/identity/jwt/verify.ts";
import type { MasterKey } from "../../../src/upstream/sealing.ts";
import { LoneClock } from "./clocks.ts";
import { type D1InNode, d1InNode } from "./d1-in-node.ts";
import { SharedClock, settle } from "./shared-clock.ts";

const START = Date.parse("2026-11-22T00:20:00Z");
const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const ISSUER = "https://sluice.example";
const master = (version: string, fill: number): MasterKey => ({ version, bytes: new Uint8Array(32).fill(fill) });
const [FIRST, SECOND] = [master("1", 1), master("2", 2)];
const roomOf = ({ db }: D1InNode, changes: Partial<SigningRoom> = {}): SigningRoom => ({
  db,
  masterKeys: [FIRST],
  alg: "ES256",
  ...changes,
});
const GRANT: Grant = {
  keyId: "key_01k9s3v0q0a1b2c3d4e5f6g7h8",
  scopes: ["messages", "conversations"],
  models: ["claude-opus-*"],
  conversation: "conv_1",
  secretMark: "0123456789abcdef",
};

async function mint(keys: SigningKeys, room: SigningRoom, now: number, lifetimeSeconds = 3_600) {
  const key = await keys.signingKey(room);
  return key.ok ? mintToken({ ...GRANT, issuer: ISSUER, lifetimeSeconds }, key.value, now) : key.error;
}

/** `good`, or why not: of the key or of the token. */
async function check(keys: SigningKeys, room: SigningRoom, text: string, clock: { now(): number }): Promise<string> {
  const token = parseToken(text);
  if (!token) return "form";
  const key = await keys.verificationKey(room, token.kid);
  if (!key.ok) return key.error;
  const verified = await verifyToken(token, key.value, ownExpected(ISSUER), clock.now());
  return verified.ok ? "good" : verified.error;
}

async function kids({ db }: D1InNode): Promise<string[]> {
  return (await loadSigningKeys(db)).map(({ kid }) => kid);
}

describe("mintToken", () => {
  it("writes what readGrant reads, and no more than an hour", async () => {
    const clock = new LoneClock(START + 123);
    const [d1, keys] = [d1InNode(), new SigningKeys(clock)];
    const room = roomOf(d1);
    const key = await keys.signingKey(room);
    if (!key.ok) throw new Error(key.error);
    for (const grant of [GRANT, { ...GRANT, models: null, conversation: null, scopes: [] }]) {
      const minted = await mintToken({ ...grant, issuer: ISSUER, lifetimeSeconds: 9_999 }, key.value, clock.now());
      const token = parseToken(minted.token);
      if (!token) throw new Error("no token");
      expect(token).toMatchObject({ alg: "ES256", kid: key.value.kid, typ: "at+jwt" });
      const own = await keys.verificationKey(room, token.kid);
      if (!own.ok) throw new Error(own.error);
      const verified = await verifyToken(token, own.value, ownExpected(ISSUER), clock.now());
      if (!verified.ok) throw new Error(verified.error);
      expect(readGrant(verified.value)).toEqual(grant);
      const seconds = Math.floor(START / 1_000);
      expect(verified.value.all).toMatchObject({ aud: "sluice", iat: seconds, nbf: seconds, exp: seconds + 3_600 });
      expect(verified.value.all.jti).toBe(minted.id);
      expect(minted.expiresAt).toBe(seconds + 3_600);
    }
  });

  it("marks a secret by 16 characters that tell nothing of its hash", async () => {
    const mark = await secretMark("a".repeat(64));
    expect(mark).toBe("ffe054fe7ae0cb6d");
    expect(mark).not.toBe(await secretMark("b".repeat(64)));
  });

  const claims = { scope: "messages", sec: "0123456789abcdef" };
  it.each<[string, string | null, Record<string, unknown>]>([
    ["no subject", null, {}],
    ["a subject that is no key", "ws_1", {}],
    ["no scope", GRANT.keyId, { scope: undefined }],
    ["a list of scopes", GRANT.keyId, { scope: ["messages"] }],
    ["no mark", GRANT.keyId, { sec: undefined }],
    ["a long mark", GRANT.keyId, { sec: "0".repeat(64) }],
    ["models that are a text", GRANT.keyId, { models: "claude-*" }],
    ["models that are null", GRANT.keyId, { models: null }],
    ["models with a number", GRANT.keyId, { models: [1] }],
    ["a conversation that is no text", GRANT.keyId, { conversation: 1 }],
  ])("gives no rights for %s", (_, subject, changes) => {
    const all = JSON.parse(JSON.stringify({ ...claims, ...changes }));
    expect(readGrant({ issuer: ISSUER, subject, issuedAt: 0, expiresAt: 1, all })).toBeNull();
  });

  it("gives nothing for a scope it does not know", () => {
    const all = { ...claims, scope: "messages rule-the-world messages" };
    expect(readGrant({ issuer: ISSUER, subject: GRANT.keyId, issuedAt: 0, expiresAt: 1, all })?.scopes).toEqual([
      "messages",
    ]);
  });
});

describe("keepSigningKeys", () => {
  it("makes one key a day, which signs ten minutes later, and deletes the old one when its last token is out", async () => {
    const d1 = d1InNode();
    const room = roomOf(d1);
    const first = await keepSigningKeys(room, START);
    expect(first).toMatchObject({ deleted: 0, resealed: 0, closed: [] });
    for (let hour = 1; hour < 24; hour++) expect((await keepSigningKeys(room, START + hour * HOUR)).made).toBeNull();
    const next = START + 24 * HOUR;
    const second = await keepSigningKeys(room, next);
    expect(await kids(d1)).toEqual([first.made, second.made]);
    const row = d1.raw.prepare("SELECT * FROM signing_keys WHERE kid = ?").get(first.made ?? "");
    const retired = next + PUBLISHED_BEFORE_MS;
    expect(row).toMatchObject({
      signs_from: START,
      retired_at: retired,
      delete_after: retired + KEPT_AFTER_RETIRING_MS,
    });
    expect((await keepSigningKeys(room, retired + KEPT_AFTER_RETIRING_MS - 1)).deleted).toBe(0);
    expect((await keepSigningKeys(room, retired + KEPT_AFTER_RETIRING_MS)).deleted).toBe(1);
    expect(await kids(d1)).toEqual([second.made]);
    // Days without a cron are no end of the last key.
    const later = await keepSigningKeys(room, START + 30 * 24 * HOUR);
    expect(await kids(d1)).toEqual([second.made, later.made]);
  });

  it("makes one key however many do it at once", async () => {
    const d1 = d1InNode();
    for (const day of [0, 1, 2]) {
      const all = await Promise.all(
        Array.from({ length: 8 }, (_, i) => keepSigningKeys(roomOf(d1), START + day * 24 * HOUR + i)),
      );
      expect(all.filter(({ made }) => made !== null)).toHaveLength(1);
    }
  });

  it("makes a key of the other kind when that is asked for, and not one each hour", async () => {
    const d1 = d1InNode();
    const [es, rs] = [roomOf(d1), roomOf(d1, { alg: "RS256" })];
    await keepSigningKeys(es, START);
    await keepSigningKeys(rs, START + HOUR);
    for (const hour of [2, 3]) expect((await keepSigningKeys(rs, START + hour * HOUR)).made).toBeNull();
    expect((await loadSigningKeys(d1.db)).map(({ alg }) => alg)).toEqual(["RS256"]);
    const clock = new LoneClock(START + 3 * HOUR);
    const keys = new SigningKeys(clock);
    const minted = await mint(keys, rs, clock.now());
    if (typeof minted === "string") throw new Error(minted);
    expect(parseToken(minted.token)?.alg).toBe("RS256");
    expect(await check(keys, es, minted.token, clock)).toBe("good");
  });

  it("E-02 seals anew under the first master key, and signs on", async () => {
    const d1 = d1InNode();
    const { made } = await keepSigningKeys(roomOf(d1), START);
    const both = roomOf(d1, { masterKeys: [SECOND, FIRST] });
    expect(await keepSigningKeys(both, START + HOUR)).toMatchObject({ made: null, resealed: 1, closed: [] });
    expect(await keepSigningKeys(both, START + HOUR)).toMatchObject({ resealed: 0 });
    const alone = roomOf(d1, { masterKeys: [SECOND] });
    expect(await keepSigningKeys(alone, START + HOUR)).toMatchObject({ made: null, closed: [] });
    const clock = new LoneClock(START + HOUR);
    const minted = await mint(new SigningKeys(clock), alone, clock.now());
    expect(typeof minted === "string" ? minted : parseToken(minted.token)?.kid).toBe(made);
  });

  it("E-02 names the keys of a lost master key; they verify on, and another one signs at once", async () => {
    const d1 = d1InNode();
    const clock = new LoneClock(START);
    const keys = new SigningKeys(clock);
    const before = await mint(keys, roomOf(d1), clock.now());
    if (typeof before === "string") throw new Error(before);
    const lost = roomOf(d1, { masterKeys: [SECOND] });
    clock.at += MINUTE;
    const [old] = await kids(d1);
    const kept = await keepSigningKeys(lost, clock.now());
    expect(kept.closed).toEqual([old]);
    const fresh = new SigningKeys(clock);
    const after = await mint(fresh, lost, clock.now());
    if (typeof after === "string") throw new Error(after);
    expect(parseToken(after.token)?.kid).toBe(kept.made);
    for (const { token } of [before, after]) expect(await check(fresh, lost, token, clock)).toBe("good");
  });

  it("makes none without a master key", async () => {
    const d1 = d1InNode();
    const room = roomOf(d1, { masterKeys: [] });
    expect((await keepSigningKeys(room, START)).made).toBeNull();
    expect(await mint(new SigningKeys(new LoneClock(START)), room, START)).toBe("no_master_key");
  });

  it("stores no private member in the open, and none opens in another row", async () => {
    const d1 = d1InNode();
    await keepSigningKeys(roomOf(d1), START);
    await keepSigningKeys(roomOf(d1, { alg: "RS256" }), START + 24 * HOUR);
    const rows = d1.raw.prepare("SELECT * FROM signing_keys").all();
    expect(rows).toHaveLength(2);
    for (const row of rows) expect(JSON.stringify(row)).not.toMatch(/"(d|p|q|dp|dq|qi|k)\\?":/);
    d1.raw.exec("UPDATE signing_keys SET sealed_private = (SELECT sealed_private FROM signing_keys WHERE seq = 1)");
    expect((await keepSigningKeys(roomOf(d1), START + 25 * HOUR)).closed).toHaveLength(1);
  });
});

describe("keepTokens", () => {
  it("tells what it did, and what it could not do, and is quiet otherwise", async () => {
    const d1 = d1InNode();
    const [said, failed] = [vi.spyOn(console, "log"), vi.spyOn(console, "error")].map((spy) =>
      spy.mockImplementation(() => {}),
    );
    await keepTokens(roomOf(d1), START);
    const [kid] = await kids(d1);
    const last = () => JSON.parse(String(said?.mock.lastCall?.[0]));
    expect(last()).toEqual({ level: "info", msg: "tokens_kept", made: kid, deleted: 0, resealed: 0, unopened: [] });
    await keepTokens(roomOf(d1), START + HOUR);
    expect(said).toHaveBeenCalledTimes(1);
    await keepTokens(roomOf(d1, { masterKeys: [SECOND] }), START + HOUR);
    expect(last()).toMatchObject({ level: "error", unopened: [kid] });
    d1.before = () => Promise.reject(new Error("away"));
    await keepTokens(roomOf(d1), START + HOUR);
    expect(JSON.parse(String(failed?.mock.lastCall?.[0]))).toMatchObject({
      msg: "tokens_not_kept",
      error: "Error: away",
    });
    vi.restoreAllMocks();
  });
});

describe("SigningKeys", () => {
  it("J-18 publishes public members alone, the newest key first", async () => {
    const d1 = d1InNode();
    const clock = new LoneClock(START);
    await keepSigningKeys(roomOf(d1), START);
    await keepSigningKeys(roomOf(d1, { alg: "RS256" }), START + 24 * HOUR);
    d1.raw.exec(
      `UPDATE signing_keys SET public_jwk = json_set(public_jwk, '$.x5c', 'a', '$.key_ops', json('["verify"]'))`,
    );
    const set = await new SigningKeys(clock).publicKeySet(roomOf(d1));
    if (!set.ok) throw new Error(set.error);
    expect(set.value.keys.map((key) => Object.keys(key).sort())).toEqual([
      ["alg", "e", "kid", "kty", "n", "use"],
      ["alg", "crv", "kid", "kty", "use", "x", "y"],
    ]);
    expect(set.value.keys[1]?.kid).toBe((await kids(d1))[0]);
    d1.raw.exec("UPDATE signing_keys SET public_jwk = json_set(public_jwk, '$.d', 'AAAA')");
    const spoilt = await new SigningKeys(clock).publicKeySet(roomOf(d1));
    expect(JSON.stringify(spoilt)).not.toContain("AAAA");
  });

  it("makes the first key when a token is asked for: one, however many ask at once, in whatever isolate", async () => {
    const d1 = d1InNode();
    const clock = new SharedClock(START);
    const isolates = Array.from({ length: 4 }, () => new SigningKeys(clock));
    const minting = Promise.all(
      Array.from({ length: 20 }, (_, i) => mint(isolates[i % 4] as SigningKeys, roomOf(d1), clock.now())),
    );
    await clock.advance(4_000);
    const minted = await minting;
    expect(await kids(d1)).toHaveLength(1);
    for (const one of minted) {
      if (typeof one === "string") throw new Error(one);
      for (const keys of isolates) expect(await check(keys, roomOf(d1), one.token, clock)).toBe("good");
    }
  });

  it("waits for an unknown key's token, and asks D1 once a second at most", async () => {
    const d1 = d1InNode();
    const clock = new SharedClock(START);
    const [one, other] = [new SigningKeys(clock), new SigningKeys(clock)];
    await other.publicKeySet(roomOf(d1));
    const minted = await mint(one, roomOf(d1), clock.now());
    if (typeof minted === "string") throw new Error(minted);
    d1.asked = 0;
    const answers = Promise.all(Array.from({ length: 50 }, () => check(other, roomOf(d1), minted.token, clock)));
    await clock.advance(1_100);
    expect(new Set(await answers)).toEqual(new Set(["good"]));
    expect(d1.asked).toBe(1);
    // A flood of names nobody has: each of them waits, D1 hears of one a second.
    d1.asked = 0;
    const forged = Array.from({ length: 200 }, (_, i) => `sig_${String(i).padStart(26, "0")}`);
    const unknown = Promise.all(forged.map((kid) => other.verificationKey(roomOf(d1), kid)));
    await clock.advance(1_100);
    expect(new Set((await unknown).map((answer) => (answer.ok ? "ok" : answer.error)))).toEqual(new Set(["unknown"]));
    expect(d1.asked).toBe(1);
    // And none of one that can't be ours.
    for (const kid of ["", "k", "sig_", `sig_${"u".repeat(26)}`, "SIG_00000000000000000000000000", null]) {
      expect(await other.verificationKey(roomOf(d1), kid)).toEqual({ ok: false, error: "unknown" });
    }
    expect(d1.asked).toBe(1);
  });

  it("J-19 answers everybody in time, though the request that asks is cancelled", async () => {
    const d1 = d1InNode();
    const clock = new SharedClock(START);
    const [one, other] = [new SigningKeys(clock), new SigningKeys(clock)];
    const minted = await mint(one, roomOf(d1), clock.now());
    if (typeof minted === "string") throw new Error(minted);
    let hang = true;
    d1.before = () => {
      if (!hang) return Promise.resolve();
      hang = false;
      return new Promise(() => {});
    };
    void check(other, roomOf(d1), minted.token, clock);
    await settle();
    expect(hang).toBe(false);
    const from = clock.now();
    let last = 0;
    const others = Promise.all(
      Array.from({ length: 100 }, async () => {
        const { ok } = await other.verificationKey(roomOf(d1), parseToken(minted.token)?.kid ?? null);
        last = clock.now();
        return ok;
      }),
    );
    await clock.advance(3_000);
    expect(new Set(await others)).toEqual(new Set([true]));
    expect(last - from).toBeLessThan(2_000);
  });

  it("uses the last set while D1 is away: ten minutes for signing, an hour for verifying, then says so", async () => {
    const d1 = d1InNode();
    const clock = new LoneClock(START);
    const keys = new SigningKeys(clock);
    const room = roomOf(d1);
    const minted = await mint(keys, room, clock.now());
    if (typeof minted === "string") throw new Error(minted);
    d1.before = () => Promise.reject(new Error("away"));
    clock.at = START + 9 * MINUTE;
    expect(typeof (await mint(keys, room, clock.now()))).toBe("object");
    clock.at = START + 11 * MINUTE;
    expect(await mint(keys, room, clock.now())).toBe("unavailable");
    clock.at = START + 59 * MINUTE;
    expect(await check(keys, room, minted.token, clock)).toBe("good");
    expect(await keys.verificationKey(room, `sig_${"0".repeat(26)}`)).toEqual({ ok: false, error: "unavailable" });
    clock.at = START + 61 * MINUTE;
    expect(await check(keys, room, minted.token, clock)).toBe("unavailable");
    d1.before = () => Promise.resolve();
    clock.at += 1_000;
    expect(await check(keys, room, minted.token, clock)).toBe("expired");
  });

  const TICK = 5 * MINUTE;
  /** What may happen, and how much time passes before it. */
  const step = fc.record({
    after: fc.oneof(
      { weight: 3, arbitrary: fc.integer({ min: 0, max: 5_000 }) },
      { weight: 3, arbitrary: fc.integer({ min: 0, max: 20 * MINUTE }) },
      { weight: 1, arbitrary: fc.integer({ min: 0, max: 8 * HOUR }) },
    ),
    isolate: fc.nat(2),
    act: fc.constantFrom("mint", "mint", "mint", "cron", "crons", "restart", "away", "back"),
    lifetime: fc.integer({ min: 1, max: 3_600 }),
  });

  it("under load, for days, never fails a token that any isolate has minted", async () => {
    let checked = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 30, maxLength: 40 }), async (steps) => {
        const d1 = d1InNode();
        const clock = new LoneClock(START);
        const room = roomOf(d1);
        const isolates = Array.from({ length: 3 }, () => new SigningKeys(clock));
        let live: { readonly token: string; readonly expiresAt: number }[] = [];
        let nextTick = START;
        let awayUntil = 0;
        d1.before = () => (clock.now() < awayUntil ? Promise.reject(new Error("away")) : Promise.resolve());
        const verifyAll = async () => {
          live = live.filter(({ expiresAt }) => clock.now() < expiresAt * 1_000);
          for (const keys of isolates) {
            for (const { token } of live) {
              const answer = await check(keys, room, token, clock);
              // Verifying may have taken time, while D1 was away.
              if (answer !== "good" && answer !== "expired") {
                expect([answer, clock.now() < awayUntil + 1_000]).toEqual(["unavailable", true]);
              }
              checked++;
            }
          }
        };
        const mintAt = async (isolate: number, lifetime: number) => {
          const minted = await mint(isolates[isolate] as SigningKeys, room, clock.now(), lifetime);
          if (typeof minted !== "string") live = [...live.slice(-20), minted];
          else expect([minted, clock.now() < awayUntil + 1_000]).toEqual(["unavailable", true]);
        };
        for (const { after, isolate, act, lifetime } of steps) {
          const until = clock.now() + after;
          // The cron, in between; it fails while D1 is away. Where keys change, it comes often, and there is always a token.
          while (nextTick <= until) {
            clock.at = Math.max(clock.at, nextTick);
            const changing = new Date(nextTick).getUTCHours() < 3;
            if (changing) await mintAt((nextTick / TICK) % 3, 3_600);
            if (changing || nextTick % HOUR === START % HOUR) await keepSigningKeys(room, clock.now()).catch(() => {});
            if (changing) await verifyAll();
            nextTick += TICK;
          }
          clock.at = Math.max(clock.at, until);
          if (act === "mint") await mintAt(isolate, lifetime);
          else if (act === "cron") await keepSigningKeys(room, clock.now()).catch(() => {});
          else if (act === "crons") {
            await Promise.allSettled([keepSigningKeys(room, clock.now()), keepSigningKeys(room, clock.now() + 3)]);
          } else if (act === "restart") isolates[isolate] = new SigningKeys(clock);
          else awayUntil = act === "away" ? clock.now() + lifetime * 1_000 : 0;
          await verifyAll();
        }
        expect((await loadSigningKeys(d1.db).catch(() => [])).length).toBeLessThanOrEqual(4);
      }),
      { numRuns: 5 },
    );
    expect(checked).toBeGreaterThan(1_000);
  });
});
