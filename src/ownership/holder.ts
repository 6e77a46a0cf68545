/** A short question of the gateway's own to the upstream that holds a batch or a file, beside a caller's call. */
import { readCapped } from "../body.ts";
import { CallTimer } from "../call-timer.ts";
import { clock } from "../hotpath/leases.ts";
import { poolFor } from "../hotpath/upstreams.ts";
import { err, ok, type Result } from "../result.ts";
import { askPool, Stop } from "../upstream/attempts.ts";
import type { Failure } from "../wire/errors.ts";
import type { Where } from "./where.ts";

/** The whole of a batch or of a file's metadata is some hundred bytes. */
const MAX_ANSWER_BYTES = 256 * 1024;
/** How long it may take, attempts included. */
const LIMIT_MS = 30_000;

export type HolderAnswer = { readonly status: number; readonly text: string; readonly attempts: number };

/** The holder's answer, whatever its status; else why there is none. Ends when the client leaves. */
export async function askHolder(
  { env, settings, headers, record }: Where,
  upstream: string,
  method: string,
  path: string,
  signal?: AbortSignal,
): Promise<Result<HolderAnswer, Failure>> {
  const upstreams = await poolFor(env, settings, record.access);
  if (!upstreams.ok) return upstreams;
  const stop = new Stop();
  const stopped = (): void => stop.now();
  signal?.addEventListener("abort", stopped, { once: true });
  // It never ticks: the call beside which it runs keeps itself alive.
  const timer = new CallTimer(clock, LIMIT_MS, () => {});
  try {
    const asked = await askPool<string>(
      {
        path,
        method,
        headers,
        body: null,
        wanted: { affinity: upstream, model: null, bound: false, pinned: upstream },
        stream: false,
        timeouts: { ...settings.timeouts, totalMs: Math.min(settings.timeouts.totalMs, LIMIT_MS) },
        maxAttempts: settings.maxAttempts,
        timer,
        stop,
        read: async (response) => {
          const bytes = await readCapped(response, response.headers.get("content-length"), MAX_ANSWER_BYTES);
          return bytes === "too large" ? err({ kind: "upstream_cut" }) : ok(new TextDecoder().decode(bytes));
        },
      },
      upstreams.value,
    );
    asked.release();
    if (!asked.result.ok) return asked.result;
    const { response, content } = asked.result.value;
    return ok({ status: response.status, text: content, attempts: asked.attempts });
  } finally {
    timer.stop();
    signal?.removeEventListener("abort", stopped);
  }
}

/** The upstreams that the gateway has. */
export async function upstreamsOf({ env, settings, record }: Where): Promise<Result<ReadonlySet<string>, Failure>> {
  const upstreams = await poolFor(env, settings, record.access);
  return upstreams.ok ? ok(new Set(upstreams.value.pool.upstreams.map(({ id }) => id))) : upstreams;
}
