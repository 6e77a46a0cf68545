/**
 * An isolate's set of our own keys. It is read from D1 at most once a minute; a key that is published ten minutes before it
 * signs is known everywhere by then. Where it is not (the first key signs at once, D1 was away), a token that names an
 * unknown key is reason to read again, at most once a second, and its request waits for that.
 *
 * Requests share what was read, and never a promise: one of another request that was cancelled would never resolve. So a
 * request that waits looks at the set every few milliseconds, and reads itself as soon as a second has passed.
 */
import { err, ok, type Result } from "../../result.ts";
import { within } from "../../within.ts";
import { type Clock, systemClock } from "./clock.ts";
import { makeNextKey, type SigningRoom } from "./keep-signing-keys.ts";
import type { VerificationKey } from "./keys.ts";
import type { SigningKey } from "./own-token.ts";
import {
  loadSigningKeys,
  MAX_SIGNING_AGE_MS,
  type OwnVerificationKey,
  openSigningKey,
  type PublishedKey,
  readVerificationKey,
  type SigningKeyRecord,
} from "./signing-store.ts";

/** How long a set counts as it was read. */
const SET_MS = 60_000;
/** How long an older one verifies on while D1 does not answer: what it does not know yet is asked for anyway. */
const MAX_VERIFYING_AGE_MS = 3_600_000;
/** A token that names an unknown key is reason to ask D1 no more often than this. */
const ASKED_EVERY_MS = 1_000;
/** How long a read of D1 may take, and a request wait for what others read. */
const READ_DEADLINE_MS = 1_000;
const WAIT_DEADLINE_MS = 3_000;
const LOOK_EVERY_MS = 25;
/** Names of ours: what else a token may name is unknown without a question. */
const KID = /^sig_[0-9a-hjkmnp-tv-z]{26}$/;

/** `unavailable`: D1 does not answer. `no_master_key`: keys can't be sealed, so there are none. */
export type CannotSign = "unavailable" | "no_master_key";

type Held = {
  /** When the reading began. */
  readonly at: number;
  /** Which reading it was: one with a greater number began later. */
  readonly reading: number;
  /** The oldest first. */
  readonly records: readonly SigningKeyRecord[];
  readonly keys: ReadonlyMap<string, OwnVerificationKey>;
};

