import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type MasterKey, open, readMasterKeys, seal } from "../../src/upstream/sealing.ts";
import type { Sealed } from "../../src/upstream/upstream.ts";

const base64 = (fill: number, bytes = 32) => Buffer.alloc(bytes, fill).toString("base64");
const keysOf = (text: string): readonly MasterKey[] => {
  const keys = readMasterKeys(text);
  if (!keys.ok) throw new Error(keys.error);
  return keys.value;
};
const [first] = keysOf(`a:${base64(1)}`) as [MasterKey];
const [second] = keysOf(`b:${base64(2)}`) as [MasterKey];
const place = "upstreams/up_1/api_key";

/** The same bytes with one bit turned, still well-formed base64. */
function flip(text: string, bit: number): string {
  const bytes = Buffer.from(text, "base64");
  bytes.writeUInt8(bytes.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
  return bytes.toString("base64");
}

describe("seal and open", () => {
  it("E-02 give back what was sealed, under whichever of the keys it was", async () => {
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: "binary" }), fc.string(), fc.boolean(), async (secret, at, old) => {
        const sealed = await seal(old ? first : second, secret, at);
        expect(sealed.master).toBe(old ? "a" : "b");
        expect(await open([second, first], sealed, at)).toEqual({ ok: true, value: secret });
      }),
    );
  });

  it("never make the same bytes twice, nor show any of the text", async () => {
    const secret = "sk-ant-UPKEY-CANARY";
    const all = await Promise.all(Array.from({ length: 200 }, () => seal(first, secret, place)));
    expect(new Set(all.map(({ iv }) => iv)).size).toBe(200);
    expect(new Set(all.map(({ data }) => data)).size).toBe(200);
    for (const { iv, data } of all) {
      expect(Buffer.from(iv, "base64").length).toBe(12);
      expect(Buffer.from(data, "base64").length).toBe(secret.length + 16);
      expect(Buffer.from(data, "base64").includes("UPKEY")).toBe(false);
    }
  });

  it("E-02 fail after any one bit has changed, of the ciphertext, its tag or its start", async () => {
    const sealed = await seal(first, "a secret", place);
    for (const field of ["iv", "data"] as const) {
      const bits = Buffer.from(sealed[field], "base64").length * 8;
      for (let bit = 0; bit < bits; bit++) {
        const changed: Sealed = { ...sealed, [field]: flip(sealed[field], bit) };
        expect(await open([first], changed, place)).toEqual({ ok: false, error: { kind: "tampered" } });
      }
    }
  });

  it("fail for another place, however alike", async () => {
    await fc.assert(
      fc.asyncProperty(fc.string(), fc.string(), async (here, there) => {
        fc.pre(here !== there);
        const opened = await open([first], await seal(first, "s", here), there);
        expect(opened).toEqual({ ok: false, error: { kind: "tampered" } });
      }),
    );
    const sealed = await seal(first, "s", place);
    for (const other of ["upstreams/up_2/api_key", "upstreams/up_1/base_url", "signing_keys/up_1/api_key", ""]) {
      expect((await open([first], sealed, other)).ok).toBe(false);
    }
  });

  it("E-02 name the master key that is missing, and take no other for it", async () => {
    const sealed = await seal(first, "s", place);
    expect(await open([second], sealed, place)).toEqual({
      ok: false,
      error: { kind: "unknown_master", master: "a" },
    });
    expect(await open([], sealed, place)).toMatchObject({ error: { kind: "unknown_master" } });
    const [impostor] = keysOf(`a:${base64(2)}`) as [MasterKey];
    expect(await open([impostor], sealed, place)).toEqual({ ok: false, error: { kind: "tampered" } });
    // The version is part of what is bound: the same bytes under another version are another key.
    const [renamed] = keysOf(`b:${base64(1)}`) as [MasterKey];
    expect(await open([renamed], { ...sealed, master: "b" }, place)).toMatchObject({ error: { kind: "tampered" } });
  });

  it.each([
    ["no base64", { iv: "!!!!", data: "AAAA" }],
    ["nothing", { iv: "", data: "" }],
    ["a short start", { iv: base64(0, 11), data: base64(0, 32) }],
    ["less than a tag", { iv: base64(0, 12), data: base64(0, 15) }],
  ])("call %s tampered", async (_, bytes) => {
    expect(await open([first], { master: "a", ...bytes }, place)).toEqual({ ok: false, error: { kind: "tampered" } });
  });
});

describe("readMasterKeys", () => {
  it("reads versions in their order, and a bare key as version 1", () => {
    expect(keysOf(base64(9)).map(({ version }) => version)).toEqual(["1"]);
    expect(keysOf(` 2:${base64(2)} , 1:${base64(1)}\n`).map(({ version }) => version)).toEqual(["2", "1"]);
    expect(keysOf(`2026-11.b_x:${base64(3)}`)[0]).toEqual({
      version: "2026-11.b_x",
      bytes: new Uint8Array(32).fill(3),
    });
    expect(keysOf("")).toEqual([]);
    expect(keysOf("  ")).toEqual([]);
  });

  it.each([
    ["a short key", `1:${base64(7, 31)}`],
    ["a long key", `1:${base64(7, 33)}`],
    ["no base64", `1:${"*".repeat(44)}`],
    ["base64 for URLs", `1:${Buffer.alloc(32, 0xff).toString("base64url")}`],
    ["no padding", `1:${base64(7).slice(0, -1)}`],
    ["bits beyond the last byte", `1:${base64(0).slice(0, -2)}B=`],
    ["hexadecimal", Buffer.alloc(32, 7).toString("hex")],
    ["an empty key", "1:"],
    ["an empty entry", `1:${base64(7)},`],
    ["no version", `:${base64(7)}`],
    ["a version of odd characters", `a b:${base64(7)}`],
    ["a long version", `${"v".repeat(33)}:${base64(7)}`],
    ["a version twice", `1:${base64(7)},1:${base64(8)}`],
    ["a bare key beside version 1", `1:${base64(7)},${base64(8)}`],
    ["two colons", `1:2:${base64(7)}`],
  ])("E-03 refuses %s, names the secret and holds nothing of it", (_, text) => {
    const read = readMasterKeys(text);
    if (read.ok) throw new Error("accepted");
    expect(read.error).toMatch(/^The secret MASTER_KEY is malformed: its key number [12] .+\.$/);
    for (let at = 0; at + 8 <= text.length; at++) expect(read.error).not.toContain(text.slice(at, at + 8));
  });
});
