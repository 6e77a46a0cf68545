/**
 * Where calls find templates: KV, near everywhere, and this isolate's memory before it. The register in D1 decides; KV
 * follows. Under `v1/<name>/<version>` lies a version, for ever the same; under `v1/<name>` one small pointer: labels,
 * state, who may use it.
 *
 * A change is in force everywhere within `IN_FORCE_MS`. It is put into KV at once and seen elsewhere when KV's caches and the
 * isolates' have run out (`POINTER_TTL_SECONDS`, `POINTER_MS`, and what KV itself takes). Publishing puts the version first
 * and the pointer next, and reads the register again: whoever put an older pointer over a newer one sees it and puts the
 * newest. A put may be lost after D1 has taken the change. So an isolate holds what KV says against the register once in
 * `COMPARE_MS`, in the background, and puts the register's word where KV's is older or missing; a call that comes when that
 * has not been done for nearly `IN_FORCE_MS` waits for it.
 *
 * KV away: what the isolate holds goes on for `MAX_STALE_MS`, then calls fail; never is another prompt sent. D1 away:
 * nothing changes for who reads. No promise is shared between requests: one that is cancelled must not fail others.
 */
import { Recent } from "../recent.ts";
import { err, ok, type Result } from "../result.ts";
import { asFields } from "../wire/anthropic/usage.ts";
import type { Failure } from "../wire/errors.ts";
import { parseJson } from "../wire/json.ts";
import { within } from "../within.ts";
import type { Version } from "./content.ts";
import { getTemplate, getVersion, type TemplateRecord } from "./store.ts";

/** The least that KV allows (`KVLimits.MIN_CACHE_TTL_SECONDS`). */
const POINTER_TTL_SECONDS = 30;
/** Versions never change. */
const VERSION_TTL_SECONDS = 86_400;
/** How long a change takes at most to be in force everywhere, unless neither KV nor D1 can be asked. */
export const IN_FORCE_MS = 60_000;
/** How long an isolate takes its own word for a pointer. */
export const POINTER_MS = 5_000;
/** How often an isolate holds a pointer of KV's against the register. */
export const COMPARE_MS = 30_000;
/** From when on a call waits for that. */
const MUST_COMPARE_MS = IN_FORCE_MS - POINTER_MS;
/** And how long a call waits for the register, there and where KV has nothing. */
const D1_MS = 1_000;
/** How long a pointer is used that KV can't be asked about. */
export const MAX_STALE_MS = 15 * 60_000;
const KV_MS = 2_000;
/** KV takes one write of a key in a second. */
const PUT_AGAIN_MS = 1_100;
const PUTS = 4;
/** Rounds of putting what the register says; another publisher ends its own. */
const ROUNDS = 5;
const MAX_POINTERS = 1_000;
/** Of versions, as JSON: some two hundred of usual ones. */
const MAX_HELD_CHARS = 8 * 1024 * 1024;

export type Shelves = {
  readonly kv: KVNamespace;
  readonly db: D1Database;
  readonly now: () => number;
  /** Seen to after the answer: the request's `waitUntil`. */
  readonly background: (work: Promise<unknown>) => void;
  /** Between two puts of one key; left out: real time. */
  readonly wait?: (ms: number) => Promise<void>;
};

type Held = {
  /** Null: the register has no such template. */
  readonly record: TemplateRecord | null;
  /** When the isolate was last told. */
  readonly toldAt: number;
  /** When it last asked. */
  readonly askedAt: number;
  /** When KV's word was last held against the register. */
  readonly comparedAt: number;
};

/** What one isolate holds. */
export class Shelf {
  readonly #pointers = new Recent<Held>(MAX_POINTERS);
  readonly #versions = new Recent<Version>(Number.POSITIVE_INFINITY, MAX_HELD_CHARS);

