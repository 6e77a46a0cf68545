/** `GET /health`: what the gateway stands on, asked with deadlines and remembered for a few seconds. */
import { type AppContext, json } from "./context.ts";
import { accessFor } from "./hotpath/leases.ts";
import { poolFor, poolView } from "./hotpath/upstreams.ts";

/** A check per isolate at most this often, so that nobody can use this route to load what is behind it. */
const REMEMBER_MS = 5_000;
const CHECK_DEADLINE_MS = 2_000;

/**
 * Reads no row, and fails where a table is missing: a database whose migrations have not run answers, and serves nobody.
 * It names every table; a test keeps it so.
 */
export const DATABASE_CHECK =
  "SELECT 1 FROM api_keys, workspaces, audit, audit_parked, audit_retention, usage_hourly, price_lists, upstreams, batches, files, conversations, admin_sessions, changes, signing_keys, issuers, templates, template_versions LIMIT 0";

type Checks = Readonly<Record<"d1" | "kv" | "durable_objects" | "upstream", "up" | "down">>;

let remembered: { readonly at: number; readonly checks: Checks } | undefined;

/**
 * 200 when everything answers, else 503; `checks` names what is down (`upstream` is up while any of them is), `upstreams`
 * how this isolate gets on with each, and why. No credential needed, no host told.
 */
export async function health(c: AppContext): Promise<Response> {
  const { settings, startedAt } = c.var.call;
  const { env } = c;
  const found = await poolFor(env, settings, accessFor(env, c.executionCtx, settings.ledgerDeadlineMs));
  if (!remembered || startedAt - remembered.at > REMEMBER_MS) {
    const upstreams = found.ok ? found.value.pool.upstreams : [];
    const [d1, kv, durableObjects, upstream] = await Promise.all([
      answers(() => env.DB.prepare(DATABASE_CHECK).first()),
      answers(() => env.TEMPLATES.get("health")),
      answers(() => env.KEY_LEDGER.getByName("health").ping()),
      answers((signal) => Promise.any(upstreams.map(({ base_url }) => greet(base_url, signal)))),
    ]);
    remembered = { at: startedAt, checks: { d1, kv, durable_objects: durableObjects, upstream } };
  }
  const { checks } = remembered;
  const down = Object.values(checks).includes("down");
  const status = down ? "degraded" : "ok";
  return json(c, down ? 503 : 200, { status, version: versionOf(env), checks, upstreams: upstreamsNow(startedAt) });
}

async function greet(baseUrl: string, signal: AbortSignal): Promise<void> {
  const response = await fetch(`${baseUrl}/api/hello`, { method: "HEAD", redirect: "manual", signal });
  if (response.status >= 500) throw new Error("upstream failing");
}

/**
 * `breaker`: closed, open or half_open; `held`: why it is not asked at the moment, for some models at least; `reason`: what
 * was wrong with it when it was asked last, or why it can't be used at all.
 */
function upstreamsNow(now: number): readonly object[] {
  const { pool, unusable } = poolView();
  const used = pool.upstreams.map(({ id, state }) => {
    const known = pool.health(id);
    return { id, state, breaker: known.breaker(now), held: known.held(now), reason: known.reason };
  });
  return [...used, ...unusable.map(({ id, reason }) => ({ id, state: "unusable", reason }))];
}

/** The release, for where the platform names no version. Changed together with package.json. */
export const VERSION = "0.6.0";

/** What runs here, by the platform's name for it or the release's. */
export function versionOf(env: Env): string {
  const { id, tag } = env.VERSION;
  return tag || id || VERSION;
}

async function answers(check: (signal: AbortSignal) => Promise<unknown>): Promise<"up" | "down"> {
  const signal = AbortSignal.timeout(CHECK_DEADLINE_MS);
  const late = new Promise<never>((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  try {
    await Promise.race([check(signal), late]);
    return "up";
  } catch {
    return "down";
  }
}
