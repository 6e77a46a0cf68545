/**
 * `npm run eval:guardrails -- FILE…`: how well the detectors do on labelled text. A file has one JSON object a line: `text` (or `b64`, the
 * same in Base64) and `spans`, the labelled places as `{s, e, t}` (UTF-16 offsets, type) with `ok: false` where check digits do not hold.
 */
import { readFileSync } from "node:fs";
import {
  DETECTED_TYPES,
  detect,
  type Finding,
  type OwnPattern,
  parsePattern,
} from "../src/guardrails/detect/detect.ts";
import { HOSTILE, KEYWORDS, OWN_SOURCES } from "../test/guardrails/detect/hostile.ts";

type Span = { readonly s: number; readonly e: number; readonly t: string; readonly ok?: boolean };
type Row = { readonly text: string; readonly spans: readonly Span[] };
type Count = { gold: number; masked: number; strict: number; wrong: number };

const USAGE = `Usage: npm run eval:guardrails -- [--misses] [--hostile] FILE…

Runs the guardrails' detectors over labelled text and prints, per type: how many labelled places there are, the share of them that is found
exactly (strict recall), the share that is covered by findings of any type (masked recall), and precision (findings of the type that touch no
labelled place of it are wrong). Rows without labels are negatives: how many of them were touched.

A file holds one JSON object a line: {"text": "…", "spans": [{"s": 0, "e": 5, "t": "EMAIL"}]}, or "b64" for the text in Base64. Offsets are
UTF-16 units. Spans with "ok": false (check digits do not hold) are not counted. --misses also prints what was missed or wrong.
--hostile measures 200 kB of each text that is made to be slow, all types and twenty patterns of one's own on.
Types: ${DETECTED_TYPES.join(", ")}`;

const args = process.argv.slice(2);
const files = args.filter((arg) => !arg.startsWith("--"));
const hostile = args.includes("--hostile");
if (files.length === 0 && !hostile) console.log(USAGE);
for (const file of files) evaluate(file, args.includes("--misses"));
if (hostile) measureHostile();

function evaluate(file: string, showMisses: boolean): void {
  const rows = read(file);
  const counts = new Map<string, Count>();
  const misses: string[] = [];
  let negatives = 0;
  let touched = 0;
  let total = 0;
  let slowest = { ms: 0, row: 0 };
  // The first text pays for tables and compiled patterns; no row should.
  for (const row of rows.slice(0, 20)) detect(row.text, DETECTED_TYPES);
  rows.forEach((row, index) => {
    const started = performance.now();
    const findings = detect(row.text, DETECTED_TYPES);
    const ms = performance.now() - started;
    total += ms;
    if (ms > slowest.ms) slowest = { ms, row: index + 1 };
    if (row.spans.length === 0) {
      negatives++;
      if (findings.length > 0) touched++;
    }
    tally(row, findings, counts, (what) => misses.push(`  row ${index + 1}: ${what}`));
  });
  console.log(`\n${file}: ${rows.length} rows`);
  for (const type of DETECTED_TYPES) {
    const count = counts.get(type);
    if (count !== undefined) console.log(line(type, count));
  }
  if (negatives > 0)
    console.log(`  negatives touched: ${touched} of ${negatives} rows (${((100 * touched) / negatives).toFixed(2)} %)`);
  console.log(
    `  ${(total / rows.length).toFixed(3)} ms per row; slowest: row ${slowest.row}, ${slowest.ms.toFixed(2)} ms; ${perTenKilobytes(rows).toFixed(2)} ms of CPU per 10 kB`,
  );
  if (showMisses) console.log(misses.join("\n"));
}

/** Of all rows as one text, cut into pieces of 10 kB, when everything is compiled. */
function perTenKilobytes(rows: readonly Row[]): number {
  const whole = rows.map(({ text }) => text).join("\n");
  const pieces = Array.from({ length: Math.ceil(whole.length / 10_000) }, (_, at) =>
    whole.slice(at * 10_000, (at + 1) * 10_000),
  );
  const walk = (): void => pieces.forEach((piece) => void detect(piece, DETECTED_TYPES));
  const rounds = Math.ceil(200 / pieces.length);
  for (let round = 0; round < rounds; round++) walk();
  return leastCpuMs(3, rounds, walk) / (whole.length / 10_000);
}

