/** The register of templates, in a real D1. */
import { env } from "cloudflare:workers";
import { beforeEach, describe, expect, it } from "vitest";
import {
  changeTemplate,
  type Draft,
  getTemplate,
  getVersion,
  listTemplates,
  listVersions,
  publish,
  type TemplateRecord,
} from "../../src/templates/store.ts";

const DB = env.DB;
const NOW = 1_000_000_000_000;
const CONTENT = { messages: [], system: "x", defaults: {}, variables: { type: "object" }, operator: [] };

function draft(name: string, changes: Partial<Draft> = {}): Draft {
  return { name, content: CONTENT, note: null, labels: [], by: "admin", ...changes };
}

async function published(name: string, changes: Partial<Draft> = {}): Promise<TemplateRecord> {
  const result = await publish(DB, draft(name, changes), NOW);
  if (!result.ok) throw new Error(JSON.stringify(result.error));
  return result.value;
}

/** A statement that somebody wants in the same transaction. */
const note = (text: string) => DB.prepare("INSERT INTO notes (text) VALUES (?)").bind(text);
const notes = async () =>
  (await DB.prepare("SELECT text FROM notes").all<{ text: string }>()).results.map((row) => row.text);

beforeEach(async () => {
  await DB.batch([
    DB.prepare("DELETE FROM templates"),
    DB.prepare("DELETE FROM template_versions"),
    DB.prepare("DROP TABLE IF EXISTS notes"),
    DB.prepare("CREATE TABLE notes (text TEXT PRIMARY KEY)"),
  ]);
});

describe("publishing", () => {
  it("numbers versions from 1, and labels the first production", async () => {
    expect(await published("a")).toEqual({
      name: "a",
      workspaces: null,
      state: "active",
      labels: { production: 1 },
      newest: 1,
      revision: 1,
      created_at: NOW,
      updated_at: NOW,
    });
    const second = await published("a", { note: "shorter", labels: ["canary", "next"] });
    expect(second).toMatchObject({ labels: { production: 1, canary: 2, next: 2 }, newest: 2, revision: 2 });
    expect(await published("b", { labels: ["canary"] })).toMatchObject({ labels: { canary: 1 }, newest: 1 });
    expect(await getVersion(DB, "a", 2)).toMatchObject({
      version: 2,
      content: CONTENT,
      note: "shorter",
      created_by: "admin",
    });
    expect(await getVersion(DB, "a", 3)).toBeNull();
  });

  it("gives 1 to 50, each once, when 50 publish at once", async () => {
    const all = await Promise.all(
      Array.from({ length: 50 }, (_, i) => publish(DB, draft("a", { note: String(i), labels: ["newest"] }), NOW)),
    );
    const numbers = all.map((result) => (result.ok ? result.value.newest : 0)).sort((a, b) => a - b);
    expect(numbers).toEqual(Array.from({ length: 50 }, (_, i) => i + 1));
    const stored = await listVersions(DB, "a", undefined, 100);
    expect(stored.map(({ version }) => version)).toEqual(numbers.toReversed());
    // What each was told is what lies under its number.
    for (const [i, result] of all.entries()) {
      const number = result.ok ? result.value.newest : 0;
      expect(stored.find(({ version }) => version === number)?.note).toBe(String(i));
    }
    expect(await getTemplate(DB, "a")).toMatchObject({ newest: 50, revision: 50, labels: { newest: 50 } });
  });

  it("is all or nothing, with what is added", async () => {
    await publish(DB, draft("a"), NOW, [note("first")]);
    const failing = publish(DB, draft("a"), NOW, [note("second"), note("first")]);
    await expect(failing).rejects.toThrow("UNIQUE");
    expect(await getTemplate(DB, "a")).toMatchObject({ newest: 1, revision: 1 });
    expect(await getVersion(DB, "a", 2)).toBeNull();
    expect(await notes()).toEqual(["first"]);
  });

  it("is a conflict for an archived template, and for one with no room for labels, and writes nothing then", async () => {
    const record = await published("a");
    await changeTemplate(DB, record, { state: "archived" }, NOW);
    expect(await publish(DB, draft("a"), NOW, [note("x")])).toMatchObject({ ok: false, error: { kind: "conflict" } });
    const many = Array.from({ length: 21 }, (_, i) => `l${i}`);
    expect(await publish(DB, draft("b", { labels: many }), NOW, [note("x")])).toMatchObject({
      error: { kind: "conflict" },
    });
    expect(await getTemplate(DB, "b")).toBeNull();
    expect(await getVersion(DB, "a", 2)).toBeNull();
    expect(await notes()).toEqual([]);
  });

  it("takes any text for what it is", async () => {
    const hostile = `'); DROP TABLE templates; -- "\u0000\\ {{x}}`;
    await published("a", { content: { ...CONTENT, system: hostile }, note: hostile, by: hostile });
    expect(await getVersion(DB, "a", 1)).toMatchObject({
      content: { system: hostile },
      note: hostile,
      created_by: hostile,
    });
  });
});

describe("a change", () => {
  it("is made once for a revision; who comes second has a conflict and writes nothing", async () => {
    const record = await published("a");
    const change = (label: string) => ({ labels: { ...record.labels, [label]: 1 } });
    const both = await Promise.all([
      changeTemplate(DB, record, change("x"), NOW + 1, [note("x")]),
      changeTemplate(DB, record, change("y"), NOW + 1, [note("y")]),
    ]);
    const [made, refused] = both[0].ok ? both : both.toReversed();
    expect(made).toMatchObject({ ok: true, value: { revision: 2, updated_at: NOW + 1 } });
    expect(refused).toMatchObject({ ok: false, error: { kind: "conflict" } });
    expect(await notes()).toHaveLength(1);
    expect(await getTemplate(DB, "a")).toEqual(made?.ok && made.value);
    // Publishing is a change as well.
    await published("a");
    expect(made?.ok && (await changeTemplate(DB, made.value, { state: "archived" }, NOW))).toMatchObject({
      error: { kind: "conflict" },
    });
  });

  it("changes what it names and nothing else", async () => {
    const record = await published("a");
    const narrowed = await changeTemplate(DB, record, { workspaces: ["w1"] }, NOW);
    expect(narrowed).toMatchObject({ value: { workspaces: ["w1"], state: "active", labels: { production: 1 } } });
    if (!narrowed.ok) throw new Error("not changed");
    await changeTemplate(DB, narrowed.value, { workspaces: null, labels: {} }, NOW);
    expect(await getTemplate(DB, "a")).toMatchObject({ workspaces: null, labels: {}, newest: 1, revision: 3 });
  });
});

describe("lists", () => {
  it("go by name, and by version downwards", async () => {
    for (const name of ["c", "a", "b"]) await published(name);
    await published("b");
    expect((await listTemplates(DB, undefined, 2)).map(({ name }) => name)).toEqual(["a", "b"]);
    expect((await listTemplates(DB, "b", 2)).map(({ name }) => name)).toEqual(["c"]);
    expect((await listVersions(DB, "b", undefined, 1)).map(({ version }) => version)).toEqual([2]);
    expect((await listVersions(DB, "b", 2, 9)).map(({ version }) => version)).toEqual([1]);
  });
});
