/** `GET /health`: what the gateway stands on, asked with deadlines and remembered for a few seconds. */
import { type AppContext, json } from "./context.ts";

/** A check per isolate at most this often, so that nobody can use this route to load what is behind it. */
const REMEMBER_MS = 5_000;
const CHECK_DEADLINE_MS = 2_000;

/**
 * Reads no row, and fails where a table is missing: a database whose migrations have not run answers, and serves nobody.
 * It names every table; a test keeps it so.
 */
export const DATABASE_CHECK =
  "SELECT 1 FROM api_keys, workspaces, audit, audit_parked, audit_retention, usage_hourly, price_lists LIMIT 0";

type Checks = Readonly<Record<"d1" | "kv" | "durable_objects" | "upstream", "up" | "down">>;

let remembered: { readonly at: number; readonly checks: Checks } | undefined;

/** 200 when everything answers, else 503; `checks` names what is down. No credential needed, no host told. */
export async function health(c: AppContext): Promise<Response> {
  const { settings, startedAt } = c.var.call;
  if (!remembered || startedAt - remembered.at > REMEMBER_MS) {
    const { env } = c;
    const [d1, kv, durableObjects, upstream] = await Promise.all([
      answers(() => env.DB.prepare(DATABASE_CHECK).first()),
      answers(() => env.TEMPLATES.get("health")),
      answers(() => env.KEY_LEDGER.getByName("health").ping()),
      answers(async (signal) => {
        const response = await fetch(`${settings.upstreamUrl}/api/hello`, {
          method: "HEAD",
          redirect: "manual",
          signal,
        });
        if (response.status >= 500) throw new Error("upstream failing");
      }),
    ]);
    remembered = { at: startedAt, checks: { d1, kv, durable_objects: durableObjects, upstream } };
  }
  const { checks } = remembered;
  const down = Object.values(checks).includes("down");
  return json(c, down ? 503 : 200, { status: down ? "degraded" : "ok", version: versionOf(c.env), checks });
}

/** The release, for where the platform names no version. Changed together with package.json. */
export const VERSION = "0.2.0";

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
