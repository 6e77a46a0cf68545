/** Where calls find templates, with a real KV and D1 that fail when they are told to. */
import { env } from "cloudflare:workers";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { findVersion } from "../../src/templates/find.ts";
import { COMPARE_MS, IN_FORCE_MS, MAX_STALE_MS, POINTER_MS, Shelf, type Shelves } from "../../src/templates/shelf.ts";
import { changeTemplate, getTemplate, publish, type TemplateRecord } from "../../src/templates/store.ts";

const NOW = 1_000_000_000_000;
const content = (system: string) => ({
  messages: [],
  system,
  defaults: {},
  variables: { type: "object" },
  operator: [],
});

type Faults = { kvReads?: boolean; kvWrites?: number; d1?: boolean; d1Silent?: boolean };

/** A statement that is never answered. */
const silent = () => ({ bind: silent, first: () => new Promise(() => {}) });

/** One isolate beside others, with a clock of its own. */
class Isolate {
  readonly shelf = new Shelf();
  readonly faults: Faults = {};
  readonly waits: number[] = [];
  kvReads = 0;
  d1Reads = 0;
  now = NOW;
  /** Done after each answer. */
  #work: Promise<unknown>[] = [];
  beforeGet: () => Promise<void> = async () => {};
  /** Called after a put, before the next step. */
  afterPut: () => Promise<void> = async () => {};

  get shelves(): Shelves {
    return {
      kv: this.#kv(),
      db: this.#db(),
      now: () => this.now,
      background: (work) => this.#work.push(work),
      wait: async (ms) => {
        this.waits.push(ms);
      },
    };
  }

  async settled(): Promise<void> {
    for (const work of this.#work.splice(0)) await work;
  }

  #kv(): KVNamespace {
    const { faults } = this;
    const get = async (key: string, options: KVNamespaceGetOptions<"text">) => {
      this.kvReads++;
      await this.beforeGet();
      if (faults.kvReads) throw new Error("KV is away");
      return env.TEMPLATES.get(key, options);
    };
    const put = async (key: string, text: string) => {
      if (faults.kvWrites) {
        faults.kvWrites--;
        throw new Error("KV GET failed: 429 Too Many Requests");
      }
      await env.TEMPLATES.put(key, text);
      await this.afterPut();
    };
    return new Proxy(env.TEMPLATES, {
      get: (target, name) => (name === "get" ? get : name === "put" ? put : Reflect.get(target, name)),
    });
  }

  #db(): D1Database {
    return new Proxy(env.DB, {
      get: (target, name) => {
        if (this.faults.d1) throw new Error("D1 is away");
        if (name === "prepare") this.d1Reads++;
        if (name === "prepare" && this.faults.d1Silent) return silent;
        const member: unknown = Reflect.get(target, name);
        return typeof member === "function" ? member.bind(target) : member;
      },
    });
  }

  async publish(system: string, brought = true): Promise<{ record: TemplateRecord; version: number }> {
    const stored = await publish(
      env.DB,
      { name: "a", content: content(system), note: null, labels: ["production"], by: "x" },
      NOW,
    );
    if (!stored.ok) throw new Error(stored.error.kind);
    const record = stored.value;
    const version = record.newest;
    if (brought) {
      const put = await this.shelf.bring(this.shelves, record, { template: "a", version, content: content(system) });
      expect(put.ok).toBe(true);
    }
    return { record, version };
  }

  /** The system of the version that a call gets, or the kind of its failure. */
  async call(
    wish: { version: number } | { label: string } = { label: "production" },
    name = "a",
    workspace = "w",
  ): Promise<unknown> {
    const found = await findVersion(this.shelf, this.shelves, name, wish, { workspace, who: "key_1" });
    return found.ok ? found.value.content.system : found.error.kind;
  }
}

const pointer = async (): Promise<TemplateRecord> => JSON.parse((await env.TEMPLATES.get("v1/a")) ?? "null");

beforeEach(async () => {
  await env.DB.batch([env.DB.prepare("DELETE FROM templates"), env.DB.prepare("DELETE FROM template_versions")]);
  for (const { name } of (await env.TEMPLATES.list()).keys) await env.TEMPLATES.delete(name);
});

