/** What `npm run bench:sessions` prints: a block that can be put into the README as it is. */
import type { Cpu } from "./processes.ts";
import type { Machine } from "./report.ts";
import type { KillPlan, Survived } from "./session-kills.ts";
import type { Delays, Pace } from "./session-load.ts";
import type { Paid } from "./session-money.ts";

/** The bar: what a conversation adds to an event's delay, beside what a plain stream adds, at the median. */
const MAX_DELAY_RATIO = 2;

export type Run = {
  readonly title: string;
  readonly streams: number;
  readonly delays: Delays;
  readonly cpu: Cpu | null;
  /** Resident, at the end of the load; null for the upstream. */
  readonly mb: number | null;
};
export type Idle = {
  readonly conversations: number;
  /** Of them, whose object had left the memory. */
  readonly woken: number;
  readonly cpuShare: number;
  readonly mb: number;
};

export type Measured = {
  readonly machine: Machine;
  readonly pace: Pace;
  readonly inMemory: boolean;
  readonly runs: readonly Run[];
  /** Empty: not measured. */
  readonly onDisk: readonly Run[];
  readonly idle: Idle;
  readonly survived: Survived;
  readonly paid: Paid;
  readonly plan: KillPlan;
  /** Resident MB before and after the sockets were seated. */
  readonly memory: { readonly before: number; readonly seated: number };
};

export function render(measured: Measured): { text: string; barsMet: boolean } {
  const { machine, pace, inMemory, runs, onDisk, idle, survived, paid, plan, memory } = measured;
  const main = table(runs);
  const disk = table(onDisk);
  const isAsleep = idle.woken >= idle.conversations;
  const { kills: killed, turns } = survived;
  const allKilled =
    killed.sockets >= plan.sockets && killed.objects >= plan.objects && killed.processes >= plan.processes;
  const barsMet = main.ratio <= MAX_DELAY_RATIO && isAsleep && allKilled;
  const where = inMemory
    ? "Storage of everything, the plain streams' ledgers included: in memory (`/dev/shm`)."
    : "Storage of everything, the plain streams' ledgers included: on the disk, for there is no `/dev/shm` here.";
  const pinned = machine.pinned ? "one core for the gateway, another for upstream and clients" : "cores not pinned";
  const text = `**${machine.date}, commit ${machine.commit}**; ${machine.cores} × ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}, workerd ${machine.workerd}; ${pinned}. ${pace.events} events a stream or turn, one each ${pace.gapMs} ms; they begin within ${pace.rampMs / 1_000} s, and delays are of what is sent while all are under way. ${where}

${main.text}

- Delay added at the median, viewers beside as many plain streams: **${times(main.ratio)}** (bar: ${MAX_DELAY_RATIO} ×). An object that writes each event down, tells its sockets and does nothing else (\`bench/bare-object\`) adds ${times(main.floor)}.
- Errors: none. A missing, repeated or foreign event, a status but 200 and a closed socket each end the run without a report.
- Memory: ${memory.before.toFixed(0)} MB before, +${(memory.seated - memory.before).toFixed(0)} MB with all sockets seated.
- Sleep: ${idle.woken} of ${idle.conversations} objects had left the memory, all sockets connected and with heartbeats; ${(idle.cpuShare * 100).toFixed(1)} % of a core and ${idle.mb.toFixed(0)} MB meanwhile.
- Killed: ${killed.sockets} sockets, ${killed.objects} objects, ${killed.processes} runtimes. ${survived.frames} frames, over connections that were tried ${survived.connections} times: 0 gaps, 0 repeats, each event as the upstream had sent it. ${turns.completed} turns completed, ${turns.interrupted} interrupted.
- Paid, of ${paid.calls} upstream calls (${paid.whole} of them whole): ${paid.settled} settled, ${paid.unreported} booked as \`unreported\` (${paid.unreportedMicroUsd} of ${paid.spentMicroUsd} µUSD spent), ${paid.neither} neither, ${paid.twice} twice. Booked beside them: ${paid.unsent} reservations of calls that were killed before they came to the upstream.
${
  onDisk.length === 0
    ? ""
    : `
Fewer of them, with the storage on a disk, where the local runtime waits (fsync) for each commit on the one thread that all objects share: ${times(disk.ratio)}.

${disk.text}
`
}`;
  return { text, barsMet };
}

/** Medians of the rounds, and how much more a viewer's event is delayed than one of as many plain streams. */
function table(runs: readonly Run[]): { readonly text: string; readonly ratio: number; readonly floor: number } {
  const nameOf = ({ title, streams }: Run): string => `${title}, ${streams}`;
  const names = [...new Set(runs.map(nameOf))];
  const figure = (name: string, pick: (run: Run) => number | null): number =>
    median(runs.filter((run) => nameOf(run) === name).map((run) => pick(run) ?? Number.NaN));
  const [direct = "", plain = ""] = names;
  const [viewers = "", floor = ""] = names.toReversed();
  const p50 = ({ delays }: Run): number => delays.p50 / 1_000;
  const p99 = ({ delays }: Run): number => delays.p99 / 1_000;
  const added = (name: string, pick: (run: Run) => number): number => figure(name, pick) - figure(direct, pick);
  const share = (name: string): number => added(name, p50) / added(plain, p50);
  const rows = names.map((name) => {
    const delays = [figure(name, p50).toFixed(2), figure(name, p99).toFixed(1)];
    if (name === direct) return [name, ...delays, "", "", "", ""];
    const cpu = figure(name, ({ cpu, delays: { events } }) => cpu && (cpu.total / events) * 1e6);
    const mb = figure(name, (run) => run.mb);
    return [
      name,
      ...delays,
      `+${added(name, p50).toFixed(2)}`,
      `+${added(name, p99).toFixed(1)}`,
      cpu.toFixed(0),
      mb.toFixed(0),
    ];
  });
  const head = ["clients", "delay p50, ms", "p99", "added p50, ms", "p99", "CPU per event received, µs", "RSS, MB"];
  const lines = [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`);
  return { text: lines.join("\n"), ratio: share(viewers), floor: share(floor) };
}

const times = (ratio: number): string => `${ratio.toFixed(2)} ×`;

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return ((sorted[Math.floor(middle)] ?? Number.NaN) + (sorted[Math.ceil(middle)] ?? Number.NaN)) / 2;
}
