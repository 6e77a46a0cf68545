/** Ids and cursors carry whose they are. The tags are made by the runtime's own HMAC. */
import { describe, expect, it } from "vitest";
import {
  checkConversationId,
  cursorAfter,
  mintConversationId,
  readCursor,
} from "../../src/identity/conversation-id.ts";

const SECRETS = ["first-secret-0123456789", "second-secret-0123456789"];
const NOW = 1_700_000_000_000;
const ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz";

const other = (char: string): string => (char === "0" ? "1" : "0");
const edited = (text: string, at: number): string => text.slice(0, at) + other(text[at] ?? "") + text.slice(at + 1);

describe("X-02 ids of conversations", () => {
  it("are their workspace's, under each of the secrets", async () => {
    const id = await mintConversationId(SECRETS, "ws_a", NOW);
    expect(id).toMatch(/^conv_[0-9a-hjkmnp-tv-z]{42}$/);
    expect(await checkConversationId(SECRETS, "ws_a", id)).toBe("own");
    expect(await checkConversationId([...SECRETS].reverse(), "ws_a", id)).toBe("own");
    expect(await checkConversationId(SECRETS.slice(1), "ws_a", id)).toBe("untagged");
    expect(await checkConversationId(SECRETS, "ws_b", id)).toBe("untagged");
  });

  it("can't be guessed from one that is known: every edit of one character is nobody's", async () => {
    const id = await mintConversationId(SECRETS, "ws_a", NOW);
    for (let at = "conv_".length; at < id.length; at++) {
      expect(await checkConversationId(SECRETS, "ws_a", edited(id, at))).toBe("untagged");
    }
    // Its neighbours in time and in chance.
    const last = "conv_".length + 25;
    for (const char of ALPHABET) {
      const neighbour = id.slice(0, last) + char + id.slice(last + 1);
      expect(await checkConversationId(SECRETS, "ws_a", neighbour)).toBe(neighbour === id ? "own" : "untagged");
    }
  });

  it.each([
    "",
    "conv_",
    "x",
    "018f3a3e-5c1d-7c3a-9d2e-000000000001",
    `conv_${"0".repeat(41)}`,
    `conv_${"0".repeat(43)}`,
    `conv_${"u".repeat(42)}`,
    `CONV_${"0".repeat(42)}`,
  ])("of another form are none: %j", async (id) => {
    expect(await checkConversationId(SECRETS, "ws_a", id)).toBe("malformed");
  });

  it("sort by time", async () => {
    const ids = [];
    for (let i = 0; i < 20; i++) ids.push(await mintConversationId(SECRETS, "ws_a", NOW + i * 1_000));
    expect([...ids].sort()).toEqual(ids);
  });
});

describe("X-04 cursors", () => {
  it("are a workspace's own, under each of the secrets", async () => {
    const id = await mintConversationId(SECRETS, "ws_a", NOW);
    const cursor = await cursorAfter(SECRETS, "ws_a", id);
    const before = await readCursor([...SECRETS].reverse(), "ws_a", cursor);
    expect(before).toBe(id.slice(0, "conv_".length + 26));
    expect(id > (before ?? "")).toBe(true);
    expect(await readCursor(SECRETS, "ws_b", cursor)).toBeNull();
    expect(await readCursor(["another-secret-0123456789"], "ws_a", cursor)).toBeNull();
    for (let at = 0; at < cursor.length; at++) expect(await readCursor(SECRETS, "ws_a", edited(cursor, at))).toBeNull();
  });

  it("are not made of an id's own tag", async () => {
    const id = await mintConversationId(SECRETS, "ws_a", NOW);
    for (const text of ["", id, id.slice("conv_".length)]) expect(await readCursor(SECRETS, "ws_a", text)).toBeNull();
  });
});
