/** Who made what, in D1. */
import { env } from "cloudflare:workers";
import { beforeEach, describe, expect, it } from "vitest";
import {
  announce,
  find,
  forget,
  type Kind,
  ownedUpstream,
  placeOf,
  register,
  rowsFrom,
  withdraw,
} from "../../src/ownership/store.ts";

const DB = env.DB;
const NOW = 1_000_000_000_000;
const DAY = 86_400_000;

async function make(kind: Kind, id: string, workspace = "w1", upstream = "up_1", now = NOW): Promise<boolean> {
  const seq = await announce(DB, kind, { workspace, keyId: `key_of_${workspace}` }, `req_${id}`, now);
  return register(DB, kind, seq, id, upstream);
}

async function count(kind: Kind): Promise<number> {
  return (await DB.prepare(`SELECT count(*) AS n FROM ${kind}`).first<{ n: number }>())?.n ?? -1;
}

beforeEach(async () => {
  await DB.batch([DB.prepare("DELETE FROM batches"), DB.prepare("DELETE FROM files")]);
});

describe.each(["batches", "files"] as const)("X-01 %s", (kind) => {
  it("are found by their workspace alone, until they are deleted", async () => {
    await make(kind, "a");
    expect(await find(DB, kind, "w1", "a")).toMatchObject({ id: "a", upstream: "up_1", key_id: "key_of_w1" });
    expect(await find(DB, kind, "w2", "a")).toBeNull();
    expect(await find(DB, kind, "w1", "b")).toBeNull();
    const seq = (await placeOf(DB, kind, "w1", "a")) ?? 0;
    await forget(DB, kind, [seq], NOW);
    expect(await find(DB, kind, "w1", "a")).toBeNull();
  });

  it("stay their first owner's, though an upstream give the same id twice", async () => {
    expect(await make(kind, "a", "w1")).toBe(true);
    expect(await make(kind, "a", "w2")).toBe(false);
    expect(await find(DB, kind, "w2", "a")).toBeNull();
    expect(await find(DB, kind, "w1", "a")).not.toBeNull();
    // Its own workspace may be given it again, even after it was deleted.
    await forget(DB, kind, [(await placeOf(DB, kind, "w1", "a")) ?? 0], NOW);
    expect(await make(kind, "a", "w1")).toBe(true);
    expect(await find(DB, kind, "w1", "a")).not.toBeNull();
    // Another upstream's of the same id is another one.
    expect(await make(kind, "a", "w2", "up_2")).toBe(true);
    expect(await find(DB, kind, "w2", "a")).toMatchObject({ upstream: "up_2" });
    expect(await count(kind)).toBe(2);
  });

  it("that are only announced are nobody's to see, and gone when withdrawn", async () => {
    const seq = await announce(DB, kind, { workspace: "w1", keyId: "k" }, "req_1", NOW);
    expect(await rowsFrom(DB, kind, "w1", null, 10)).toEqual([]);
    await withdraw(DB, kind, seq);
    expect(await count(kind)).toBe(0);
    const kept = await announce(DB, kind, { workspace: "w1", keyId: "k" }, "req_2", NOW);
    await register(DB, kind, kept, "a", "up_1");
    await withdraw(DB, kind, kept);
    expect(await count(kind)).toBe(1);
  });

  it("X-04 are listed from any place on in either direction, also from one that was deleted a moment ago", async () => {
    for (const id of ["a", "b", "c", "d"]) await make(kind, id);
    await make(kind, "x", "w2");
    const place = async (id: string) => (await placeOf(DB, kind, "w1", id)) ?? 0;
    const ids = async (...args: [direction: "older" | "newer", id: string] | []) => {
      const [direction, id] = args;
      const start = direction && id ? { direction, seq: await place(id) } : null;
      return (await rowsFrom(DB, kind, "w1", start, 2)).map((row) => row.id);
    };
    expect(await ids()).toEqual(["d", "c"]);
    await forget(DB, kind, [await place("c")], NOW);
    expect(await ids("older", "c")).toEqual(["b", "a"]);
    expect(await ids("newer", "b")).toEqual(["d"]);
    expect(await placeOf(DB, kind, "w1", "x")).toBeNull();
  });

  it("are forgotten a week after they were deleted", async () => {
    await make(kind, "a");
    await forget(DB, kind, [(await placeOf(DB, kind, "w1", "a")) ?? 0], NOW);
    await make(kind, "b", "w1", "up_1", NOW + 7 * DAY);
    expect(await placeOf(DB, kind, "w1", "a")).not.toBeNull();
    await make(kind, "c", "w1", "up_1", NOW + 7 * DAY + 1);
    expect(await placeOf(DB, kind, "w1", "a")).toBeNull();
    expect(await count(kind)).toBe(2);
  });
});

describe("U-18 files that a body names", () => {
  it("pin the call to the upstream that holds them all", async () => {
    await make("files", "f1");
    await make("files", "f2");
    await make("files", "f3", "w1", "up_2");
    await make("files", "f4", "w2");
    expect(await ownedUpstream(DB, "w1", [])).toEqual({ ok: true, value: null });
    expect(await ownedUpstream(DB, "w1", ["f1", "f2", "f1"])).toEqual({ ok: true, value: "up_1" });
    const split = await ownedUpstream(DB, "w1", ["f1", "f3"]);
    expect(split).toMatchObject({ ok: false, error: { kind: "invalid_request" } });
    expect(JSON.stringify(split)).toMatch(/f1.*f3/);
    for (const id of ["f4", "f5", "__proto__", "a'b"]) {
      expect(await ownedUpstream(DB, "w1", ["f1", id])).toEqual({
        ok: false,
        error: { kind: "not_found", what: `There is no file \`${id}\`.` },
      });
    }
  });

  it("are not asked for while D1 is away", async () => {
    const away = {
      prepare: () => {
        throw new Error("away");
      },
    } as unknown as D1Database;
    expect(await ownedUpstream(away, "w1", [])).toEqual({ ok: true, value: null });
    expect(await ownedUpstream(away, "w1", ["f1"])).toMatchObject({ ok: false, error: { kind: "register_away" } });
  });
});
