/** How long the runtime takes to load a Worker: in a process of its own, with no binding and no other Worker. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { parse } from "smol-toml";
import { modulesIn, ROOT } from "./local-runtime.ts";

/** The shortest of them is the one that was disturbed least. */
const STARTS = 15;
/** Beside the bundles, since what it embeds is named from where it lies. */
const CONFIG = join(ROOT, "dist/start.capnp");

/** Milliseconds until the runtime listens, beyond those that it takes for an empty Worker. */
export async function startMs(config: string, bundle: string): Promise<number> {
  const { compatibility_date, compatibility_flags } = parse(readFileSync(join(ROOT, config), "utf8"));
  const modules = modulesIn(join(ROOT, bundle)).map(({ path }) => {
    const name = JSON.stringify(relative(join(ROOT, bundle), path));
    return `(name = ${name}, esModule = embed ${JSON.stringify(relative(join(ROOT, "dist"), path))})`;
  });
  const worker = (list: readonly string[]): string => `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "worker", worker = .worker)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "worker")]
);
const worker :Workerd.Worker = (
  modules = [${list.join(", ")}],
  compatibilityDate = ${JSON.stringify(compatibility_date)},
  compatibilityFlags = ${JSON.stringify(compatibility_flags)}
);
`;
  const [loaded, empty] = await fastest([
    worker(modules),
    worker(['(name = "index.js", esModule = "export default {};")']),
  ]);
  return (loaded ?? 0) - (empty ?? 0);
}

/** In turns, so that a machine that is busy for a while is so for all of them. */
async function fastest(configs: readonly string[]): Promise<number[]> {
  const times = configs.map(() => Number.POSITIVE_INFINITY);
  for (let start = 0; start < STARTS; start++) {
    for (const [n, config] of configs.entries()) {
      writeFileSync(CONFIG, config);
      times[n] = Math.min(times[n] ?? 0, await startOnce(CONFIG));
    }
  }
  rmSync(CONFIG);
  return times;
}

async function startOnce(config: string): Promise<number> {
  const started = performance.now();
  const args = ["serve", config, "--control-fd=1"];
  const runtime = spawn(join(ROOT, "node_modules/.bin/workerd"), args, { stdio: ["ignore", "pipe", "inherit"] });
  // It tells where it listens, or ends.
  await Promise.race([once(runtime.stdout, "data"), once(runtime, "exit")]);
  const took = performance.now() - started;
  if (runtime.exitCode !== null) throw new Error(`the runtime ended with ${runtime.exitCode}`);
  runtime.kill("SIGKILL");
  await once(runtime, "exit");
  return took;
}
