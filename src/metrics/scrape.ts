/** `GET /metrics`: what all ledgers have counted, for the admin and for keys with the scope `admin` or `metrics`. */
import { type AppContext, fail } from "../context.ts";
import { versionOf } from "../health.ts";
import { clock } from "../hotpath/leases.ts";
import { adminOr, unavailable } from "../identity/admin-auth.ts";
import { within } from "../within.ts";
import { CONTENT_TYPE, exposition, merge } from "./exposition.ts";
import { hubAt, type Reading, SHARDS } from "./hub.ts";
import { upstreamsNow } from "./upstreams.ts";

/** For a try to read one shard. Two of them end before Prometheus gives up on a scrape (10 s by default). */
const DEADLINE_MS = 4_000;
const ATTEMPTS = 2;

/**
 * 200 with everything, or 503. Never a part of it: a counter that falls because a shard is missing looks like one that
 * began anew, and its return like that many calls in one moment. A scrape that fails is a gap, and `up` says so. What is
 * told of single upstreams may be missing: it has a gauge of its own that says so.
 */
export const readMetrics = adminOr("metrics", async (c) => {
  const [readings, upstreams] = await Promise.all([
    Promise.all(Array.from({ length: SHARDS }, (_, shard) => read(c, shard))),
    upstreamsNow(c),
  ]);
  const known = readings.filter((reading) => reading !== null);
  const missing = SHARDS - known.length;
  if (missing > 0) return fail(c, unavailable(`A part of the metrics (${missing} of ${SHARDS} shards)`));
  return new Response(exposition(merge(known), versionOf(c.env), clock.now(), upstreams), {
    headers: {
      "content-type": CONTENT_TYPE,
      "cache-control": "no-store",
      "x-sluice-request-id": c.var.call.requestId,
    },
  });
});

async function read(c: AppContext, shard: number): Promise<Reading | null> {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    try {
      return await within(DEADLINE_MS, hubAt(c.env.METRICS, shard).read());
    } catch (error) {
      console.error(
        JSON.stringify({
          level: "error",
          msg: "metrics_shard_missing",
          request_id: c.var.call.requestId,
          shard,
          attempt,
          error: String(error),
        }),
      );
    }
  }
  return null;
}
