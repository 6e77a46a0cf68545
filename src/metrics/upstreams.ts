/** The upstreams at the moment of a scrape, as the pool's object knows them. */
import type { AppContext } from "../context.ts";
import { poolOf } from "../upstream/protocol.ts";
import { type Standing, standingOf } from "../upstream/standing.ts";
import { DEFAULT_UPSTREAM } from "../upstream/upstream.ts";
import { within } from "../within.ts";

const DEADLINE_MS = 2_000;

/** Those that are in use, by their ids; at most as many as can be stored. */
export type UpstreamsNow = ReadonlyMap<string, Pick<Standing, "state" | "reason">>;

/** Null: the pool's object is away. */
export async function upstreamsNow(c: AppContext): Promise<UpstreamsNow | null> {
  try {
    const nothingNew = { version: 0, hints: [], homes: [], since: 0 };
    const { upstreams, hints } = await within(DEADLINE_MS, poolOf(c.env.UPSTREAM_POOL).exchange(nothingNew));
    const told = new Map(hints.map((hint) => [hint.upstream, hint]));
    const records = upstreams ?? [];
    if (records.length === 0) {
      return new Map([[DEFAULT_UPSTREAM, await standingOf(null, told.get(DEFAULT_UPSTREAM), c.var.call.settings)]]);
    }
    return new Map(
      await Promise.all(
        records.map(
          async (record) => [record.id, await standingOf(record, told.get(record.id), c.var.call.settings)] as const,
        ),
      ),
    );
  } catch (error) {
    console.error(
      JSON.stringify({
        level: "error",
        msg: "pool_failed",
        request_id: c.var.call.requestId,
        error: String(error).slice(0, 200),
      }),
    );
    return null;
  }
}
