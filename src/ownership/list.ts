/**
 * Lists of batches and files. Which ones there are, and in which order, is told by the rows of the caller's workspace: the
 * upstreams' own lists hold everybody's, and each upstream only its part. Each object on a page is then read from the
 * upstream that holds it, a few at a time.
 *
 * One that its upstream does not have any more is left out and forgotten; one whose upstream the gateway does not have any
 * more is left out. If an upstream fails, so does the page: a page with holes would be taken for the whole.
 */
import type { AppContext } from "../context.ts";
import type { Caller } from "../hotpath/authenticate.ts";
import type { Prepared } from "../hotpath/relay.ts";
import type { CallRecord } from "../hotpath/settle.ts";
import { err, ok, type Result } from "../result.ts";
import { readAnswer } from "../wire/anthropic/answer.ts";
import type { Failure } from "../wire/errors.ts";
import { askHolder, upstreamsOf } from "./holder.ts";
import { type PageRequest, pageText, readPageRequest, unknownStart } from "./page.ts";
import { asked, forget, type Kind, type Owned, placeOf, rowsFrom, rowsOf, type Start } from "./store.ts";
import { here } from "./where.ts";

/** Questions at the same moment; the platform lets a call have six connections. */
const AT_ONCE = 6;
/** Objects one page may ask for in vain before it ends as it is. */
const MAX_GONE = 1_000;

type Shown = { readonly id: string; readonly text: string };
/** An object; that it is not there; an upstream's error, to be passed on. */
type Look = Shown | "gone" | "left out" | Response;

/** How an object is asked for, and shown. */
export type Listed = {
  readonly kind: Kind;
  readonly path: (id: string) => string;
  readonly show: (text: string, id: string) => string;
};

/** Prepares the answer of a list. */
export async function preparePage(
  c: AppContext,
  listed: Listed,
  caller: Caller,
  record: CallRecord,
): Promise<Result<Prepared, Failure>> {
  const request = readPageRequest(c.req.url, listed.kind);
  if (!request.ok) return request;
  return ok({ answer: () => new Lister(c, listed, caller, record).page(request.value) });
}

class Lister {
  readonly #c: AppContext;
  readonly #listed: Listed;
  readonly #workspace: string;
  readonly #record: CallRecord;
  #gone = 0;

  constructor(c: AppContext, listed: Listed, caller: Caller, record: CallRecord) {
    this.#c = c;
    this.#listed = listed;
    this.#workspace = caller.policy.workspace;
    this.#record = record;
  }

  async page({ limit, start, ids }: PageRequest): Promise<Result<Response, Failure>> {
    const { kind } = this.#listed;
    const db = this.#c.env.DB;
    if (ids !== null) {
      const rows = await asked(rowsOf(db, kind, this.#workspace, ids));
      if (!rows.ok) return rows;
      const read = await this.#read(rows.value);
      return read.ok ? ok(this.#answer(read.value, false)) : read;
    }
    let place: Start | null = null;
    if (start) {
      const seq = await asked(placeOf(db, kind, this.#workspace, start.id));
      if (!seq.ok) return seq;
      if (seq.value === null) return unknownStart(start.direction === "newer" ? "before_id" : "after_id");
      place = { direction: start.direction, seq: seq.value };
    }
    const objects: Shown[] = [];
    for (;;) {
      const room = limit - objects.length;
      const rows = await asked(rowsFrom(db, kind, this.#workspace, place, room + 1));
      if (!rows.ok) return rows;
      const hasMore = rows.value.length > room;
      const page = rows.value.slice(0, room);
      const read = await this.#read(page);
      if (!read.ok) return read;
      if (read.value instanceof Response) return ok(this.#answer(read.value, false));
      objects.push(...read.value);
      const last = page.at(-1);
      if (!hasMore || !last || objects.length === limit || this.#gone > MAX_GONE) {
        // Rows nearest first; lists newest first.
        if (start?.direction === "newer") objects.reverse();
        return ok(this.#answer(objects, hasMore));
      }
      place = { direction: start?.direction ?? "older", seq: last.seq };
    }
  }

  #answer(page: readonly Shown[] | Response, hasMore: boolean): Response {
    if (page instanceof Response) return page;
    this.#record.settle({ status: 200, outcome: "complete" });
    const text = pageText(this.#listed.kind, page, hasMore);
    return new Response(text, { headers: { "content-type": "application/json" } });
  }

  /** The objects of these rows, in their order; or the upstream's error that prevents it. */
  async #read(rows: readonly Owned[]): Promise<Result<readonly Shown[] | Response, Failure>> {
    const held = await upstreamsOf(here(this.#c, this.#record));
    if (!held.ok) return held;
    const looks: Look[] = [];
    const gone: number[] = [];
    let failure: Failure | undefined;
    let next = 0;
    const reader = async (): Promise<void> => {
      for (let i = next++; i < rows.length && !failure; i = next++) {
        const row = rows[i];
        if (!row) return;
        const look = await this.#look(row, held.value);
        if (!look.ok) failure = look.error;
        else looks[i] = look.value;
        if (look.ok && look.value === "gone") gone.push(row.seq);
      }
    };
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, rows.length) }, reader));
    if (failure) return err(failure);
    this.#gone += gone.length;
    if (gone.length > 0) await asked(forget(this.#c.env.DB, this.#listed.kind, gone, this.#c.var.call.startedAt));
    const error = looks.find((look) => look instanceof Response);
    if (error) return ok(error);
    return ok(looks.filter((look): look is Shown => typeof look === "object" && !(look instanceof Response)));
  }

  async #look({ id, upstream }: Owned, held: ReadonlySet<string>): Promise<Result<Look, Failure>> {
    const { path, show } = this.#listed;
    if (!held.has(upstream)) return ok("left out");
    const answer = await askHolder(here(this.#c, this.#record), upstream, "GET", path(id), this.#c.req.raw.signal);
    if (!answer.ok) return answer;
    const { status, text, attempts } = answer.value;
    this.#record.upstream = upstream;
    this.#record.attempts += attempts;
    if (status === 404) return ok("gone");
    if (status === 200) return ok({ id, text: show(text, id) });
    this.#record.settle({ status, outcome: "error", errorType: readAnswer(text).errorType });
    return ok(new Response(text, { status, headers: { "content-type": "application/json" } }));
  }
}