describe("a call", () => {
  it("gets what its label means, or the version it names, and nothing else", async () => {
    const publisher = new Isolate();
    await publisher.publish("one");
    await publisher.publish("two");
    const reader = new Isolate();
    expect(await reader.call()).toBe("two");
    expect(await reader.call({ version: 1 })).toBe("one");
    expect(await reader.call({ version: 3 })).toBe("not_found");
    for (const label of ["canary", "constructor", "__proto__"]) expect(await reader.call({ label })).toBe("not_found");
    for (const name of ["b", "../a", "__proto__", "A", "x".repeat(300)]) {
      expect(await reader.call({ label: "production" }, name)).toBe("not_found");
    }
  });

  it("asks KV once in five seconds, for a version once, and D1 never but to compare", async () => {
    await new Isolate().publish("one");
    const reader = new Isolate();
    for (let i = 0; i < 10; i++) expect(await reader.call()).toBe("one");
    await reader.settled();
    expect([reader.kvReads, reader.d1Reads]).toEqual([2, 1]);
    reader.now += POINTER_MS;
    await reader.call();
    await reader.settled();
    expect([reader.kvReads, reader.d1Reads]).toEqual([3, 1]);
  });

  it("is refused for an archived template and by another workspace, as if there were none", async () => {
    const { record } = await new Isolate().publish("one");
    const changed = await changeTemplate(env.DB, record, { workspaces: ["w1"] }, NOW);
    if (!changed.ok) throw new Error("not changed");
    await new Isolate().shelf.bring(new Isolate().shelves, changed.value);
    const reader = new Isolate();
    expect(await reader.call(undefined, "a", "w1")).toBe("one");
    expect(await reader.call(undefined, "a", "w2")).toBe("not_found");
    const archived = await changeTemplate(env.DB, changed.value, { state: "archived" }, NOW);
    if (!archived.ok) throw new Error("not changed");
    await reader.shelf.bring(reader.shelves, archived.value);
    expect(await reader.call(undefined, "a", "w1")).toBe("not_found");
  });
});

describe("publishing", () => {
  it("puts the version before the pointer", async () => {
    const publisher = new Isolate();
    const seen: unknown[] = [];
    publisher.afterPut = async () => {
      seen.push((await env.TEMPLATES.list()).keys.map(({ name }) => name));
    };
    await publisher.publish("one");
    expect(seen).toEqual([["v1/a/1"], ["v1/a", "v1/a/1"]]);
  });

  it("ends with the newest pointer, however two race", async () => {
    const [slow, fast] = [new Isolate(), new Isolate()];
    let raced = false;
    slow.afterPut = async () => {
      if (raced) return;
      raced = true;
      // Before the slow one's pointer is put, another version is published, and is there.
      await fast.publish("two");
    };
    await slow.publish("one");
    expect(await pointer()).toMatchObject({ newest: 2, revision: 2, labels: { production: 2 } });
    expect(await slow.call()).toBe("two");
    expect(await new Isolate().call()).toBe("two");
  });

  it("of 50 at once gives 1 to 50, and a pointer to the last", async () => {
    const isolates = Array.from({ length: 50 }, () => new Isolate());
    const all = await Promise.all(isolates.map((isolate, i) => isolate.publish(`text ${i}`)));
    expect(all.map(({ version }) => version).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 50 }, (_, i) => i + 1),
    );
    expect(await pointer()).toEqual(await getTemplate(env.DB, "a"));
    expect(await pointer()).toMatchObject({ newest: 50, revision: 50, labels: { production: 50 } });
    const reader = new Isolate();
    for (const [i, { version }] of all.entries()) expect(await reader.call({ version })).toBe(`text ${i}`);
  });

  it("is tried again where KV refuses writes, and says so when it will not have it", async () => {
    const publisher = new Isolate();
    publisher.faults.kvWrites = 3;
    await publisher.publish("one");
    expect(publisher.waits).toHaveLength(3);
    const { record } = await publisher.publish("two", false);
    publisher.faults.kvWrites = 100;
    const brought = await publisher.shelf.bring(publisher.shelves, record);
    expect(brought).toMatchObject({ ok: false, error: { kind: "unavailable" } });
  });
});

