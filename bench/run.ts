/**
 * `npm run bench [-- --quick] [--rounds N] [--no-pin] [--enforce]`: the gateway with everything on beside a ten-line
 * pass-through Worker, in one run and in turn. bench/README.md says how it measures and what it leaves out.
 */
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { cpus, release } from "node:os";
import { join } from "node:path";
import { build } from "../scripts/build.ts";
import { ROOT } from "../scripts/local-runtime.ts";
import { cpuSeconds, firstLine, pinning, residentMb, start, stop } from "./processes.ts";

const HERE = join(ROOT, "bench");
const OUT = join(HERE, "build");
const UPSTREAM_PORT = 9100;
const options = process.argv.slice(2);
const quick = options.includes("--quick");
const roundsAt = options.indexOf("--rounds");
const rounds = roundsAt >= 0 ? Number(options[roundsAt + 1]) : quick ? 1 : 3;
const pins = pinning(!options.includes("--no-pin"));

/** What the load generator prints. Times in µs. */
type Spread = { readonly p50: number; readonly p99: number };
type Load = {
  readonly done: number;
  readonly ok: number;
  readonly rps: number;
  readonly events: number;
  readonly in_flight_max: number;
  readonly errors: Readonly<Record<string, number>>;
  readonly latency_us: Spread;
  readonly ttfb_us: Spread;
  readonly event_delay_us: Spread;
};
type Figure = Load & { readonly cpuSeconds: number; readonly peakMb: number };
type Subject = { readonly name: string; readonly port: number; readonly key: string; readonly pid: number | undefined };

const MESSAGES = [
  { role: "user", content: "Tell me, in two sentences, why the sky is blue at noon and red at dusk." },
  { role: "assistant", content: "Air scatters short wavelengths more." },
  { role: "user", content: "And why not violet?" },
];
/** The fake upstream reads from the model's name how it is to answer (bench/native/upstream.c). */
const body = (model: string, more: Record<string, unknown> = {}) =>
  JSON.stringify({
    model,
    max_tokens: 1024,
    system: "Answer briefly.",
    messages: MESSAGES,
    metadata: { user_id: "u" },
    ...more,
  });
const LARGE_TEXT = 'All human beings are born free "and equal" in dignity and rights.\n'.repeat(1900);
const BODIES = {
  small: body("claude-sonnet-4-5"),
  large: body("claude-sonnet-4-5", { messages: [{ role: "user", content: LARGE_TEXT }] }),
  stream: body("claude-sonnet-4-5_n64_t20_g5000", { stream: true }),
  slow: body("claude-sonnet-4-5_n100_t100_g100000", { stream: true }),
};

type Scenario = {
  readonly name: string;
  readonly body: keyof typeof BODIES;
  readonly args: readonly string[];
  /** Counts CPU by streamed event instead of by request. */
  readonly perEvent?: true;
  readonly once?: true;
};
const seconds = quick ? "2" : "5";
const SCENARIOS: readonly Scenario[] = [
  { name: "request, 1 client", body: "small", args: ["-c", "1", "-d", seconds] },
  { name: "request, 16 clients", body: "small", args: ["-c", "16", "-d", seconds] },
  { name: "request, 64 clients", body: "small", args: ["-c", "64", "-d", seconds] },
  { name: "request of 128 KB, 16 clients", body: "large", args: ["-c", "16", "-d", seconds] },
  { name: "stream of 64 events, 1 client", body: "stream", args: ["-c", "1", "-d", seconds], perEvent: true },
  { name: "stream of 64 events, 32 clients", body: "stream", args: ["-c", "32", "-d", seconds], perEvent: true },
  {
    name: "1,000 open streams, 10 events/s each",
    body: "slow",
    args: ["-c", "1000", "-n", "1000", "-r", "3000", "-d", "30", "-o", "60000"],
    perEvent: true,
    once: true,
  },
];

if (process.platform !== "linux") {
  console.error("The benchmark reads CPU time from /proc, so it runs on Linux only.");
  process.exit(2);
}
process.exit(await main());