/** CPU of one run: the least of some measurements of several runs each, since the machine may have other work. */
function leastCpuMs(measurements: number, runs: number, run: () => unknown): number {
  return Math.min(
    ...Array.from({ length: measurements }, () => {
      const before = process.cpuUsage();
      for (let at = 0; at < runs; at++) run();
      return process.cpuUsage(before).user / 1_000 / runs;
    }),
  );
}

/** Each text at 200 kB and at 20 kB. */
function measureHostile(): void {
  const own = OWN_SOURCES.flatMap((source, index): readonly OwnPattern[] => {
    const pattern = parsePattern(source);
    return pattern.ok ? [{ name: `OWN_${index}`, pattern: pattern.value }] : [];
  });
  const time = (unit: string, size: number): number => {
    const text = unit.repeat(Math.ceil(size / unit.length)).slice(0, size);
    return leastCpuMs(2, 200_000 / size, () => detect(text, DETECTED_TYPES, own));
  };
  const units = [...HOSTILE, KEYWORDS.join(""), KEYWORDS.join(" "), KEYWORDS.join("=")];
  for (const unit of units.slice(0, 5)) time(unit, 20_000);
  const measured = units.map((unit) => ({ unit, large: time(unit, 200_000), small: time(unit, 20_000) }));
  measured.sort((a, b) => b.large - a.large);
  console.log(
    `\n${units.length} hostile texts of 200 kB, all types and ${own.length} patterns, in CPU time; the slowest:`,
  );
  for (const { unit, large, small } of measured.slice(0, 10))
    console.log(
      `  ${large.toFixed(0).padStart(5)} ms, ${(large / small).toFixed(1)} times as long as 20 kB: ${JSON.stringify(unit.slice(0, 40))}`,
    );
}

function line(type: string, { gold, masked, strict, wrong }: Count): string {
  const share = (part: number, whole: number): string => (whole === 0 ? "    -" : (part / whole).toFixed(3));
  return (
    `  ${type.padEnd(12)} labelled ${String(gold).padStart(5)}   recall strict ${share(strict, gold)}  masked ${share(masked, gold)}` +
    `   precision ${share(strict, strict + wrong)} (${wrong} wrong)`
  );
}

function tally(row: Row, findings: readonly Finding[], counts: Map<string, Count>, miss: (what: string) => void): void {
  const count = (type: string): Count => {
    const known = counts.get(type) ?? { gold: 0, masked: 0, strict: 0, wrong: 0 };
    counts.set(type, known);
    return known;
  };
  const covered = new Uint8Array(row.text.length);
  for (const { start, end } of findings) covered.fill(1, start, end);
  for (const span of row.spans) {
    if (span.ok === false) continue;
    const of = count(span.t);
    of.gold++;
    if (!covered.subarray(span.s, span.e).includes(0)) of.masked++;
    if (findings.some(({ start, end, type }) => start === span.s && end === span.e && type === span.t)) of.strict++;
    else if (isDetected(span.t)) miss(`missed ${span.t} ${JSON.stringify(row.text.slice(span.s, span.e))}`);
  }
  for (const finding of findings) {
    if (row.spans.some(({ s, e, t }) => t === finding.type && s < finding.end && finding.start < e)) continue;
    count(finding.type).wrong++;
    miss(
      `wrong ${finding.type} ${JSON.stringify(row.text.slice(finding.start, finding.end))} (${finding.rule ?? "-"})`,
    );
  }
}

function isDetected(type: string): boolean {
  return DETECTED_TYPES.some((known) => known === type);
}

function read(file: string): readonly Row[] {
  return readFileSync(file, "utf8")
    .split("\n")
    .filter((text) => text.trim() !== "")
    .map((text) => {
      const row: { text?: string; b64?: string; spans?: Span[] } = JSON.parse(text);
      return { text: row.text ?? Buffer.from(row.b64 ?? "", "base64").toString("utf8"), spans: row.spans ?? [] };
    });
}
