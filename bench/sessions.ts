/**
 * `npm run bench:sessions [-- --quick] [--no-pin] [--enforce]`: conversations with a thousand viewers beside plain streams,
 * in one run; what an idle one costs; and 200 kills. bench/README.md says how it measures and what it leaves out.
 *
 * Ends with 0 when it has measured, 1 when something was lost, repeated or paid twice (with `--enforce` also when a bar is
 * missed), 2 when it cannot run here.
 */
import type { ChildProcess } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { ROOT } from "../scripts/local-runtime.ts";
import { BUILD, buildGateway, CannotRun, compile, describeMachine, RESULTS } from "./ground.ts";
import { type Subject, SubjectFailed } from "./load.ts";
import { cpuOf, firstLine, type Pinning, pinning, residentMb, start, stop } from "./processes.ts";
import type { Ready, ServeOptions } from "./serve.ts";
import { type KillPlan, kills } from "./session-kills.ts";
import { type Audience, type Delays, type Pace, plainStreams, seatAudience } from "./session-load.ts";
import { type Idle, type Run, render } from "./session-report.ts";
import { BEGUN_LINE, writeWatched } from "./watched.ts";

/** An object sleeps after ten seconds without work; this is that and a little more. */
const SLEEP_MS = 14_000;
const QUIET_MS = 1_500;
/** A first turn for each conversation, in which the runtime compiles what it runs. */
const WARM_UP: Pace = { events: 40, gapMs: 50, rampMs: 2_000 };
/**
 * Where the storage of all objects lies while delays are measured, if there is such a place: the local runtime waits for
 * the disk (fsync) once for each commit, on the one thread that all objects share, which no deployed one does.
 */
const MEMORY = "/dev/shm";
/** As many as a disk can bear on one thread. */
const ON_DISK = { conversations: 50, viewers: 250 };

const children: ChildProcess[] = [];
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => void clean().then(() => process.exit(130)));
}
const folders: string[] = [];
try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof CannotRun || error instanceof SubjectFailed)) throw error;
  console.error(error.message);
  process.exitCode = error instanceof CannotRun ? 2 : 1;
} finally {
  await clean();
}
// Where it failed, clients and servers of this process are still open.
process.exit();

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      quick: { type: "boolean", default: false },
      "no-pin": { type: "boolean", default: false },
      enforce: { type: "boolean", default: false },
    },
  });
  const { quick } = values;
  if (process.platform !== "linux")
    throw new CannotRun("The benchmark reads CPU time from /proc, so it runs on Linux only.");
  compile();
  buildGateway();
  const bundle = writeWatched(join(BUILD, "sessions-gateway"));
  const pins = pinning(!values["no-pin"]);
  const machine = describeMachine(pins);
  // As long as all are under way at once for eight seconds (three): more beginnings in a second than 90 fill the core.
  const pace: Pace = quick ? { events: 40, gapMs: 200, rampMs: 4_000 } : { events: 100, gapMs: 200, rampMs: 11_000 };
  const size = quick ? { conversations: 50, viewers: 250 } : { conversations: 200, viewers: 1_000 };

  const upstream = started(start(pins?.load, join(BUILD, "upstream"), []));
  const upstreamPort = Number(await firstLine(upstream));
  const upstreamUrl = `http://127.0.0.1:${upstreamPort}`;
  const inMemory = existsSync(MEMORY);
  const folder = folderIn(inMemory ? MEMORY : tmpdir());
  const plan: KillPlan = quick
    ? { conversations: 8, viewers: 3, sockets: 40, objects: 6, processes: 2 }
    : { conversations: 40, viewers: 3, sockets: 160, objects: 30, processes: 10 };
  // First, since the loans of the runtimes that are killed last take half a minute to run out; nothing else is left to do there.
  progress(`${plan.sockets + plan.objects + plan.processes} kills`);
  const survived = await kills(plan, async (url, port) =>
    serve("sluice", url, pins, { bundle, port, stateDir: join(folder, "state") }),
  );

  const served = await serve("sluice", upstreamUrl, pins, { bundle, stateDir: join(folder, "measured") });
  const floor = await serve("bare-object", upstreamUrl, pins, { stateDir: join(folder, "floor") });
  const direct: Subject = { name: "direct", port: upstreamPort, key: "sk-ant-benchmark", pid: null };
  const [gateway, bare] = [subjectOf(served, "sluice"), subjectOf(floor, "bare-object")];
  const runs: Run[] = [];
  const run = async (title: string, streams: number, subject: Subject, work: () => Promise<Delays>): Promise<void> => {
    runs.push(await measure(title, streams, subject, work));
  };
  const { conversations, viewers } = size;
  progress(`${viewers} sockets over ${conversations} conversations come in`);
  const before = residentMb(gateway.pid ?? 0);
  const audience = await seatAudience(gateway, conversations, viewers / conversations);
  const seated = residentMb(gateway.pid ?? 0);
  const floorAudience = await seatAudience(bare, conversations, viewers / conversations);
  for (const warmed of [audience, floorAudience]) await warmed.turns(WARM_UP);
  for (let round = 0; round < (quick ? 1 : 3); round++) {
    await run("direct", viewers, direct, () => plainStreams(direct, viewers, pace));
    await run("plain streams", viewers, gateway, () => plainStreams(gateway, viewers, pace));
    await run("viewers of a bare object", viewers, bare, () => floorAudience.turns(pace));
    await run("viewers of conversations", viewers, gateway, () => audience.turns(pace));
  }
  await floorAudience.close();
  await stop(floor.child);
  served.begun.clear();

  const idle = await sleep(audience, served, conversations);
  await audience.close();
  await stop(served.child);
  progress("the books");
  const paid = await survived.paid();
  const onDisk =
    quick || !inMemory
      ? []
      : await compareOnDisk(direct, pace, () =>
          serve("sluice", upstreamUrl, pins, { bundle, stateDir: join(folderIn(tmpdir()), "disk") }),
        );

  const measured = { machine, pace, inMemory, runs, onDisk, idle, survived, paid, plan, memory: { before, seated } };
  const report = render(measured);
  mkdirSync(RESULTS, { recursive: true });
  writeFileSync(join(RESULTS, "sessions.md"), report.text);
  writeFileSync(join(RESULTS, "sessions.json"), JSON.stringify({ ...measured, size }, null, 1));
  console.log(report.text);
  return values.enforce && !report.barsMet ? 1 : 0;
}