describe("T-06 a change is in force", () => {
  it("at once where it is made, and elsewhere when the isolate's word has run out", async () => {
    const [publisher, reader] = [new Isolate(), new Isolate()];
    await publisher.publish("one");
    expect(await reader.call()).toBe("one");
    await publisher.publish("two");
    expect(await publisher.call()).toBe("two");
    expect(await reader.call()).toBe("one");
    reader.now += POINTER_MS;
    expect(await reader.call()).toBe("two");
    expect(await reader.call({ version: 1 })).toBe("one");
  });

  it("within the minute that is promised, though KV took nothing and nobody has called meanwhile", async () => {
    expect(IN_FORCE_MS).toBe(60_000);
    const [publisher, idle, busy, cold] = [new Isolate(), new Isolate(), new Isolate(), new Isolate()];
    await publisher.publish("one");
    for (const reader of [idle, busy]) {
      expect(await reader.call()).toBe("one");
      await reader.settled();
    }
    publisher.faults.kvWrites = 100;
    const { record } = await publisher.publish("two", false);
    const stored = { template: "a", version: 2, content: content("two") };
    expect(await publisher.shelf.bring(publisher.shelves, record, stored)).toMatchObject({ ok: false });
    // At once where it was made.
    expect(await publisher.call()).toBe("two");
    expect(await pointer()).toMatchObject({ revision: 1 });
    for (let passed = 0; passed < IN_FORCE_MS; passed += 1_000) {
      busy.now += 1_000;
      await busy.call();
      await busy.settled();
    }
    idle.now += IN_FORCE_MS;
    const old = JSON.stringify({ ...record, labels: { production: 1 }, newest: 1, revision: 1 });
    for (const reader of [busy, idle, cold]) {
      // None of them finds what another one has put right.
      await env.TEMPLATES.put("v1/a", old);
      expect(await reader.call()).toBe("two");
      await reader.settled();
    }
    expect(await pointer()).toMatchObject({ revision: 2, labels: { production: 2 } });
    expect(await env.TEMPLATES.get("v1/a/2", "json")).toEqual(stored);
  });

  it("though KV is read from a copy of its own that is as old as may be", async () => {
    const [publisher, reader] = [new Isolate(), new Isolate()];
    await publisher.publish("one");
    const old = await env.TEMPLATES.get("v1/a");
    expect(await reader.call()).toBe("one");
    await publisher.publish("two");
    if (old === null) throw new Error("no pointer");
    for (let passed = 0; passed < IN_FORCE_MS - POINTER_MS; passed += POINTER_MS) {
      reader.now += POINTER_MS;
      await env.TEMPLATES.put("v1/a", old);
      await reader.call();
    }
    reader.now += POINTER_MS;
    await env.TEMPLATES.put("v1/a", old);
    expect(await reader.call()).toBe("two");
  });

  it("and is not undone by a call that asked KV before it", async () => {
    const isolate = new Isolate();
    await isolate.publish("one");
    isolate.now += POINTER_MS;
    const { promise, resolve } = Promise.withResolvers<void>();
    isolate.beforeGet = () => promise;
    const asking = isolate.call();
    isolate.beforeGet = async () => {};
    const before = await pointer();
    await isolate.publish("two");
    const after = JSON.stringify(await pointer());
    await env.TEMPLATES.put("v1/a", JSON.stringify(before));
    resolve();
    expect(await asking).toBe("two");
    expect(await isolate.call()).toBe("two");
    await env.TEMPLATES.put("v1/a", after);
  });

  it("though its pointer was lost: the register is compared with, within the minute", async () => {
    const [publisher, reader] = [new Isolate(), new Isolate()];
    await publisher.publish("one");
    expect(await reader.call()).toBe("one");
    await reader.settled();
    await publisher.publish("two", false);
    reader.now += COMPARE_MS;
    await reader.call();
    await reader.settled();
    expect(await reader.call()).toBe("two");
    expect(await pointer()).toMatchObject({ revision: 2 });
    expect(COMPARE_MS + POINTER_MS).toBeLessThan(IN_FORCE_MS);
  });

  it("though nothing of it came to KV: the register repairs it", async () => {
    await new Isolate().publish("one", false);
    const reader = new Isolate();
    expect(await reader.call()).toBe("one");
    await reader.settled();
    expect(await pointer()).toMatchObject({ revision: 1 });
    expect(await env.TEMPLATES.get("v1/a/1", "json")).toEqual({ template: "a", version: 1, content: content("one") });
    const next = new Isolate();
    next.faults.d1 = true;
    expect(await next.call()).toBe("one");
  });

  it("and never taken back by an older pointer that comes late", async () => {
    const publisher = new Isolate();
    await publisher.publish("one");
    const old = JSON.stringify(await pointer());
    await publisher.publish("two");
    await env.TEMPLATES.put("v1/a", old);
    publisher.now += POINTER_MS;
    expect(await publisher.call()).toBe("two");
    const reader = new Isolate();
    await reader.call();
    await reader.settled();
    expect(await pointer()).toMatchObject({ revision: 2 });
    expect(await reader.call()).toBe("two");
  });

  it("with what lies under its key being what it must be", async () => {
    const publisher = new Isolate();
    await publisher.publish("one");
    for (const wrong of ["", "{", "null", '{"name":"b","revision":9,"labels":{}}']) {
      await env.TEMPLATES.put("v1/a", wrong);
      await env.TEMPLATES.put("v1/a/1", wrong);
      expect(await new Isolate().call()).toBe("one");
    }
  });
});

