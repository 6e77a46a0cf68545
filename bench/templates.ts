/**
 * What a call in a template's words costs before it goes on its way, without the runtime around it: for the largest version
 * there may be, with 500 variables. New: its texts and its schema are read first, as once in each isolate. CPU of this thread.
 */
import { render } from "../src/templates/render.ts";
import { largest } from "../test/templates/drafts.ts";

const ROUNDS = 200;

const { large, given } = largest();
const stored = JSON.stringify(large);
const fresh: number[] = [];
const known: number[] = [];

for (let round = 0; round < ROUNDS; round++) {
  const version = JSON.parse(stored);
  for (const times of [fresh, known]) {
    const before = process.threadCpuUsage();
    if (!render(version, given, {}).ok) throw new Error("the call is refused");
    const { user, system } = process.threadCpuUsage(before);
    times.push((user + system) / 1_000);
  }
}

function line(name: string, times: readonly number[]): string {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (share: number) => (sorted[Math.floor(share * (sorted.length - 1))] ?? 0).toFixed(1).padStart(6);
  return `${name.padEnd(22)}${at(0.5)} ms median ${at(0.9)} ms of ten the ninth`;
}

console.log(`${(stored.length / 1_024).toFixed(0)} KB, ${Object.keys(given).length} variables; the bar: 10 ms`);
console.log(line("a version that is new", fresh));
console.log(line("one that is known", known));
