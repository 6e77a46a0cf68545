/**
 * The isolate's copy of upstream's `GET /v1/models`, all pages. Nobody asks for it but who needs it: the list of models,
 * and a `claude-…` that this release does not know. An old copy serves while a new one is fetched, however long upstream
 * stays away; where there never was one, the table of this release does.
 *
 * One fetch runs at a time, and a failed one is not repeated for a minute. Calls never wait for each other's promises:
 * work begun by a call that is cancelled would never finish for the others. They look out for what it brings.
 */
import { readCapped } from "../body.ts";
import { CallTimer } from "../call-timer.ts";
import type { AppContext } from "../context.ts";
import type { Settings } from "../env.ts";
import type { Caller } from "../hotpath/authenticate.ts";
import { clock } from "../hotpath/leases.ts";
import { poolFor } from "../hotpath/upstreams.ts";
import type { Access, Clock } from "../ledger/lease-book.ts";
import { err, ok, type Result } from "../result.ts";
import { askPool, Stop } from "../upstream/attempts.ts";
import { asFields, asText } from "../wire/anthropic/usage.ts";
import type { Failure } from "../wire/errors.ts";
import { parseJson } from "../wire/json.ts";
import { within } from "../within.ts";
import type { ModelInfo, ModelsAtHand } from "./model-names.ts";
import { type ResolvedModel, resolveModel } from "./resolve-model.ts";

/** When a copy is so old, it is fetched anew. */
export const FRESH_MS = 5 * 60_000;
/** So long after a failure upstream is left alone. */
export const RETRY_MS = 60_000;
/** How long a call waits for a copy. Claude Code gives its list of models three seconds (wire notes §6.1). */
export const WAIT_MS = 2_000;
/** How long a fetch may take, all its pages and attempts included. One that takes longer has died with its call. */
export const FETCH_MS = 15_000;
const LOOK_MS = 10;

/** Upstream's largest page, and more of them than there will be. */
const PAGE = 1_000;
const MAX_PAGES = 10;
/** An entry is some two kilobytes. */
const MAX_PAGE_BYTES = 8 * 1024 * 1024;
const MAX_ID_CHARS = 200;

/** Fetches upstream's list; null: it can't be had. */
export type FetchModels = () => Promise<ModelsAtHand>;

export class Catalogue {
  #models: ModelsAtHand = null;
  #freshAt = Number.NEGATIVE_INFINITY;
  #failedAt = Number.NEGATIVE_INFINITY;
  /** When the fetch that is running began. */
  #begunAt = Number.NEGATIVE_INFINITY;
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The copy at hand, whatever its age; asks nobody. */
  get models(): ModelsAtHand {
    return this.#models;
  }

