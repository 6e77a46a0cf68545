/**
 * Builds the web console, and both Workers as `wrangler deploy` would, into dist/. Skips what is newer than every source
 * it is made of.
 */
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readdirSync, statSync, utimesSync, watch } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { type BuildOptions, buildSync, context } from "esbuild";
import { ROOT } from "./local-runtime.ts";

const WORKERS = [
  { name: "gateway", config: "wrangler.toml", sources: ["src", "clients/typescript"], out: "dist/gateway" },
  { name: "simulator", config: "simulator/wrangler.toml", sources: ["simulator", "src/wire"], out: "dist/simulator" },
];

const CONSOLE = { source: join(ROOT, "src/console"), out: join(ROOT, "dist/console") };
/** Go as they are. */
const CONSOLE_PAGES = ["index.html", "styles.css"];
const CONSOLE_SCRIPT: BuildOptions = {
  entryPoints: [join(CONSOLE.source, "app.ts")],
  outdir: CONSOLE.out,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome120", "firefox121", "safari17"],
  logLevel: "warning",
};

/** Builds what is out of date; `force` builds everything. Throws with the tool's own words when a build fails. */
export function build(force = false): void {
  // First, since wrangler wants its folder to be there.
  const script = join(CONSOLE.out, "app.js");
  const sources = [CONSOLE.source, join(ROOT, "clients/typescript"), join(ROOT, "package-lock.json")];
  if (force || !isNewer(script, sources)) {
    buildSync(CONSOLE_SCRIPT);
    copyPages();
    isBuilt(script);
  }
  for (const worker of WORKERS) {
    const sources = [...worker.sources, worker.config, "package-lock.json"].map((path) => join(ROOT, path));
    const built = join(ROOT, worker.out, "index.js");
    if (!force && isNewer(built, sources)) continue;
    const args = ["deploy", "--dry-run", "--config", worker.config, "--outdir", join(ROOT, worker.out), "--minify"];
    execFileSync(process.execPath, [join(ROOT, "node_modules/wrangler/bin/wrangler.js"), ...args], {
      cwd: ROOT,
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, CI: "1", WRANGLER_SEND_METRICS: "false" },
    });
    isBuilt(built);
  }
}

/** Builds the console anew whenever a source of it changes, until the process ends. */
export async function watchConsole(): Promise<void> {
  await (await context(CONSOLE_SCRIPT)).watch();
  watch(CONSOLE.source, (_, file) => {
    if (file !== null && CONSOLE_PAGES.includes(file)) copyPages();
  });
}

function copyPages(): void {
  mkdirSync(CONSOLE.out, { recursive: true });
  for (const page of CONSOLE_PAGES) copyFileSync(join(CONSOLE.source, page), join(CONSOLE.out, page));
}

/** A build that comes to the same bundle leaves the file as it is, and would be done again and again. */
function isBuilt(file: string): void {
  const now = new Date();
  utimesSync(file, now, now);
}

function isNewer(built: string, sources: readonly string[]): boolean {
  return existsSync(built) && statSync(built).mtimeMs > Math.max(...sources.map(newestChange));
}

/** Hidden folders are of tools: a build itself writes there. */
function newestChange(path: string): number {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) return 0;
  if (!stat.isDirectory()) return stat.mtimeMs;
  const names = readdirSync(path).filter((name) => !name.startsWith("."));
  return Math.max(stat.mtimeMs, ...names.map((name) => newestChange(join(path, name))));
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) build(process.argv.includes("--force"));
