/**
 * What D1's list is still to be told of this conversation. The object writes it by itself, from its alarm, until D1 has
 * taken it; nobody waits for that. One write is under way at a time, so an old one never comes behind a newer one of this
 * object's life.
 *
 * Accepted: a write that was given up as late may still arrive behind a deletion. Lists leave such a row out once it has
 * expired.
 */
import type { Entry, Registry } from "./registry.ts";

const KEY = "listing";
/** A write that failed is tried again after so long, ms, doubled each time, up to the second figure. */
export const RETRY_MS = 1_000;
export const MAX_RETRY_MS = 300_000;

/** `removed`: the id of what was deleted; it is to leave the list. `version` counts what there was to tell. */
type Due = {
  readonly at: number | null;
  readonly failures: number;
  readonly version: number;
  readonly removed: string | null;
};
const NOTHING: Due = { at: null, failures: 0, version: 0, removed: null };

export type ListingParts = {
  readonly kv: DurableObjectStorage["kv"];
  readonly registry: Registry;
  /** As it is at present; null: there is no conversation. */
  readonly entry: () => Entry | null;
  readonly now: () => number;
  readonly random: () => number;
};

export class Listing {
  readonly #parts: ListingParts;
  #writing: Promise<unknown> = Promise.resolve();

  constructor(parts: ListingParts) {
    this.#parts = parts;
  }

  /** When D1 is to be told; null: it knows all. Nothing waits longer than a retry: a clock that was ahead has come back. */
  get dueAt(): number | null {
    const { at } = this.#due;
    const now = this.#parts.now();
    return at !== null && at - now > MAX_RETRY_MS ? now : at;
  }

  /** Nothing is left but a deletion that D1 has to hear of. */
  get buried(): boolean {
    return this.#due.removed !== null;
  }

  /** Something has changed that the list shows. While D1 is away it is not asked more often for that. */
  note(): void {
    const due = this.#due;
    if (due.removed !== null) return;
    this.#save({ ...due, at: due.failures > 0 ? due.at : this.#parts.now(), version: due.version + 1 });
  }

  /** The conversation is no more; this is all that is left of it. */
  bury(id: string): void {
    const { version } = this.#due;
    this.#save({ at: this.#parts.now(), failures: 0, version: version + 1, removed: id });
  }

  /** Tells D1 what it is to be told. Resolves when it has tried; true: a deletion has arrived. */
  write(): Promise<boolean> {
    const written = this.#writing.then(() => this.#write());
    this.#writing = written.catch(() => {});
    return written;
  }

  async #write(): Promise<boolean> {
    const { registry, entry, now, random } = this.#parts;
    const { at, removed, version } = this.#due;
    if (at === null) return false;
    let done = true;
    try {
      const present = entry();
      if (removed !== null) await registry.remove(removed);
      else if (present) await registry.put(present);
    } catch (error) {
      console.error(JSON.stringify({ level: "error", msg: "conversation_not_listed", error: String(error) }));
      done = false;
    }
    const due = this.#due;
    if (!done) {
      const failures = due.version === version ? due.failures + 1 : 1;
      this.#save({ ...due, failures, at: now() + retryDelay(failures, random()) });
    } else if (removed !== null) return true;
    else if (due.version === version) this.#save({ ...due, failures: 0, at: null });
    else this.#save({ ...due, failures: 0 });
    return false;
  }

  get #due(): Due {
    return this.#parts.kv.get<Due>(KEY) ?? NOTHING;
  }

  #save(due: Due): void {
    this.#parts.kv.put(KEY, due);
  }
}

/** How long to wait after so many failures in a row, at least 1. `random`: 0 to 1. */
export function retryDelay(failures: number, random: number): number {
  const longest = Math.min(MAX_RETRY_MS, RETRY_MS * 2 ** Math.min(failures - 1, 30));
  return Math.ceil(longest * (0.5 + random / 2));
}