export class SigningKeys {
  readonly #clock: Clock;
  #held: Held | null = null;
  #readings = 0;
  #readingSince = Number.NEGATIVE_INFINITY;
  /** Private parts, open, by name; only of keys that are held. */
  readonly #opened = new Map<string, SigningKey>();

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  /** The key a token of ours names. `unknown`: D1 has no such key, as of after this call began. */
  async verificationKey(
    room: SigningRoom,
    kid: string | null,
  ): Promise<Result<VerificationKey, "unknown" | "unavailable">> {
    if (kid === null || !KID.test(kid)) return err("unknown");
    const [since, readingsBefore] = [this.#clock.now(), this.#readings];
    let held = await this.#current(room, MAX_VERIFYING_AGE_MS);
    while (held) {
      const key = held.keys.get(kid);
      if (key) return ok(key);
      if (held.reading > readingsBefore) return err("unknown");
      const now = this.#clock.now();
      const pause = this.#pauseAt(now);
      if (pause > 0) {
        if (now - since >= WAIT_DEADLINE_MS) return err("unavailable");
        await this.#clock.sleep(Math.min(pause, LOOK_EVERY_MS));
        held = this.#known(MAX_VERIFYING_AGE_MS);
      } else held = await this.#read(room);
    }
    return err("unavailable");
  }

  /** The key to sign with now. Where there is none yet, or none that opens, one is made on the spot. */
  async signingKey(room: SigningRoom): Promise<Result<SigningKey, CannotSign>> {
    if (room.masterKeys.length === 0) return err("no_master_key");
    let held = await this.#current(room, MAX_SIGNING_AGE_MS);
    if (!held) return err("unavailable");
    const key = await this.#signer(room, held);
    if (key) return ok(key);
    // What was held may be old: another isolate may have made one meanwhile.
    held = await this.#read(room);
    if (!held) return err("unavailable");
    const found = await this.#signer(room, held);
    if (found) return ok(found);
    const now = this.#clock.now();
    try {
      await within(WAIT_DEADLINE_MS, makeNextKey(room, held.records.at(-1), now, now));
    } catch {
      return err("unavailable");
    }
    // It is this one's, or that of whoever was faster.
    held = await this.#read(room);
    const made = held && (await this.#signer(room, held));
    return made ? ok(made) : err("unavailable");
  }

  /** What verifiers elsewhere need, the newest key first: public members alone. */
  async publicKeySet(room: SigningRoom): Promise<Result<{ readonly keys: readonly PublishedKey[] }, "unavailable">> {
    const held = await this.#current(room, MAX_VERIFYING_AGE_MS);
    if (!held) return err("unavailable");
    const good = held.records.filter(({ kid }) => held.keys.has(kid));
    return ok({ keys: good.map(({ public_jwk }) => public_jwk).reverse() });
  }

  /** The newest key whose time has come. Never an older one, which may be deleted before its last token ends. */
  async #signer({ masterKeys }: SigningRoom, held: Held): Promise<SigningKey | null> {
    const now = this.#clock.now();
    // Of a first key made a moment ago by a clock that is ahead, the time has come too.
    const record = held.records.findLast(({ signs_from }) => signs_from <= now) ?? held.records[0];
    if (!record || !held.keys.has(record.kid)) return null;
    const known = this.#opened.get(record.kid);
    if (known) return known;
    const opened = await openSigningKey(record, masterKeys);
    if (opened) this.#opened.set(record.kid, opened);
    return opened;
  }

  /**
   * The set, read anew if it is older than a minute. If that fails, or while another request does it, the last one serves up
   * to an age; without one, what the other reads is waited for.
   */
  async #current(room: SigningRoom, maxAgeMs: number): Promise<Held | null> {
    const since = this.#clock.now();
    for (;;) {
      const fresh = this.#known(SET_MS);
      if (fresh) return fresh;
      const now = this.#clock.now();
      const pause = this.#pauseAt(now);
      if (pause <= 0) return (await this.#read(room)) ?? this.#known(maxAgeMs);
      const old = this.#known(maxAgeMs);
      if (old || now - since >= WAIT_DEADLINE_MS) return old;
      await this.#clock.sleep(Math.min(pause, LOOK_EVERY_MS));
    }
  }

  /** The last set that was read, up to an age. */
  #known(maxAgeMs: number): Held | null {
    const now = this.#clock.now();
    const held = this.#held;
    return held && now >= held.at && now - held.at < maxAgeMs ? held : null;
  }

  /** How long nobody should read again. A clock that was set back is no reason to wait. */
  #pauseAt(now: number): number {
    const passed = now - this.#readingSince;
    return passed < 0 ? 0 : ASKED_EVERY_MS - passed;
  }

  async #read({ db }: SigningRoom): Promise<Held | null> {
    const at = this.#clock.now();
    const reading = ++this.#readings;
    this.#readingSince = at;
    try {
      const records = await within(READ_DEADLINE_MS, loadSigningKeys(db));
      const keys = new Map<string, OwnVerificationKey>();
      for (const record of records) {
        const key = this.#held?.keys.get(record.kid) ?? (await readVerificationKey(record));
        if (key) keys.set(record.kid, key);
      }
      for (const kid of this.#opened.keys()) if (!keys.has(kid)) this.#opened.delete(kid);
      const held: Held = { at, reading, records, keys };
      // Of two that were under way the later one counts.
      if (!this.#held || this.#held.reading < reading) this.#held = held;
      return held;
    } catch {
      return null;
    }
  }
}