  /** A template as calls see it. `not_found`, or `unavailable` when nobody can be asked and nothing is held. */
  async pointer(shelves: Shelves, name: string): Promise<Result<TemplateRecord, Failure>> {
    const now = shelves.now();
    const held = this.#pointers.get(name);
    const isUsable = held !== undefined && now - held.toldAt < MAX_STALE_MS;
    if (isUsable && now - held.askedAt < POINTER_MS) return told(held.record);
    const mustCompare = now - (held?.comparedAt ?? Number.NEGATIVE_INFINITY) >= MUST_COMPARE_MS;
    const [text, register] = await Promise.all([
      unlessAway(KV_MS, shelves.kv.get(keyOf(name), { type: "text", cacheTtl: POINTER_TTL_SECONDS })),
      mustCompare ? unlessAway(D1_MS, getTemplate(shelves.db, name)) : undefined,
    ]);
    const found = text ? readPointer(text, name) : null;
    if (register !== undefined) return told(this.#registered(shelves, name, register, found));
    if (text === undefined) return this.#lastGood(shelves, name);
    if (found) return told(this.#found(shelves, found));
    // A template that never was, or whose pointer was lost, or is not here yet.
    const asked = await unlessAway(D1_MS, getTemplate(shelves.db, name));
    return asked === undefined ? this.#lastGood(shelves, name) : told(this.#registered(shelves, name, asked, null));
  }

  /** Nobody can be asked. The next one to ask does so a little later. */
  #lastGood(shelves: Shelves, name: string): Result<TemplateRecord, Failure> {
    const now = shelves.now();
    const held = this.#pointers.get(name);
    if (!held?.record || now - held.toldAt >= MAX_STALE_MS) return err(away());
    this.#pointers.set(name, { ...held, askedAt: now });
    return told(held.record);
  }

  /** What KV says. What the isolate knows may be newer, or has become so while KV was asked. */
  #found(shelves: Shelves, record: TemplateRecord): TemplateRecord {
    const held = this.#pointers.get(record.name);
    const newest = held?.record && held.record.revision > record.revision ? held.record : record;
    const now = shelves.now();
    const comparedAt = held?.comparedAt ?? Number.NEGATIVE_INFINITY;
    const isDue = now - comparedAt >= COMPARE_MS;
    this.#pointers.set(newest.name, {
      record: newest,
      toldAt: now,
      askedAt: now,
      comparedAt: isDue ? now : comparedAt,
    });
    if (isDue) shelves.background(this.#compare(shelves, record));
    return newest;
  }

  /** What the register says. KV is told where it has something older. */
  #registered(
    shelves: Shelves,
    name: string,
    record: TemplateRecord | null,
    found: TemplateRecord | null,
  ): TemplateRecord | null {
    const held = this.#pointers.get(name);
    const newest = held?.record && held.record.revision > (record?.revision ?? 0) ? held.record : record;
    const now = shelves.now();
    this.#pointers.set(name, { record: newest, toldAt: now, askedAt: now, comparedAt: now });
    if (record && record.revision > (found?.revision ?? 0)) shelves.background(this.#settle(shelves, record));
    return newest;
  }

  /** Puts the register's word where KV has an older one. A D1 that is away is asked again later. */
  async #compare(shelves: Shelves, { name, revision }: TemplateRecord): Promise<void> {
    const record = await getTemplate(shelves.db, name).catch(() => null);
    if (!record || record.revision <= revision) return;
    this.note(shelves, record);
    await this.#settle(shelves, record);
  }

  /** A version for good. `not_found`, or `unavailable`. */
  async version(shelves: Shelves, name: string, number: number): Promise<Result<Version, Failure>> {
    const key = keyOf(name, number);
    const held = this.#versions.use(key);
    if (held) return ok(held);
    const text = await unlessAway(KV_MS, shelves.kv.get(key, { type: "text", cacheTtl: VERSION_TTL_SECONDS }));
    if (text === undefined) return err(away());
    const version = text === null ? null : readVersion(text, name, number);
    if (text !== null && version) return ok(this.#keep(key, version, text.length));
    return this.#versionFromRegister(shelves, name, number);
  }

  async #versionFromRegister(shelves: Shelves, name: string, number: number): Promise<Result<Version, Failure>> {
    const stored = await unlessAway(D1_MS, getVersion(shelves.db, name, number));
    if (stored === undefined) return err(away());
    if (!stored) return err({ kind: "not_found", what: "There is no such version of this template." });
    const version: Version = { template: name, version: number, content: stored.content };
    const text = JSON.stringify(version);
    shelves.background(put(shelves, keyOf(name, number), text));
    return ok(this.#keep(keyOf(name, number), version, text.length));
  }

  /**
   * Brings a change of the register to KV: a new version if there is one, then the pointer. `unavailable`: it is stored,
   * and in force once KV can be written, or the register is next held against it.
   */
  async bring(shelves: Shelves, record: TemplateRecord, version?: Version): Promise<Result<void, Failure>> {
    this.note(shelves, record);
    if (version) {
      const text = JSON.stringify(version);
      if (!(await put(shelves, keyOf(version.template, version.version), text))) return err(notBrought());
      this.#keep(keyOf(version.template, version.version), version, text.length);
    }
    return (await this.#settle(shelves, record)) ? ok(undefined) : err(notBrought());
  }

  /**
   * Puts a pointer until the register has nothing newer; false: KV would not have it. Everybody who puts one does it so,
   * or an older one could come to lie over a newer for good.
   */
  async #settle(shelves: Shelves, record: TemplateRecord): Promise<boolean> {
    let latest = record;
    for (let round = 0; round < ROUNDS; round++) {
      if (!(await put(shelves, keyOf(latest.name), JSON.stringify(latest)))) return false;
      const again = await getTemplate(shelves.db, latest.name).catch(() => null);
      if (!again || again.revision <= latest.revision) return true;
      latest = again;
      this.note(shelves, latest);
    }
    // Whoever has made the change after these is putting it.
    return true;
  }

  /** What this isolate has learnt from the register, unless it knows better. */
  note(shelves: Shelves, record: TemplateRecord): void {
    const held = this.#pointers.get(record.name)?.record;
    if (held && held.revision > record.revision) return;
    const now = shelves.now();
    this.#pointers.set(record.name, { record, toldAt: now, askedAt: now, comparedAt: now });
  }

  #keep(key: string, version: Version, chars: number): Version {
    const known = this.#versions.get(key);
    if (known) return known;
    this.#versions.set(key, version, chars);
    return version;
  }
}