/** One load, with what the subject's processes used for it. */
async function measure(title: string, streams: number, { pid }: Subject, work: () => Promise<Delays>): Promise<Run> {
  progress(`${title}, ${streams}`);
  const before = pid === null ? null : cpuOf(pid);
  const delays = await work();
  const mb = pid === null ? null : residentMb(pid);
  await pause(QUIET_MS);
  const after = pid === null ? null : cpuOf(pid);
  const cpu = before && after && { total: after.total - before.total, runtime: after.runtime - before.runtime };
  return { title, streams, delays, cpu, mb };
}

/** Plain streams and viewers of a gateway whose storage lies on a disk. */
async function compareOnDisk(direct: Subject, pace: Pace, start: () => Promise<Served>): Promise<Run[]> {
  progress("the same on a disk");
  const { conversations, viewers } = ON_DISK;
  const served = await start();
  const gateway = subjectOf(served, "sluice");
  const audience = await seatAudience(gateway, conversations, viewers / conversations);
  await audience.turns(WARM_UP);
  const runs = [
    await measure("direct", viewers, direct, () => plainStreams(direct, viewers, pace)),
    await measure("plain streams", viewers, gateway, () => plainStreams(gateway, viewers, pace)),
    await measure("viewers of conversations", viewers, gateway, () => audience.turns(pace)),
  ];
  await audience.close();
  await stop(served.child);
  return runs;
}

async function clean(): Promise<void> {
  await Promise.all(children.map(stop));
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
}

type Served = { readonly child: ChildProcess; readonly ready: Ready; readonly begun: Set<string> };

/** A subject, and the lines of the objects that the runtime has made for it. */
async function serve(
  subject: "sluice" | "bare-object",
  upstreamUrl: string,
  pins: Pinning,
  options: ServeOptions,
): Promise<Served> {
  const args = [join(ROOT, "bench/serve.ts"), subject, upstreamUrl, JSON.stringify(options)];
  const child = started(start(pins?.subject, process.execPath, args));
  const ready = JSON.parse(await firstLine(child)) as Ready;
  const begun = new Set<string>();
  if (child.stdout) {
    createInterface({ input: child.stdout }).on("line", (line) => {
      if (line.startsWith(BEGUN_LINE)) begun.add(line);
    });
  }
  return { child, ready, begun };
}

/**
 * Leaves everybody connected, with their heartbeats, until the objects sleep; then wakes each. Whichever the runtime has made
 * since the last turn, be it for an alarm or for the waking, had left the memory.
 */
async function sleep(audience: Audience, { child, begun }: Served, count: number): Promise<Idle> {
  await pause(QUIET_MS);
  const cpuBefore = cpuOf(child.pid ?? 0).total;
  const startedAt = performance.now();
  await audience.beat();
  await pause(SLEEP_MS / 2);
  await audience.beat();
  await pause(SLEEP_MS / 2);
  const seconds = (performance.now() - startedAt) / 1_000;
  const cpuShare = (cpuOf(child.pid ?? 0).total - cpuBefore) / seconds;
  const mb = residentMb(child.pid ?? 0);
  await audience.wake();
  await pause(QUIET_MS);
  return { conversations: count, woken: begun.size, cpuShare, mb };
}

function subjectOf({ child, ready }: Served, name: Subject["name"]): Subject {
  return { name, port: ready.port, key: ready.key, pid: child.pid ?? null };
}

function folderIn(parent: string): string {
  const folder = mkdtempSync(join(parent, "sluice-sessions-"));
  folders.push(folder);
  return folder;
}

function started(child: ChildProcess): ChildProcess {
  children.push(child);
  return child;
}

function pause(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}

function progress(text: string): void {
  process.stderr.write(`${text}\n`);
}
