/**
 * Builds the web console, the description of the API, and both Workers into dist/: the very files that are deployed
 * (`wrangler deploy --no-bundle`), tested and measured. Skips what is newer than every source it is made of.
 */
import { execFileSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  utimesSync,
  watch,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { type BuildOptions, buildSync, context } from "esbuild";
import { ROOT } from "./local-runtime.ts";

const WORKERS = [
  { entry: "src/index.ts", sources: ["src", "clients/typescript"], out: "dist/gateway" },
  { entry: "simulator/index.ts", sources: ["simulator", "src/wire"], out: "dist/simulator" },
];
/**
 * As wrangler bundles (its COMMON_ESBUILD_OPTIONS and getBuildConditions), with one thing that it has no setting for: what
 * is behind an `import()` becomes a chunk of its own, which the runtime loads when it is asked for. Names of functions are
 * not kept: naming each anew whenever it is made costs 24 µs of CPU a request.
 */
const WORKER: BuildOptions = {
  absWorkingDir: ROOT,
  bundle: true,
  splitting: true,
  chunkNames: "chunks/[dir]/[name]-[hash]",
  format: "esm",
  minify: true,
  target: "es2024",
  supported: { "import-source": true, using: true },
  conditions: ["workerd", "worker", "browser"],
  external: ["cloudflare:*"],
  sourcemap: true,
  metafile: true,
  logLevel: "warning",
};

const CONSOLE = { source: join(ROOT, "src/console"), out: join(ROOT, "dist/console") };
/** Go as they are. */
const CONSOLE_PAGES = ["index.html", "admin.html", "styles.css"];
const CONSOLE_SCRIPT: BuildOptions = {
  entryPoints: ["app.ts", "admin.ts"].map((page) => join(CONSOLE.source, page)),
  outdir: CONSOLE.out,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome120", "firefox121", "safari17"],
  logLevel: "warning",
};

/** Beside the console, and served at `/openapi.json`. */
const DESCRIPTION = join(CONSOLE.out, "openapi.json");
/** The router is asked what routes there are, in Node, where nothing of it runs. */
const DESCRIPTION_SCRIPT: BuildOptions = {
  stdin: {
    contents: `import { describe } from "./src/openapi/document.ts"; console.log(JSON.stringify(describe()));`,
    resolveDir: ROOT,
  },
  bundle: true,
  write: false,
  format: "esm",
  mainFields: ["module", "main"],
  alias: { "cloudflare:workers": join(ROOT, "scripts/no-runtime.ts") },
  logLevel: "warning",
};
/** Many times what it has. */
const MAX_DESCRIPTION_BYTES = 16 * 1024 * 1024;

/** Builds what is out of date; `force` builds everything. Throws with the tool's own words when a build fails. */
export function build(force = false): void {
  const script = join(CONSOLE.out, "app.js");
  const sources = [CONSOLE.source, join(ROOT, "clients/typescript"), join(ROOT, "package-lock.json")];
  if (force || !isNewer(script, sources)) {
    buildSync(CONSOLE_SCRIPT);
    copyPages();
    isBuilt(script);
  }
  if (force || !isNewer(DESCRIPTION, [join(ROOT, "src"), join(ROOT, "package-lock.json")])) writeDescription();
  for (const worker of WORKERS) {
    const sources = [...worker.sources, "scripts/build.ts", "package-lock.json"].map((path) => join(ROOT, path));
    const built = join(ROOT, worker.out, "index.js");
    if (!force && isNewer(built, sources)) continue;
    buildWorker(worker);
    isBuilt(built);
  }
}

/** Beside its folder stands what it is made of, for `npm run size`. */
function buildWorker({ entry, out }: (typeof WORKERS)[number]): void {
  const { metafile } = buildSync({ ...WORKER, entryPoints: [entry], outdir: out });
  writeFileSync(join(ROOT, `${out}.json`), JSON.stringify(metafile));
  for (const name of readdirSync(join(ROOT, out), { recursive: true, encoding: "utf8" })) {
    const file = join(out, name);
    const isStale = metafile?.outputs[file] === undefined && statSync(join(ROOT, file)).isFile();
    // Chunks are named for what is in them, and all that lie there are uploaded.
    if (isStale) rmSync(join(ROOT, file));
  }
}

function writeDescription(): void {
  const [script] = buildSync(DESCRIPTION_SCRIPT).outputFiles ?? [];
  const json = execFileSync(process.execPath, ["--input-type=module"], {
    input: script?.contents ?? "",
    maxBuffer: MAX_DESCRIPTION_BYTES,
    stdio: ["pipe", "pipe", "pipe"],
  });
  writeFileSync(DESCRIPTION, json);
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
