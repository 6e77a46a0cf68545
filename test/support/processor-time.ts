/**
 * How long work takes, for tests that must not depend on the machine: in the processor's time of this thread, which a busy
 * machine does not lengthen, and compared with other work of the same moment, which a slow one lengthens as well.
 */
import { expect } from "vitest";

/** Less is nothing: some systems count in steps of 4 ms. */
const LEAST_MS = 4;
/** Garbage is collected when it likes, and code is compiled anew. */
const ATTEMPTS = 5;
const TENTH = 10;
/** Ten times as much may take so many times as long; where it goes back and forth it takes a hundred times. */
const TIMES = 35;

/** Expects work to take at most so many times as long as other work, which should take some ten milliseconds. */
export function expectAtMost(times: number, work: () => unknown, other: () => unknown, what = ""): void {
  let ratio = Number.POSITIVE_INFINITY;
  for (let attempt = 0; attempt < ATTEMPTS && ratio > times; attempt++) {
    const otherMs = processorMs(other);
    ratio = processorMs(work) / Math.max(LEAST_MS, otherMs);
  }
  expect(ratio, what).toBeLessThanOrEqual(times);
}

/** Expects work on so much to take about ten times as long as work on a tenth of it. */
export function expectLinear(work: (size: number) => unknown, size: number, what = ""): void {
  expectAtMost(
    TIMES,
    () => work(size),
    () => work(size / TENTH),
    what,
  );
}

function processorMs(work: () => unknown): number {
  const before = process.threadCpuUsage();
  work();
  const { user, system } = process.threadCpuUsage(before);
  return (user + system) / 1_000;
}
