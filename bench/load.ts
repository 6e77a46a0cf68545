/** One run of the load generator against one subject, with what the subject's processes used for it. */
import { type Cpu, coreBusySeconds, cpuOf, output, type Pinning, residentMb, start } from "./processes.ts";

/** A subject is quiet when it uses less than this share of a core for this long: longer than audit records wait. */
const QUIET_SHARE = 0.03;
const QUIET_MS = 1_300;
const QUIET_DEADLINE_MS = 30_000;
const MEMORY_EVERY_MS = 250;
/** No answer takes this long; a call that does is an error. */
const TIMEOUT_MS = 30_000;

export type Subject = {
  readonly name: "direct" | "pass-through" | "bare-object" | "sluice";
  readonly port: number;
  readonly key: string;
  /** Root of the subject's process tree; null for the upstream itself, whose CPU is not asked for. */
  readonly pid: number | null;
};

export type LoadPlan = {
  readonly bodyFile: string;
  /** Left out: the path of the Messages API. */
  readonly path?: string | undefined;
  readonly connections: number;
  /** Null: until every connection has made one call. */
  readonly seconds: number | null;
  readonly rampMs: number;
};

/** Times in µs. */
export type Spread = { readonly p50: number; readonly p99: number };

/** What the load generator prints, as far as it is read here. */
type Printed = {
  readonly done: number;
  readonly rps: number;
  readonly seconds: number;
  readonly events: number;
  readonly in_flight_max: number;
  readonly unfinished: number;
  readonly errors: Readonly<Record<string, number>>;
  readonly latency_us: Spread;
  readonly ttfe_us: Spread;
  readonly event_delay_us: Spread;
};

export type Figures = Printed & {
  /** CPU seconds of the subject for this load, what it put off until afterwards included. */
  readonly cpu: Cpu;
  readonly memoryBeforeMb: number;
  readonly memoryPeakMb: number;
  /** Share of the subject's core that other processes took meanwhile; null when nothing is pinned. */
  readonly disturbance: number | null;
};

/** A subject did not do what was asked of it; its figures would mean nothing. */
export class SubjectFailed extends Error {}

/** Runs one load. Rejects with SubjectFailed when a single call of it went wrong. */
export async function load(generator: string, subject: Subject, plan: LoadPlan, pins: Pinning): Promise<Figures> {
  const { pid } = subject;
  const before = usage(pid);
  const busyBefore = pins ? coreBusySeconds(pins.subject) : 0;
  const startedAt = performance.now();
  const memoryBeforeMb = pid === null ? 0 : residentMb(pid);
  let memoryPeakMb = memoryBeforeMb;
  const watch = setInterval(() => {
    if (pid !== null) memoryPeakMb = Math.max(memoryPeakMb, residentMb(pid));
  }, MEMORY_EVERY_MS);
  const headers = ["anthropic-version: 2023-06-01", `x-api-key: ${subject.key}`];
  const limit = plan.seconds === null ? ["-n", String(plan.connections), "-d", "60"] : ["-d", String(plan.seconds)];
  let printed: Printed;
  try {
    const args = ["-p", String(subject.port), "-b", plan.bodyFile, "-c", String(plan.connections), ...limit];
    if (plan.path !== undefined) args.push("-u", plan.path);
    args.push("-r", String(plan.rampMs), "-o", String(TIMEOUT_MS), ...headers.flatMap((header) => ["-H", header]));
    printed = JSON.parse(await output(start(pins?.load, generator, args))) as Printed;
  } finally {
    clearInterval(watch);
  }
  const failed = Object.values(printed.errors).reduce((sum, count) => sum + count, printed.unfinished);
  if (failed > 0 || printed.done === 0) {
    const counts = JSON.stringify({ ...printed.errors, unfinished: printed.unfinished });
    throw new SubjectFailed(`${subject.name} failed ${failed} of ${printed.done + failed} calls: ${counts}`);
  }
  if (pid !== null) await quiet(pid);
  const after = usage(pid);
  const cpu = { total: after.total - before.total, runtime: after.runtime - before.runtime };
  const elapsed = (performance.now() - startedAt) / 1_000;
  const disturbance = pins ? Math.max(0, coreBusySeconds(pins.subject) - busyBefore - cpu.total) / elapsed : null;
  return { ...printed, cpu, memoryBeforeMb, memoryPeakMb, disturbance };
}

const usage = (pid: number | null): Cpu => (pid === null ? { total: 0, runtime: 0 } : cpuOf(pid));

/** Waits until a subject has nothing left to do, so that work it put off is on its account and on no other's. */
async function quiet(pid: number): Promise<void> {
  const deadline = performance.now() + QUIET_DEADLINE_MS;
  for (let last = cpuOf(pid).total; performance.now() < deadline; ) {
    await new Promise((resolve) => setTimeout(resolve, QUIET_MS));
    const now = cpuOf(pid).total;
    if (now - last < (QUIET_SHARE * QUIET_MS) / 1_000) return;
    last = now;
  }
}
