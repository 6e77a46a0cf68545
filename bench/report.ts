/** The report of a benchmark: one table, what it was measured on and with, and the bars. */
import type { Figures, Subject } from "./load.ts";
import type { Scenario } from "./scenarios.ts";

export type Run = Figures & {
  readonly scenario: Scenario["id"];
  readonly subject: Subject["name"];
  readonly round: number;
};

export type Machine = {
  readonly cpu: string;
  readonly cores: number;
  readonly kernel: string;
  readonly node: string;
  readonly workerd: string;
  readonly commit: string;
  readonly date: string;
  readonly pinned: boolean;
};

export type Measured = {
  readonly machine: Machine;
  readonly options: { readonly quick: boolean; readonly rounds: number; readonly streams: number };
  readonly runs: readonly Run[];
  /** Calls that went through the gateway; all of them were found in its audit. */
  readonly calls: number;
  /** What is enforced for the gateway's key, in words. */
  readonly features: string;
  /** Calls to ledgers per 1,000 requests; null where the gateway does not count them. */
  readonly ledgerCalls: number | null;
};

const MAX_LEDGER_CALLS = 10;

/** Above this share of its core taken by strangers, absolute figures are not to be quoted. */
const NOISY = 0.1;

type Figure = {
  readonly title: string;
  readonly scenario: Scenario["id"];
  readonly value: (run: Run) => number;
  readonly digits: number;
  /** What the subject adds to the same figure of the direct run is shown, and compared. */
  readonly added?: true;
  /** Says nothing of the upstream alone. */
  readonly subjectsOnly?: true;
  /** A ratio would say nothing. */
  readonly noRatio?: true;
  /** The most that is accepted: times the pass-through's own figure, or the gateway's own figure by itself. */
  readonly bar?: { readonly ratio: number } | { readonly value: number };
};

const perCall = (run: Run): number => (run.cpu.total / run.done) * 1e6;
const perEvent = (run: Run): number => (run.cpu.total / run.events) * 1e6;
const cpu = { digits: 0, subjectsOnly: true } as const;
const added = { digits: 2, added: true } as const;
const ms = (pick: (run: Run) => number) => (run: Run) => pick(run) / 1_000;

function figures(streams: string): readonly Figure[] {
  return [
    { title: "CPU per request, 16 clients, µs", scenario: "request16", value: perCall, bar: { ratio: 1.4 }, ...cpu },
    {
      title: "— of it in the runtime's own process, µs",
      scenario: "request16",
      value: (run) => (run.cpu.runtime / run.done) * 1e6,
      ...cpu,
    },
    { title: "CPU per request, 64 clients, µs", scenario: "request64", value: perCall, ...cpu },
    {
      title: "CPU per request of 128 KB, 16 clients, µs",
      scenario: "large16",
      value: perCall,
      bar: { ratio: 1.5 },
      ...cpu,
    },
    { title: "Requests per second, 64 clients", scenario: "request64", value: (run) => run.rps, digits: 0 },
    {
      title: "Latency p50, 1 client, ms",
      scenario: "request1",
      value: ms((run) => run.latency_us.p50),
      ...added,
    },
    {
      title: "Latency p99, 1 client, ms",
      scenario: "request1",
      value: ms((run) => run.latency_us.p99),
      ...added,
    },
    {
      title: "CPU per streamed event, 32 streams, µs",
      scenario: "stream32",
      value: perEvent,
      bar: { ratio: 1.6 },
      ...cpu,
    },
    { title: "CPU per stream of 4 events, 1 client, µs", scenario: "first1", value: perCall, ...cpu },
    {
      title: "Time to first event p50, 1 client, ms",
      scenario: "first1",
      value: ms((run) => run.ttfe_us.p50),
      bar: { ratio: 1.5 },
      ...added,
    },
    {
      title: "Time to first event p99, 1 client, ms",
      scenario: "first1",
      value: ms((run) => run.ttfe_us.p99),
      ...added,
    },
    {
      title: "Delay per event p50, 32 streams, ms",
      scenario: "stream32",
      value: ms((run) => run.event_delay_us.p50),
      bar: { ratio: 2 },
      ...added,
    },
    {
      title: "Delay per event p99, 32 streams, ms",
      scenario: "stream32",
      value: ms((run) => run.event_delay_us.p99),
      bar: { value: 5 },
      ...added,
    },
    { title: `${streams} open streams: CPU per event, µs`, scenario: "open", value: perEvent, ...cpu },
    {
      title: `${streams} open streams: share of one core, %`,
      scenario: "open",
      value: (run) => (run.cpu.total / run.seconds) * 100,
      ...cpu,
    },
    {
      title: `${streams} open streams: delay per event p50, ms`,
      scenario: "open",
      value: ms((run) => run.event_delay_us.p50),
      bar: { value: 1 },
      ...added,
    },
    {
      title: `${streams} open streams: delay per event p99, ms`,
      scenario: "open",
      value: ms((run) => run.event_delay_us.p99),
      bar: { value: 250 },
      ...added,
    },
    {
      title: `${streams} open streams: time to first event p50, ms`,
      scenario: "open",
      value: ms((run) => run.ttfe_us.p50),
      ...added,
    },
    {
      title: `${streams} open streams: open at once`,
      scenario: "open",
      value: (run) => run.in_flight_max,
      digits: 0,
      noRatio: true,
    },
    {
      title: `${streams} open streams: memory before, MB`,
      scenario: "open",
      value: (run) => run.memoryBeforeMb,
      ...cpu,
    },
    {
      title: `${streams} open streams: memory at its highest, MB`,
      scenario: "open",
      value: (run) => run.memoryPeakMb,
      ...cpu,
    },
    {
      title: `${streams} open streams: memory gained per stream, KB`,
      scenario: "open",
      value: (run) => ((run.memoryPeakMb - run.memoryBeforeMb) * 1_024) / run.in_flight_max,
      ...cpu,
    },
  ];
}