async function main(): Promise<number> {
  compile();
  build();
  for (const [name, text] of Object.entries(BODIES)) writeFileSync(join(OUT, `${name}.json`), text);
  const upstream = start(pins?.load, join(OUT, "upstream"), ["-p", String(UPSTREAM_PORT)]);
  const upstreamUrl = `http://127.0.0.1:${UPSTREAM_PORT}`;
  const children = [upstream];
  try {
    await answering(`${upstreamUrl}/health`);
    const subjects: Subject[] = [{ name: "direct", port: UPSTREAM_PORT, key: "sk-ant-benchmark", pid: undefined }];
    for (const name of ["pass-through", "sluice"]) {
      const child = start(pins?.subject, process.execPath, [join(HERE, "serve.ts"), name, upstreamUrl]);
      children.push(child);
      const ready = JSON.parse(await firstLine(child)) as { port: number; key: string };
      subjects.push({ name, ...ready, pid: child.pid });
    }
    for (const subject of subjects) await load(subject, "small", ["-c", "32", "-d", quick ? "2" : "4"]);
    for (const subject of subjects) await load(subject, "stream", ["-c", "16", "-d", "2"]);
    const figures = new Map<string, Figure[]>();
    for (let round = 0; round < rounds; round++) {
      for (const scenario of SCENARIOS.filter((candidate) => round === 0 || !candidate.once)) {
        for (const subject of round % 2 ? subjects.toReversed() : subjects) {
          const id = `${scenario.name}|${subject.name}`;
          figures.set(id, [...(figures.get(id) ?? []), await load(subject, scenario.body, scenario.args)]);
        }
      }
    }
    return report(figures);
  } finally {
    await Promise.all(children.map(stop));
  }
}

/** Compiles the load generator and the fake upstream, which are C so that they cost little beside what they measure. */
function compile(): void {
  mkdirSync(OUT, { recursive: true });
  for (const name of ["upstream", "loadgen"]) {
    const source = join(HERE, "native", `${name}.c`);
    const binary = join(OUT, name);
    const built = statSync(binary, { throwIfNoEntry: false });
    if (built && built.mtimeMs > statSync(source).mtimeMs) continue;
    try {
      execFileSync("cc", ["-O2", "-o", binary, source], { stdio: ["ignore", "ignore", "inherit"] });
    } catch {
      console.error("The benchmark's load generator needs a C compiler: install one that answers to `cc`.");
      process.exit(2);
    }
  }
}

async function answering(url: string): Promise<void> {
  const end = Date.now() + 10_000;
  for (;;) {
    try {
      await fetch(url);
      return;
    } catch (error) {
      if (Date.now() > end) throw error;
      await new Promise((done) => setTimeout(done, 50));
    }
  }
}

