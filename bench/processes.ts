/** Processes of the benchmark: starting, pinning, and what the kernel says of their CPU time and memory. Linux only. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";

/** Ticks of /proc/PID/stat in a second (USER_HZ, fixed on Linux). */
const TICKS = 100;
/** The runtime's own process; what else a tree holds is Node, which carries the log and started it. */
const RUNTIME = "workerd";

export type Pinning = { readonly subject: string; readonly load: string } | null;

/** One core for the subject, another for everything that loads it, where there are two and taskset exists. */
export function pinning(wanted: boolean): Pinning {
  if (!wanted) return null;
  try {
    for (const cpu of ["0", "1"]) execFileSync("taskset", ["-c", cpu, "true"], { stdio: "ignore" });
    return { subject: "0", load: "1" };
  } catch {
    return null;
  }
}

export function start(cpu: string | undefined, command: string, args: readonly string[]): ChildProcess {
  const [file, ...rest] = cpu === undefined ? [command, ...args] : ["taskset", "-c", cpu, command, ...args];
  return spawn(file ?? command, rest, { stdio: ["ignore", "pipe", "inherit"] });
}

/** The first line a process prints. Rejects when it ends before that. */
export function firstLine(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    child.once("exit", (code) =>
      reject(new Error(`a process of the benchmark ended with ${code} before it was ready`)),
    );
    child.once("error", reject);
    child.stdout?.on("data", (piece: Buffer) => {
      text += piece;
      if (text.includes("\n")) resolve(text.slice(0, text.indexOf("\n")));
    });
  });
}

/** Everything a process prints. Rejects when it ends with an error. */
export function output(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    child.once("error", reject);
    child.stdout?.on("data", (piece: Buffer) => {
      text += piece;
    });
    child.once("close", (code) =>
      code === 0 ? resolve(text) : reject(new Error(`${child.spawnfile} ended with ${code}`)),
    );
  });
}

/** Stops a process and everything below it. */
export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const pids = tree(child.pid).map(({ pid }) => pid);
  const gone = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  await Promise.race([gone, new Promise((resolve) => setTimeout(resolve, 3_000))]);
  for (const pid of pids) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has gone by itself, which is what was wanted.
    }
  }
}

/** Ends a process and everything below it as `kill -9` does, and returns when they are gone. */
export async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const pids = tree(child.pid).map(({ pid }) => pid);
  for (const pid of pids) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has gone by itself.
    }
  }
  while (pids.some((pid) => !isGone(pid))) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Gone, or dead and not yet waited for. */
function isGone(pid: number): boolean {
  try {
    return /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "latin1"));
  } catch {
    return true;
  }
}

type Process = {
  readonly pid: number;
  readonly name: string;
  readonly parent: number;
  readonly cpuSeconds: number;
};

function read(pid: number): Process | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    const end = text.lastIndexOf(")");
    const fields = text.slice(end + 2).split(" ");
    const ticks = Number(fields[11]) + Number(fields[12]);
    return {
      pid,
      name: text.slice(text.indexOf("(") + 1, end),
      parent: Number(fields[1]),
      cpuSeconds: ticks / TICKS,
    };
  } catch {
    // It ended between the listing and the look.
    return null;
  }
}

/** A process and all below it. */
function tree(root: number): Process[] {
  const children = new Map<number, Process[]>();
  for (const name of readdirSync("/proc")) {
    const found = /^\d+$/.test(name) ? read(Number(name)) : null;
    if (found) children.set(found.parent, [...(children.get(found.parent) ?? []), found]);
  }
  const first = read(root);
  const all = first ? [first] : [];
  for (const process of all) all.push(...(children.get(process.pid) ?? []));
  return all;
}

/** CPU seconds, user and system together. */
export type Cpu = {
  readonly total: number;
  /** The part of it that the runtime's process used. */
  readonly runtime: number;
};

/** CPU time that a process and all below it have used so far. */
export function cpuOf(root: number): Cpu {
  const processes = tree(root);
  const sum = (list: readonly Process[]): number => list.reduce((seconds, one) => seconds + one.cpuSeconds, 0);
  return { total: sum(processes), runtime: sum(processes.filter(({ name }) => name === RUNTIME)) };
}

/** Resident memory in MB of a process and all below it. */
export function residentMb(root: number): number {
  return tree(root).reduce((total, { pid }) => {
    try {
      const match = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "latin1"));
      return total + Number(match?.[1] ?? 0) / 1024;
    } catch {
      return total;
    }
  }, 0);
}

/** Seconds for which a core has been busy so far, whoever used it; time the hypervisor took counts as busy. */
export function coreBusySeconds(cpu: string): number {
  const line = readFileSync("/proc/stat", "latin1")
    .split("\n")
    .find((candidate) => candidate.startsWith(`cpu${cpu} `));
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = (line ?? "")
    .split(/\s+/)
    .slice(1)
    .map(Number);
  return (user + nice + system + irq + softirq + steal) / TICKS;
}