/** The same done in OpenAI's words, beside the gateway's own native path in the same round. */
type Translated = {
  readonly title: string;
  readonly native: Scenario["id"];
  readonly chat: Scenario["id"];
  readonly value: (run: Run) => number;
  /** The most that is accepted, times the native path's. */
  readonly bar?: number;
};

const TRANSLATED: readonly Translated[] = [
  { title: "CPU per request, 16 clients, µs", native: "request16", chat: "chat16", value: perCall },
  {
    title: "CPU per request of 128 KB, 16 clients, µs",
    native: "large16",
    chat: "chatLarge16",
    value: perCall,
    bar: 3,
  },
  { title: "CPU per event, 32 streams, µs", native: "stream32", chat: "chatStream32", value: perEvent, bar: 1.6 },
  {
    title: "Delay per event p50, 32 streams, ms",
    native: "stream32",
    chat: "chatStream32",
    value: ms((run) => run.event_delay_us.p50),
  },
];

/** The report in Markdown, and whether every bar is met. */
export function render(measured: Measured): { readonly text: string; readonly barsMet: boolean } {
  const { machine, options, runs, calls, features, ledgerCalls } = measured;
  const rows: string[] = [];
  const bars: string[] = [];
  let barsMet = true;
  const judge = (met: boolean, text: string): void => {
    barsMet &&= met;
    bars.push(`- ${met ? "✓" : "✗"} ${text}`);
  };
  for (const figure of figures(options.streams.toLocaleString("en"))) {
    const { direct, floor, gateway, ratio } = compare(runs, figure);
    const plus = figure.added ? "+" : "";
    const cells = [
      figure.title,
      figure.subjectsOnly ? "" : direct.toFixed(figure.digits),
      `${plus}${floor.toFixed(figure.digits)}`,
      `${plus}${gateway.toFixed(figure.digits)}`,
      figure.noRatio || !Number.isFinite(ratio) ? "" : `${ratio.toFixed(2)} ×`,
    ];
    rows.push(`| ${cells.join(" | ")} |`);
    const { bar } = figure;
    if (bar === undefined) continue;
    const met = "ratio" in bar ? ratio <= bar.ratio : gateway <= bar.value;
    judge(
      met,
      "ratio" in bar
        ? `${figure.title.replace(/, µs$/, "")}: ${ratio.toFixed(2)} × the pass-through (bar: ${bar.ratio} ×)`
        : `${figure.title}: ${plus}${gateway.toFixed(figure.digits)} (bar: ${bar.value})`,
    );
  }
  const translated = TRANSLATED.map(({ title, native, chat, value, bar }) => {
    const of = (scenario: Scenario["id"]): readonly Run[] =>
      runs.filter((run) => run.subject === "sluice" && run.scenario === scenario);
    const ratio = median(
      of(chat).map(
        (run) =>
          value(run) / of(native).reduce((same, one) => (one.round === run.round ? value(one) : same), Number.NaN),
      ),
    );
    if (bar !== undefined)
      judge(ratio <= bar, `Chat: ${title.replace(/, µs$/, "")}: ${ratio.toFixed(2)} × the native path (bar: ${bar} ×)`);
    const [own, told] = [median(of(native).map(value)), median(of(chat).map(value))];
    const digits = title.endsWith("ms") ? 2 : 0;
    return `| ${title} | ${own.toFixed(digits)} | ${told.toFixed(digits)} | ${ratio.toFixed(2)} × |`;
  });
  if (ledgerCalls !== null) {
    judge(
      ledgerCalls <= MAX_LEDGER_CALLS,
      `Ledger calls per 1,000 requests, 64 clients: ${ledgerCalls.toFixed(1)} (bar: ${MAX_LEDGER_CALLS})`,
    );
  }
  const text = [
    `# Sluice beside a ten-line pass-through: ${machine.date}, commit ${machine.commit}`,
    "",
    `${machine.cores} × ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}, workerd ${machine.workerd}. ${how(measured)}`,
    "",
    `**On in Sluice:** key authentication, the key's ledger with ${features}, metering of every answer,`,
    `audit to D1, one log line a call. All ${calls.toLocaleString("en")} calls of this run, and the tokens the upstream reported`,
    "for them, were found in the audit afterwards. No call failed.",
    "",
    "**Left out for both:** TLS, a real network, the provider's own time, Cloudflare's edge, production Durable Objects and",
    "D1 (here: local ones in the same process, whose CPU is counted), cold starts.",
    "",
    "| figure | direct | pass-through | Sluice | Sluice ÷ pass-through |",
    "|---|--:|--:|--:|--:|",
    ...rows,
    "",
    "`+`: added to the direct figure. CPU is of the subject's whole process tree, until it is quiet again.",
    "",
    "## The same as Chat Completions",
    "",
    "| figure | Messages | Chat | Chat ÷ Messages |",
    "|---|--:|--:|--:|",
    ...translated,
    "",
    "## Bars",
    "",
    ...bars,
    ...noise(runs),
    "",
  ].join("\n");
  return { text, barsMet };
}

