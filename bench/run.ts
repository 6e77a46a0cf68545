/**
 * `npm run bench [-- --quick] [--rounds N] [--streams N] [--no-pin] [--enforce]`: the gateway with everything on beside
 * a ten-line pass-through Worker, in one run and in turn. bench/README.md says how it measures and what it leaves out.
 *
 * Ends with 0 when it has measured, 1 when a subject failed (with `--enforce` also when a bar is missed), 2 when it
 * cannot run here.
 */
import type { ChildProcess } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ROOT } from "../scripts/local-runtime.ts";
import { check, checkAudit, readCounted, Sent } from "./checks.ts";
import { BUILD, buildGateway, CannotRun, compile, describeMachine, RESULTS } from "./ground.ts";
import { type Figures, load, type Subject, SubjectFailed } from "./load.ts";
import { firstLine, type Pinning, pinning, start, stop } from "./processes.ts";
import { type Run, render } from "./report.ts";
import { BODIES, type BodyName, type Scenario, scenarios } from "./scenarios.ts";
import type { Ready } from "./serve.ts";

const HERE = join(ROOT, "bench");

type Options = {
  readonly quick: boolean;
  readonly rounds: number;
  readonly streams: number;
  readonly pin: boolean;
  readonly enforce: boolean;
};

const children: ChildProcess[] = [];
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, () => void Promise.all(children.map(stop)).then(() => process.exit(130)));
}
try {
  process.exitCode = await main(readOptions());
} catch (error) {
  if (!(error instanceof CannotRun || error instanceof SubjectFailed)) throw error;
  console.error(error.message);
  process.exitCode = error instanceof CannotRun ? 2 : 1;
} finally {
  await Promise.all(children.map(stop));
}

function readOptions(): Options {
  const { values } = parseArgs({
    options: {
      quick: { type: "boolean", default: false },
      rounds: { type: "string" },
      streams: { type: "string" },
      "no-pin": { type: "boolean", default: false },
      enforce: { type: "boolean", default: false },
    },
  });
  const count = (name: string, text: string): number => {
    if (!/^[1-9]\d{0,4}$/.test(text)) throw new CannotRun(`--${name} is "${text}", which is not a number above 0.`);
    return Number(text);
  };
  const { quick, enforce } = values;
  return {
    quick,
    enforce,
    rounds: count("rounds", values.rounds ?? (quick ? "1" : "3")),
    streams: count("streams", values.streams ?? (quick ? "500" : "2000")),
    pin: !values["no-pin"],
  };
}

async function main(options: Options): Promise<number> {
  if (process.platform !== "linux") {
    throw new CannotRun("The benchmark reads CPU time from /proc and waits with epoll, so it runs on Linux only.");
  }
  compile();
  buildGateway();
  for (const [name, text] of Object.entries(BODIES)) writeFileSync(bodyFile(name as BodyName), text);
  const pins = pinning(options.pin);
  // What is measured is what stands here now, whatever is changed while it is measured.
  const machine = describeMachine(pins);
  const upstream = started(start(pins?.load, join(BUILD, "upstream"), []));
  const upstreamPort = Number(await firstLine(upstream));
  const upstreamUrl = `http://127.0.0.1:${upstreamPort}`;
  const passThrough = await serve("pass-through", upstreamUrl, pins);
  const gateway = await serve("sluice", upstreamUrl, pins);
  const direct: Subject = { name: "direct", port: upstreamPort, key: "sk-ant-benchmark", pid: null };
  const subjects = [direct, passThrough.subject, gateway.subject];
  const sent = new Sent();
  for (const subject of subjects) sent.add(subject, await check(subject));
  const runs = await measure(subjects, options, pins, sent);
  const ledgerCalls = await countLedgerCalls(gateway, options, pins, sent);
  await checkAudit(gateway.ready, sent);

  mkdirSync(RESULTS, { recursive: true });
  const { text, barsMet } = render({
    machine,
    options,
    runs,
    calls: sent.calls,
    features: gateway.ready.features,
    ledgerCalls,
  });
  writeFileSync(join(RESULTS, "latest.md"), text);
  writeFileSync(join(RESULTS, "latest.json"), JSON.stringify({ machine, options, ledgerCalls, runs }, null, 1));
  console.log(text);
  return options.enforce && !barsMet ? 1 : 0;
}

/** Calls to ledgers per 1,000 requests while one key is used as hard as it goes; null where they are not counted. */
async function countLedgerCalls(
  { subject, ready }: { subject: Subject; ready: Ready },
  { quick }: Options,
  pins: Pinning,
  sent: Sent,
): Promise<number | null> {
  progress("ledger calls, 64 clients");
  const before = await readCounted(ready, sent);
  const plan = { bodyFile: bodyFile("small"), connections: 64, seconds: quick ? 3 : 10, rampMs: 0 };
  sent.add(subject, { small: (await load(join(BUILD, "loadgen"), subject, plan, pins)).done });
  const after = await readCounted(ready, sent);
  return before && after && ((after.calls - before.calls) / (after.requests - before.requests)) * 1_000;
}

/** Every subject in turn, round after round, in reverse order in every second round. */
async function measure(
  subjects: readonly Subject[],
  options: Options,
  pins: Pinning,
  sent: Sent,
): Promise<readonly Run[]> {
  const { quick, rounds, streams } = options;
  const seconds = quick ? 1.5 : 4;
  const one = async (subject: Subject, scenario: Scenario, lasts: number): Promise<Figures> => {
    const { body, path, connections, rampMs } = scenario;
    const plan = { bodyFile: bodyFile(body), path, connections, seconds: rampMs ? null : lasts, rampMs: rampMs ?? 0 };
    const figures = await load(join(BUILD, "loadgen"), subject, plan, pins);
    sent.add(subject, { [body]: figures.done });
    return figures;
  };
  const all = scenarios(streams, quick);
  progress("warming up");
  const asked = ({ path }: Scenario): readonly Subject[] =>
    path === undefined ? subjects : subjects.filter(({ name }) => name === "sluice");
  for (const scenario of all.filter(({ id }) => ["request16", "stream32", "chatStream32"].includes(id))) {
    for (const subject of asked(scenario)) if (subject.pid !== null) await one(subject, scenario, seconds);
  }
  const runs: Run[] = [];
  for (let round = 0; round < rounds; round++) {
    for (const scenario of all) {
      // Their memory is the point, and it is read best before the processes have grown: once is enough.
      if (scenario.rampMs && round > 0) continue;
      progress(`round ${round + 1} of ${rounds}: ${scenario.title}`);
      const turns = asked(scenario);
      for (const subject of round % 2 ? turns.toReversed() : turns) {
        const lasts = subject.pid === null ? seconds / 2 : seconds;
        runs.push({ scenario: scenario.id, subject: subject.name, round, ...(await one(subject, scenario, lasts)) });
      }
    }
  }
  return runs;
}

async function serve(
  name: "pass-through" | "sluice",
  upstreamUrl: string,
  pins: Pinning,
): Promise<{ subject: Subject; ready: Ready }> {
  const child = started(start(pins?.subject, process.execPath, [join(HERE, "serve.ts"), name, upstreamUrl]));
  const ready = JSON.parse(await firstLine(child)) as Ready;
  return { subject: { name, port: ready.port, key: ready.key, pid: child.pid ?? null }, ready };
}

function started(child: ChildProcess): ChildProcess {
  children.push(child);
  return child;
}

function bodyFile(name: BodyName): string {
  return join(BUILD, `${name}.json`);
}

function progress(text: string): void {
  process.stderr.write(`${text}\n`);
}