  /** The copy, fetched if there is none, and in the background if it is old. Never rejects. */
  async get(fetchModels: FetchModels, background: Access["background"]): Promise<ModelsAtHand> {
    if (this.#isWithin(this.#freshAt, FRESH_MS) || this.#isWithin(this.#failedAt, RETRY_MS)) return this.#models;
    const isRunning = this.#isWithin(this.#begunAt, FETCH_MS);
    if (!isRunning) {
      const fetched = this.#fetch(fetchModels);
      background(fetched);
      if (this.#models === null) await within(WAIT_MS, fetched).catch(() => {});
    } else if (this.#models === null) await this.#lookOut();
    return this.#models;
  }

  /** Waits for what another call's fetch brings. */
  async #lookOut(): Promise<void> {
    const begunAt = this.#begunAt;
    while (this.#begunAt === begunAt && this.#isWithin(begunAt, WAIT_MS)) {
      await this.#clock.wait(LOOK_MS);
    }
  }

  async #fetch(fetchModels: FetchModels): Promise<void> {
    const begunAt = this.#clock.now();
    this.#begunAt = begunAt;
    const models = await fetchModels().catch((error: unknown) => {
      console.error(JSON.stringify({ level: "error", msg: "models_not_loaded", error: String(error).slice(0, 200) }));
      return null;
    });
    // A later one has begun, after this one took too long.
    if (this.#begunAt !== begunAt) return;
    const now = this.#clock.now();
    this.#begunAt = Number.NEGATIVE_INFINITY;
    // A list without a model says nothing.
    if (models && models.length > 0) {
      this.#models = models;
      this.#freshAt = now;
    } else this.#failedAt = now;
  }

  /** Whether `at` is less than so long ago; a clock that has stepped makes it long. */
  #isWithin(at: number, ms: number): boolean {
    return Math.abs(this.#clock.now() - at) < ms;
  }
}

/** The isolate's. */
export const catalogue = new Catalogue(clock);

/** The list of models, fetched if need be. */
export function modelsFor(c: AppContext, { access }: Caller): Promise<ModelsAtHand> {
  return catalogue.get(() => fetchModels(c.env, c.var.call.settings, access), access.background);
}

/** The model that a name stands for. Upstream's list is asked for where nothing here knows a model that the key may use. */
export async function findModel(c: AppContext, caller: Caller, asked: string): Promise<Result<ResolvedModel, Failure>> {
  const { settings } = c.var.call;
  const found = resolveModel(asked, caller.policy, settings, catalogue.models);
  if (!found.ok || found.value.isKnown) return found;
  return resolveModel(asked, caller.policy, settings, await modelsFor(c, caller));
}

/** Upstream's whole list, asked of one of its accounts; null: it can't be had. */
async function fetchModels(env: Env, settings: Settings, access: Access): Promise<ModelsAtHand> {
  const upstreams = await poolFor(env, settings, access);
  if (!upstreams.ok) return null;
  // It never ticks: nothing is reserved for it.
  const timer = new CallTimer(clock, FETCH_MS, () => {});
  const until = clock.now() + FETCH_MS;
  const read = async (response: Response) => {
    const bytes = await readCapped(response, response.headers.get("content-length"), MAX_PAGE_BYTES);
    if (bytes === "too large") return err({ kind: "upstream_cut" } as const);
    return ok(new TextDecoder().decode(bytes));
  };
  try {
    const models: ModelInfo[] = [];
    let path: string | null = `/v1/models?limit=${PAGE}`;
    for (let page = 0; path !== null && page < MAX_PAGES; page++) {
      const asked = await askPool<string>(
        {
          path,
          method: "GET",
          headers: { "anthropic-version": "2023-06-01" },
          body: null,
          wanted: { affinity: "models", model: null, bound: false, pinned: null },
          stream: false,
          timeouts: { ...settings.timeouts, totalMs: Math.min(settings.timeouts.totalMs, until - clock.now()) },
          maxAttempts: settings.maxAttempts,
          timer,
          stop: new Stop(),
          read,
        },
        upstreams.value,
      );
      asked.release();
      const { result } = asked;
      if (!result.ok || result.value.response.status !== 200 || clock.now() >= until) return null;
      const { data, next } = readPage(result.value.content);
      models.push(...data);
      path = next;
    }
    return models;
  } finally {
    timer.stop();
  }
}

/** The models of one page, and where the next one is. */
export function readPage(text: string): { readonly data: readonly ModelInfo[]; readonly next: string | null } {
  const page = asFields(parseJson(text));
  const data = (Array.isArray(page?.data) ? page.data : []).flatMap((entry: unknown): ModelInfo[] => {
    const fields = asFields(entry);
    const id = asText(fields?.id);
    return id !== null && id !== "" && id.length <= MAX_ID_CHARS ? [{ ...fields, id }] : [];
  });
  const last = asText(page?.last_id);
  const isLast = page?.has_more !== true || last === null || data.length === 0;
  return { data, next: isLast ? null : `/v1/models?limit=${PAGE}&after_id=${encodeURIComponent(last)}` };
}