function how({ machine, options }: Measured): string {
  const rounds = options.rounds === 1 ? "One round" : `Medians of ${options.rounds} rounds`;
  const pinned = machine.pinned
    ? "each subject on one core, upstream and load generator on another"
    : "nothing pinned to a core";
  return `${rounds}${options.quick ? " (quick)" : ""}, ${pinned}.`;
}

function compare(runs: readonly Run[], figure: Figure) {
  const of = (subject: Subject["name"]): readonly Run[] =>
    runs.filter((run) => run.scenario === figure.scenario && run.subject === subject);
  const direct = of("direct");
  const base = (round: number): number => {
    const run = direct.find((candidate) => candidate.round === round);
    return figure.added && run ? figure.value(run) : 0;
  };
  const values = (subject: Subject["name"]): readonly { round: number; value: number }[] =>
    of(subject).map((run) => ({ round: run.round, value: figure.value(run) - base(run.round) }));
  const floor = values("pass-through");
  const gateway = values("sluice");
  const ratios = gateway.map(
    ({ round, value }) => value / (floor.find((other) => other.round === round)?.value ?? Number.NaN),
  );
  return {
    direct: median(direct.map(figure.value)),
    floor: median(floor.map(({ value }) => value)),
    gateway: median(gateway.map(({ value }) => value)),
    ratio: median(ratios),
  };
}

/** How much of the subjects' core others took: a note when it is enough to doubt the absolute figures. */
function noise(runs: readonly Run[]): readonly string[] {
  const shares = runs.flatMap((run) => (run.subject === "direct" || run.disturbance === null ? [] : [run.disturbance]));
  if (shares.length === 0) return [];
  const share = median(shares);
  const text = `Other processes took ${(share * 100).toFixed(0)} % of the subjects' core (median of the runs, at worst ${(Math.max(...shares) * 100).toFixed(0)} %).`;
  return ["", share > NOISY ? `${text} The machine was busy: trust the ratios, not the absolute figures.` : text];
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return ((sorted[Math.floor(middle)] ?? Number.NaN) + (sorted[Math.ceil(middle)] ?? Number.NaN)) / 2;
}