/** Runs the load generator once against a subject. Any error ends the benchmark: its figures would mean nothing. */
async function load(subject: Subject, kind: keyof typeof BODIES, args: readonly string[]): Promise<Figure> {
  const target = ["-p", String(subject.port), "-u", "/v1/messages", "-b", join(OUT, `${kind}.json`)];
  const headers = ["anthropic-version: 2023-06-01", `x-api-key: ${subject.key}`];
  const flags = [...target, ...headers.flatMap((header) => ["-H", header]), ...args];
  const before = subject.pid === undefined ? 0 : cpuSeconds(subject.pid);
  let peakMb = 0;
  const watch = setInterval(() => {
    if (subject.pid !== undefined) peakMb = Math.max(peakMb, residentMb(subject.pid));
  }, 500);
  const [file = "", ...rest] = pins
    ? ["taskset", "-c", pins.load, join(OUT, "loadgen"), ...flags]
    : [join(OUT, "loadgen"), ...flags];
  const child = spawn(file, rest, { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout.on("data", (piece: Buffer) => {
    text += piece;
  });
  await new Promise((done) => child.on("close", done));
  clearInterval(watch);
  const after = subject.pid === undefined ? 0 : cpuSeconds(subject.pid);
  const result = JSON.parse(text) as Load;
  const failed = Object.values(result.errors).reduce((sum, count) => sum + count, 0);
  if (failed > 0) throw new Error(`${subject.name}: ${JSON.stringify(result.errors)} with ${kind} ${args.join(" ")}`);
  return { ...result, cpuSeconds: after - before, peakMb };
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.NaN;
}

function report(figures: ReadonlyMap<string, readonly Figure[]>): number {
  const of = (scenario: Scenario, name: string) => figures.get(`${scenario.name}|${name}`) ?? [];
  const lines: string[] = [];
  const ratios = new Map<string, number>();
  for (const scenario of SCENARIOS) {
    const unit = scenario.perEvent ? "event" : "request";
    const cpu = (figure: Figure) => (figure.cpuSeconds / (scenario.perEvent ? figure.events : figure.done)) * 1e6;
    const direct = of(scenario, "direct");
    const floor = of(scenario, "pass-through");
    lines.push(
      `\n### ${scenario.name}\n`,
      `| subject | ${unit}s/s | CPU µs/${unit} | × pass-through | added p50 ms | added p99 ms | first byte added p50 ms | event delay p50 / p99 ms | memory MB |`,
      "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    );
    for (const name of ["direct", "pass-through", "sluice"]) {
      const runs = of(scenario, name);
      const mid = (value: (figure: Figure, i: number) => number) => median(runs.map(value));
      const added = (pick: (figure: Figure) => number) => ((mid(pick) - median(direct.map(pick))) / 1000).toFixed(2);
      const ratio = mid((figure, i) => cpu(figure) / cpu(floor[i] ?? figure));
      if (name === "sluice") ratios.set(scenario.name, ratio);
      const perSecond = mid((figure) => (scenario.perEvent ? (figure.rps * figure.events) / figure.done : figure.rps));
      const own = name !== "direct";
      lines.push(
        `| ${[
          name,
          perSecond.toFixed(0),
          own ? mid(cpu).toFixed(0) : "",
          own ? ratio.toFixed(2) : "",
          own && !scenario.perEvent ? added((figure) => figure.latency_us.p50) : "",
          own && !scenario.perEvent ? added((figure) => figure.latency_us.p99) : "",
          own ? added((figure) => figure.ttfb_us.p50) : "",
          scenario.perEvent
            ? `${mid((figure) => figure.event_delay_us.p50 / 1000).toFixed(2)} / ${mid((figure) => figure.event_delay_us.p99 / 1000).toFixed(1)}`
            : "",
          own ? mid((figure) => figure.peakMb).toFixed(0) : "",
        ].join(" | ")} |`,
      );
    }
  }
  const bars = [
    {
      what: "CPU of a request that is not streamed, 16 clients",
      ratio: ratios.get("request, 16 clients") ?? 0,
      limit: 2,
    },
    {
      what: "CPU of a streamed event, 32 streams",
      ratio: ratios.get("stream of 64 events, 32 clients") ?? 0,
      limit: 2,
    },
  ];
  const met = bars.every(({ ratio, limit }) => ratio <= limit);
  const commit = execFileSync("git", ["-C", ROOT, "describe", "--always", "--dirty"], { encoding: "utf8" }).trim();
  const { version } = JSON.parse(readFileSync(join(ROOT, "node_modules/workerd/package.json"), "utf8")) as {
    version: string;
  };
  const head = [
    `# Benchmark of ${commit}, ${new Date().toISOString().slice(0, 10)}`,
    "",
    `${cpus().length} × ${cpus()[0]?.model ?? "?"}, Linux ${release()}, Node ${process.version}, workerd ${version}; ${rounds} round(s), medians; ${pins ? "subject on one core, upstream and load on the other" : "not pinned"}.`,
    "",
    "On in Sluice: key authentication, ledger with a request limit, metering of every answer, audit to D1, one log line a request. Left out for both: TLS, a real network, Cloudflare's edge, production Durable Objects and D1 (here: local ones, whose CPU is counted), cold starts.",
  ];
  const foot = [
    "\n### Bars\n",
    ...bars.map(
      ({ what, ratio, limit }) =>
        `- ${ratio <= limit ? "✓" : "✗"} ${what}: ${ratio.toFixed(2)} × the pass-through (bar: ${limit} ×)`,
    ),
  ];
  const text = [...head, ...lines, ...foot, ""].join("\n");
  mkdirSync(join(HERE, "results"), { recursive: true });
  writeFileSync(join(HERE, "results/latest.md"), text);
  writeFileSync(join(HERE, "results/latest.json"), JSON.stringify(Object.fromEntries(figures), null, 1));
  console.log(text);
  return met || !options.includes("--enforce") ? 0 : 1;
}
