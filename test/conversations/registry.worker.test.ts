/** The list of conversations in D1, and doing without it. */
import { env } from "cloudflare:workers";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { type Entry, isFull, isListed, listRows, registryOf } from "../../src/conversations/registry.ts";

const { DB } = env;
const NOW = 1_700_000_000_000;
const registry = registryOf(DB);

const entry = (id: string, more: Partial<Entry> = {}): Entry => ({
  id,
  workspace: "ws_a",
  keyId: "key_1",
  model: "claude-haiku-5-5",
  metadata: "{}",
  createdAt: NOW,
  updatedAt: NOW,
  expiresAt: NOW + 1_000,
  turns: 0,
  ...more,
});

async function ids(workspace = "ws_a", before: string | null = null, limit = 10, now = NOW): Promise<string[]> {
  const rows = await listRows(DB, workspace, before, limit, now);
  if (!rows.ok) throw new Error(rows.error.kind);
  return rows.value.map(({ id }) => id);
}

/** D1 as it is while it is away. */
const gone = {
  prepare: () => ({ bind: () => ({ all: fails, first: fails, run: fails }) }),
} as unknown as D1Database;
async function fails(): Promise<never> {
  throw new Error("D1_ERROR: internal");
}

beforeEach(async () => {
  vi.spyOn(console, "error").mockImplementation(() => {});
  await DB.prepare("DELETE FROM conversations").run();
});

describe("X-04 the list", () => {
  it("has a workspace's own, newest first, page by page, without gap or repeat", async () => {
    for (const id of ["c1", "c2", "c3", "c4", "c5"]) await registry.put(entry(id));
    await registry.put(entry("c3b", { workspace: "ws_b" }));
    expect(await ids()).toEqual(["c5", "c4", "c3", "c2", "c1"]);
    expect(await ids("ws_b")).toEqual(["c3b"]);
    expect(await ids("ws_c")).toEqual([]);
    expect(await ids("ws_a", null, 2)).toEqual(["c5", "c4"]);
    expect(await ids("ws_a", "c4", 2)).toEqual(["c3", "c2"]);
    // One is deleted, and the page behind it goes on where it was.
    await registry.remove("c4");
    expect(await ids("ws_a", "c4", 2)).toEqual(["c3", "c2"]);
  });

  it("leaves out what has expired, though its object has not come to say so", async () => {
    await registry.put(entry("c1", { expiresAt: NOW }));
    await registry.put(entry("c2", { expiresAt: NOW + 1 }));
    expect(await ids()).toEqual(["c2"]);
  });

  it("takes the newest state of a conversation, in whatever order they come", async () => {
    await registry.put(
      entry("c1", { updatedAt: NOW + 5, turns: 5, model: "m5", metadata: '{"a":"5"}', expiresAt: NOW + 9 }),
    );
    await registry.put(entry("c1", { updatedAt: NOW + 4, turns: 4, model: "m4" }));
    const rows = await listRows(DB, "ws_a", null, 10, NOW);
    expect(rows.ok && rows.value).toEqual([
      {
        id: "c1",
        model: "m5",
        metadata: '{"a":"5"}',
        created_at: NOW,
        updated_at: NOW + 5,
        expires_at: NOW + 9,
        turns: 5,
      },
    ]);
    await registry.remove("c1");
    await registry.remove("c1");
    expect(await ids()).toEqual([]);
  });

  it("X-01 finds an id in its workspace alone", async () => {
    await registry.put(entry("c1"));
    expect(await isListed(DB, "ws_a", "c1")).toBe(true);
    expect(await isListed(DB, "ws_b", "c1")).toBe(false);
    expect(await isListed(DB, "ws_a", "c2")).toBe(false);
  });

  it("W-10 is full at its limit, and not one below", async () => {
    for (const id of ["c1", "c2"]) await registry.put(entry(id));
    await registry.put(entry("b1", { workspace: "ws_b" }));
    expect(await isFull(DB, "ws_a", 3)).toBe(false);
    await registry.put(entry("c3"));
    expect(await isFull(DB, "ws_a", 3)).toBe(true);
    expect(await isFull(DB, "ws_b", 3)).toBe(false);
  });
});

describe("with D1 away", () => {
  it("there is no list, and everything else goes on", async () => {
    expect(await listRows(gone, "ws_a", null, 10, NOW)).toEqual({
      ok: false,
      error: { kind: "register_away", what: "The list of conversations can't be read at the moment." },
    });
    expect(await isListed(gone, "ws_a", "c1")).toBe(false);
    expect(await isFull(gone, "ws_a")).toBe(false);
    await expect(registryOf(gone).put(entry("c1"))).rejects.toThrow("D1_ERROR");
    await expect(registryOf(gone).remove("c1")).rejects.toThrow("D1_ERROR");
  });
});