/** This isolate's. */
export const shelf = new Shelf();

function keyOf(name: string, version?: number): string {
  return version === undefined ? `v1/${name}` : `v1/${name}/${version}`;
}

/** Tries again where KV refuses a second write in one second; false: it would not have it. */
async function put({ kv, wait = (ms) => scheduler.wait(ms) }: Shelves, key: string, text: string): Promise<boolean> {
  for (let tried = 1; ; tried++) {
    try {
      await within(KV_MS, kv.put(key, text));
      return true;
    } catch {
      if (tried === PUTS) return false;
      await wait(PUT_AGAIN_MS);
    }
  }
}

/** What lies under a key was written by us; should it not be what it must be, the register is asked. */
function readPointer(text: string, name: string): TemplateRecord | null {
  const fields = asFields(parseJson(text));
  const isOne = fields?.name === name && typeof fields.revision === "number" && asFields(fields.labels) !== undefined;
  return isOne ? (fields as TemplateRecord) : null;
}

function readVersion(text: string, name: string, version: number): Version | null {
  const fields = asFields(parseJson(text));
  const isOne = fields?.template === name && fields.version === version && asFields(fields.content) !== undefined;
  return isOne ? (fields as Version) : null;
}

/** The answer; undefined: there is none in time, or it failed. */
function unlessAway<T>(ms: number, answer: Promise<T>): Promise<T | undefined> {
  return within(ms, answer).catch(() => undefined);
}

function told(record: TemplateRecord | null): Result<TemplateRecord, Failure> {
  return record ? ok(record) : err({ kind: "not_found", what: "There is no such template." });
}

function away(): Failure {
  return { kind: "unavailable", what: "The store of templates", retryAfterMs: 1_000 };
}

function notBrought(): Failure {
  return {
    kind: "unavailable",
    what: "The change is stored, and will be in force by itself within a minute. The store of templates",
    retryAfterMs: 1_000,
  };
}
