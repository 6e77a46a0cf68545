/** Processes of the benchmark: starting, pinning, and what the kernel says of their CPU time and memory. Linux only. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";

/** Ticks of /proc/PID/stat in a second (USER_HZ, fixed on Linux). */
const TICKS = 100;

export type Pinning = { readonly subject: string; readonly load: string } | null;

/** One core for the subject, another for everything that loads it, where there are two and taskset exists. */
export function pinning(wanted: boolean): Pinning {
  if (!wanted) return null;
  try {
    execFileSync("taskset", ["-c", "1", "true"], { stdio: "ignore" });
    return { subject: "0", load: "1" };
  } catch {
    return null;
  }
}

export function start(cpu: string | undefined, command: string, args: readonly string[]): ChildProcess {
  const [file, ...rest] = cpu === undefined ? [command, ...args] : ["taskset", "-c", cpu, command, ...args];
  return spawn(file ?? command, rest, { stdio: ["ignore", "pipe", "inherit"] });
}

/** The first line a process prints. */
export function firstLine(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    child.once("exit", (code) =>
      reject(new Error(`a process of the benchmark ended with ${code} before it was ready`)),
    );
    child.stdout?.on("data", (piece: Buffer) => {
      text += piece;
      if (text.includes("\n")) resolve(text.slice(0, text.indexOf("\n")));
    });
  });
}

/** Stops a process and everything below it. */
export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.pid === undefined) return;
  const pids = tree(child.pid);
  const gone = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  await Promise.race([gone, new Promise((resolve) => setTimeout(resolve, 3000))]);
  for (const pid of pids) {
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has gone by itself, which is what was wanted.
    }
  }
}

const statOf = (pid: number): string[] => {
  const text = readFileSync(`/proc/${pid}/stat`, "latin1");
  return text.slice(text.lastIndexOf(")") + 2).split(" ");
};

function tree(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
    try {
      const parent = Number(statOf(Number(name))[1]);
      children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
    } catch {
      // It ended between the listing and the look.
    }
  }
  const all: number[] = [];
  const todo = [root];
  for (let pid = todo.pop(); pid !== undefined; pid = todo.pop()) {
    all.push(pid);
    todo.push(...(children.get(pid) ?? []));
  }
  return all;
}

function sum(root: number, read: (pid: number) => number): number {
  return tree(root).reduce((total, pid) => {
    try {
      return total + read(pid);
    } catch {
      return total;
    }
  }, 0);
}

/** CPU seconds, user and system, of a process and all below it. */
export function cpuSeconds(root: number): number {
  return sum(root, (pid) => {
    const stat = statOf(pid);
    return (Number(stat[11]) + Number(stat[12])) / TICKS;
  });
}

/** Resident memory in MB of a process and all below it. */
export function residentMb(root: number): number {
  return sum(root, (pid) => {
    const match = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "latin1"));
    return Number(match?.[1] ?? 0) / 1024;
  });
}
