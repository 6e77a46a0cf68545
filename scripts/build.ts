/** Builds both Workers as `wrangler deploy` would, into dist/. Skips what is newer than every source it is made of. */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { ROOT } from "./local-runtime.ts";

const WORKERS = [
  { name: "gateway", config: "wrangler.toml", sources: ["src"], out: "dist/gateway" },
  { name: "simulator", config: "simulator/wrangler.toml", sources: ["simulator", "src/wire"], out: "dist/simulator" },
];

/** Builds what is out of date; `force` builds everything. Throws with wrangler's own words when a build fails. */
export function build(force = false): void {
  for (const worker of WORKERS) {
    const built = join(ROOT, worker.out, "index.js");
    const newest = Math.max(
      ...[...worker.sources, worker.config, "package-lock.json"].map((path) => newestChange(join(ROOT, path))),
    );
    if (!force && existsSync(built) && statSync(built).mtimeMs > newest) continue;
    const args = ["deploy", "--dry-run", "--config", worker.config, "--outdir", join(ROOT, worker.out), "--minify"];
    execFileSync(process.execPath, [join(ROOT, "node_modules/wrangler/bin/wrangler.js"), ...args], {
      cwd: ROOT,
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, CI: "1", WRANGLER_SEND_METRICS: "false" },
    });
  }
}

function newestChange(path: string): number {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) return 0;
  if (!stat.isDirectory()) return stat.mtimeMs;
  return Math.max(stat.mtimeMs, ...readdirSync(path).map((name) => newestChange(join(path, name))));
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) build(process.argv.includes("--force"));
