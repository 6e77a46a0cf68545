/**
 * Random scripts for random calls, from a seed: what three upstreams do to one call, and what its client does. Faults are
 * as likely as none, pauses are short, and nobody asks for a pause that would keep a lane from work.
 */
import type { Manners } from "./client.ts";
import { type Action, errorJson, PLACES, type Script } from "./script.ts";

export type Composed = {
  readonly stream: boolean;
  readonly each: readonly Script[];
  readonly manners: Manners;
  readonly session: number;
};

const SESSIONS = 20;
const STATUSES = [400, 401, 403, 404, 408, 409, 413, 429, 429, 429, 500, 502, 503, 529, 529, 307];
const RETRY_AFTER = ["0", "1", "0.2", "-1", "abc", ""];

/** Numbers in [0, 1), the same ones for the same seed (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** The `index`th call of a seed, whatever came before it. */
export function compose(seed: number, index: number): Composed {
  const random = randomOf(Math.imul(seed, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca6b));
  const below = (n: number): number => Math.floor(random() * n);
  const pick = <T>(items: readonly [T, ...T[]] | readonly T[]): T => {
    const item = items[below(items.length)];
    if (item === undefined) throw new Error("nothing to pick from");
    return item;
  };
  const stream = random() < 0.65;
  const status = (): Action => {
    const headers: (readonly [string, string])[] = [];
    if (random() < 0.5) headers.push(["retry-after", pick(RETRY_AFTER)]);
    if (random() < 0.3) headers.push(["retry-after-ms", String(below(400))]);
    if (random() < 0.1) headers.push(["x-should-retry", pick(["true", "false"])]);
    return { status: pick(STATUSES), headers, body: errorJson("api_error", "scripted") };
  };
  const ending = (): Action => {
    const of = below(stream ? 12 : 7);
    if (of < 3) return { reset: true };
    if (of < 5) return { fin: true };
    // A whole answer may take as long as the total limit, and no test has that long for many.
    if (of < 7) return stream ? { hang: true } : { reset: true };
    if (of < 8) return { end: true };
    if (of < 11) return { error: pick(["overloaded_error", "api_error", "rate_limit_error"]) };
    return { text: pick(["event: content_blo", 'data: {"type":', "event: ping\r"]) };
  };
  const harmless = (): Action => {
    if (!stream || random() < 0.5) return { sleep: below(150) };
    return pick<Action>([
      { text: 'event: content_block_delta\ndata: {"broken\n\n' },
      { text: ": comment\n\n" },
      { text: 'event: unheard_of\r\ndata: {"type":"unheard_of"}\r\n\r\n' },
      { line: 1 + below(200_000) },
      { hex: "3afffe0a0a" },
    ]);
  };
  const script = (): Script => {
    const steps: { after: (typeof PLACES)[number]; do: Action }[] = [];
    if (random() < 0.4) {
      const place = pick(PLACES);
      steps.push({ after: place, do: place === "connect" ? { sleep: below(150) } : harmless() });
    }
    if (random() < 0.05) steps.push({ after: "connect", do: { informational: 103 } });
    if (random() < 0.5) return steps;
    if (random() < 0.5) return [...steps, { after: "connect", do: status() }];
    const place = pick(PLACES);
    const fault = place === "connect" ? pick<Action>([{ reset: true }, { fin: true }, status()]) : ending();
    // A torn event is a fault where something breaks behind it.
    return "text" in fault
      ? [...steps, { after: place, do: fault }, { after: place, do: { fin: true } }]
      : [...steps, { after: place, do: fault }];
  };
  const leaving = random();
  const manners: Manners = {
    ...(leaving < 0.1 ? { leave: { afterMs: below(600) } } : {}),
    ...(leaving >= 0.1 && leaving < 0.2 ? { leave: { afterBytes: below(900) } } : {}),
    ...(random() < 0.1 ? { slowMs: 5 + below(40) } : {}),
  };
  return { stream, each: [script(), script(), script()], manners, session: below(SESSIONS) };
}