describe("U-09 with KV away", () => {
  it("the last good copy goes on for a stated time, then it is unavailable, and comes back by itself", async () => {
    await new Isolate().publish("one");
    const reader = new Isolate();
    expect(await reader.call()).toBe("one");
    reader.faults.kvReads = true;
    reader.faults.d1 = true;
    reader.now += MAX_STALE_MS - 1;
    expect(await reader.call()).toBe("one");
    // Nobody waits for KV again so soon.
    const asked = reader.kvReads;
    expect(await reader.call()).toBe("one");
    expect(reader.kvReads).toBe(asked);
    reader.now += 1;
    expect(await reader.call()).toBe("unavailable");
    reader.faults.kvReads = false;
    expect(await reader.call()).toBe("one");
  });

  it("a change is in force all the same while the register can be asked", async () => {
    const { record } = await new Isolate().publish("one");
    const reader = new Isolate();
    expect(await reader.call()).toBe("one");
    reader.faults.kvReads = true;
    expect((await changeTemplate(env.DB, record, { state: "archived" }, NOW)).ok).toBe(true);
    reader.now += IN_FORCE_MS;
    expect(await reader.call()).toBe("not_found");
  });

  it("what nobody has read here is unavailable, and no other version is sent in its place", async () => {
    const publisher = new Isolate();
    await publisher.publish("one");
    await publisher.publish("two");
    const reader = new Isolate();
    expect(await reader.call({ version: 1 })).toBe("one");
    reader.faults.kvReads = true;
    expect(await reader.call()).toBe("unavailable");
    expect(await reader.call({ version: 1 })).toBe("one");
    expect(await new Isolate().call()).toBe("two");
  });
});

describe("with D1 away", () => {
  it("reading goes on, and what is in neither is unavailable", async () => {
    await new Isolate().publish("one");
    const reader = new Isolate();
    reader.faults.d1 = true;
    expect(await reader.call()).toBe("one");
    reader.now += COMPARE_MS;
    expect(await reader.call()).toBe("one");
    await reader.settled();
    expect(await reader.call({ version: 2 })).toBe("unavailable");
    expect(await reader.call({ label: "production" }, "b")).toBe("unavailable");
    await env.TEMPLATES.delete("v1/a");
    reader.now += POINTER_MS;
    expect(await reader.call()).toBe("one");
  });

  it("nobody waits for ever for a register that does not answer", async () => {
    await new Isolate().publish("one");
    const reader = new Isolate();
    expect(await reader.call()).toBe("one");
    reader.faults.d1Silent = true;
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    try {
      for (const wish of [{ version: 2 }, { label: "production" }] as const) {
        const name = "version" in wish ? "a" : "b";
        let answer: unknown;
        const call = reader.call(wish, name).then((said) => {
          answer = said;
        });
        while (answer === undefined) {
          await env.TEMPLATES.get("anything");
          vi.advanceTimersByTime(10_000);
        }
        await call;
        expect(answer).toBe("unavailable");
      }
    } finally {
      vi.useRealTimers();
    }
  });
});
