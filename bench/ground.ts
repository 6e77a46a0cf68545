/** What stands before anything is measured: compiled tools, a built gateway, and what is known of the machine. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { cpus, release } from "node:os";
import { join } from "node:path";
import { build } from "../scripts/build.ts";
import { ROOT } from "../scripts/local-runtime.ts";
import type { Pinning } from "./processes.ts";
import type { Machine } from "./report.ts";

export const BUILD = join(ROOT, "bench/build");
export const RESULTS = join(ROOT, "bench/results");

/** A reason that the person at the keyboard can do something about. */
export class CannotRun extends Error {}

/** Compiles the load generator and the fake upstream, which are C so that they cost little beside what they measure. */
export function compile(): void {
  mkdirSync(BUILD, { recursive: true });
  const changed = (path: string): number => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const native = join(ROOT, "bench/native");
  for (const name of ["upstream", "loadgen"]) {
    const source = join(native, `${name}.c`);
    const binary = join(BUILD, name);
    if (changed(binary) > Math.max(changed(source), changed(join(native, "common.h")))) continue;
    try {
      execFileSync("cc", ["-O2", "-Wall", "-Wextra", "-o", binary, source], { stdio: ["ignore", "ignore", "inherit"] });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      throw new CannotRun(
        "The load generator is C, and there is no C compiler here: install one that answers to `cc`.",
      );
    }
  }
}

export function buildGateway(): void {
  try {
    build();
  } catch (error) {
    const { stderr } = error as { stderr?: Buffer };
    throw new CannotRun(`The gateway does not build, so there is nothing to measure:\n${stderr ?? error}`);
  }
}

export function describeMachine(pins: Pinning): Machine {
  const workerd = JSON.parse(readFileSync(join(ROOT, "node_modules/workerd/package.json"), "utf8")) as {
    version: string;
  };
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown CPU",
    cores: cpus().length,
    kernel: release(),
    node: process.versions.node,
    workerd: workerd.version,
    commit: commit(),
    date: new Date().toISOString().slice(0, 10),
    pinned: pins !== null,
  };
}

function commit(): string {
  try {
    const args = ["-C", ROOT, "describe", "--always", "--dirty"];
    return execFileSync("git", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  } catch {
    return "unknown (not a git checkout)";
  }
}
