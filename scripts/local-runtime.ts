/**
 * Runs a built Worker on the local runtime (Miniflare: workerd with local D1, KV and Durable Objects), with a direct
 * socket, so no development proxy stands in the request path. `npm start`, the end-to-end tests and the benchmark all
 * go through here; the Worker's shape (date, flags, bindings) is read from its own wrangler.toml, so there is no
 * second copy of it.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { parse } from "smol-toml";

export const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "..");

/** The part of a wrangler.toml that decides how the Worker runs locally. */
type WranglerConfig = {
  name: string;
  compatibility_date: string;
  compatibility_flags?: string[];
  vars?: Record<string, string>;
  exports?: Record<string, { type: string }>;
  durable_objects?: { bindings: { name: string; class_name: string }[] };
  d1_databases?: { binding: string; migrations_dir?: string }[];
  kv_namespaces?: { binding: string }[];
  version_metadata?: { binding: string };
  ratelimits?: { name: string; namespace_id: string; simple: { limit: number; period: 10 | 60 } }[];
  assets?: { directory: string; binding: string; html_handling?: string };
};

/** The log goes through a pipe to this process, which each write wakes: lines of the same moment share one. */
const LOG_JOIN_MS = "250";

export type LocalWorkerOptions = {
  /** Path of the wrangler.toml, relative to the repository. */
  config: string;
  /** Folder with the built index.js and its chunks, relative to the repository. */
  bundle: string;
  /** 0 picks a free port. */
  port?: number;
  /** Vars and secrets that are laid over the config's own vars. */
  bindings?: Record<string, string>;
  /** Folder for D1, KV and Durable Objects; left out: kept in memory. */
  stateDir?: string;
  /** A folder in which runtimes find each other: a second one that names it has its Durable Objects in the first. */
  registry?: string;
  /** Name of the Worker in another runtime that has the Durable Objects, or the name of this one's own. */
  objectsIn?: string;
  name?: string;
  /** Gets everything the Worker writes to its log. Default: this process's own output. */
  onLog?: (text: string) => void;
};

export type LocalWorker = {
  url: string;
  port: number;
  miniflare: Miniflare;
  stop(): Promise<void>;
};

/** Starts one Worker and applies its D1 migrations. Rejects with the runtime's own error when it cannot start. */
export async function startLocalWorker(options: LocalWorkerOptions): Promise<LocalWorker> {
  const configPath = join(ROOT, options.config);
  const config = parse(readFileSync(configPath, "utf8")) as unknown as WranglerConfig;
  const bundle = join(ROOT, options.bundle);
  const host = "127.0.0.1";
  const write = options.onLog ?? ((text: string) => process.stdout.write(text));
  const name = options.name ?? config.name;
  const { assets } = config;
  const files = assets && { binding: assets.binding, worker: `${name}-files` };
  const gateway = {
    name,
    unsafeDirectSockets: [{ host, port: options.port ?? 0 }],
    modules: modulesIn(bundle),
    modulesRoot: bundle,
    compatibilityDate: config.compatibility_date,
    compatibilityFlags: config.compatibility_flags ?? [],
    bindings: { LOG_JOIN_MS: LOG_JOIN_MS, ...config.vars, ...options.bindings },
    kvNamespaces: (config.kv_namespaces ?? []).map((kv) => kv.binding),
    d1Databases: (config.d1_databases ?? []).map((db) => db.binding),
    durableObjects: Object.fromEntries(
      (config.durable_objects?.bindings ?? []).map((binding) => [
        binding.name,
        {
          className: binding.class_name,
          useSQLite: true,
          ...(options.objectsIn ? { scriptName: options.objectsIn } : {}),
        },
      ]),
    ),
    ...(files ? { serviceBindings: { [files.binding]: files.worker } } : {}),
    ...(config.version_metadata ? { versionMetadata: config.version_metadata.binding } : {}),
    ratelimits: Object.fromEntries((config.ratelimits ?? []).map(({ name, ...limit }) => [name, limit])),
  };
  const workers =
    assets && files
      ? [gateway, filesWorker(files.worker, join(dirname(configPath), assets.directory), assets, config)]
      : [gateway];
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      host,
      port: 0,
      cf: false,
      logRequests: false,
      workers,
      ...(options.stateDir ? { resourcePersistencePath: options.stateDir } : {}),
      ...(options.registry ? { unsafeDevRegistryPath: options.registry } : {}),
      handleStructuredLogs: (log: { message: string }) => write(`${log.message}\n`),
    } as Parameters<typeof convertV4MiniflareOptions>[0]),
  );
  await miniflare.ready;
  for (const db of config.d1_databases ?? []) {
    if (!db.migrations_dir) continue;
    const folder = join(dirname(configPath), db.migrations_dir);
    const note = options.stateDir ? join(options.stateDir, `${db.binding}.migrated`) : null;
    const wanted = migrationsIn(folder).join("\n");
    if (note && existsSync(note) && readFileSync(note, "utf8") === wanted) continue;
    await migrate(miniflare, db.binding, folder);
    if (note) writeFileSync(note, wanted);
  }
  const url = new URL(await miniflare.unsafeGetDirectURL());
  return { url: url.origin, port: Number(url.port), miniflare, stop: () => miniflare.dispose() };
}

/** All that lies there, as it is uploaded; the entry is the first. */
export function modulesIn(bundle: string): { type: "ESModule"; path: string }[] {
  const names = readdirSync(bundle, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".js"));
  const chunks = names.filter((name) => name !== "index.js").sort();
  return ["index.js", ...chunks].map((name) => ({ type: "ESModule", path: join(bundle, name) }));
}

/**
 * Static files as a Worker of their own: one that has files gets the platform's router put before it, a Worker through
 * which every request and every stream would go.
 */
function filesWorker(
  name: string,
  directory: string,
  { html_handling }: NonNullable<WranglerConfig["assets"]>,
  { compatibility_date }: WranglerConfig,
): object {
  return {
    name,
    modules: true,
    script: "export default { fetch: (request, env) => env.FILES.fetch(request) }",
    compatibilityDate: compatibility_date,
    assets: {
      directory,
      binding: "FILES",
      run_worker_first: true,
      routerConfig: { has_user_worker: true },
      ...(html_handling ? { assetConfig: { html_handling } } : {}),
    },
  };
}

const migrationsIn = (folder: string): string[] =>
  existsSync(folder)
    ? readdirSync(folder)
        .filter((file) => file.endsWith(".sql"))
        .sort()
    : [];

/**
 * Applies the migrations that wrangler's own table does not list yet. Miniflare asks the database synchronously, and its log
 * is not read meanwhile: a runtime that begins with much to say, as one with objects of an earlier life, may then wait for
 * ever. So what is known to be applied is noted beside the state, and not asked again.
 */
async function migrate(miniflare: Miniflare, binding: string, folder: string): Promise<void> {
  const db = await miniflare.getD1Database(binding);
  await db
    .prepare(
      "CREATE TABLE IF NOT EXISTS d1_migrations (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL)",
    )
    .run();
  const { results } = await db.prepare("SELECT name FROM d1_migrations").all<{ name: string }>();
  const applied = new Set(results.map((row: { name: string }) => row.name));
  for (const name of migrationsIn(folder)) {
    if (applied.has(name)) continue;
    const statements = readFileSync(join(folder, name), "utf8")
      .replace(/^\s*--.*$/gm, "")
      .split(/;\s*(?:\n|$)/)
      .map((statement) => statement.trim())
      .filter((statement) => statement !== "");
    await db.batch([
      ...statements.map((statement) => db.prepare(statement)),
      db.prepare("INSERT INTO d1_migrations (name) VALUES (?)").bind(name),
    ]);
  }
}

/** A reason not to start that the person at the keyboard can do something about; told as one sentence. */
export class CannotStart extends Error {}

/** The port that PORT asks for, when it is free. */
export async function freePort(text: string, otherwise: number): Promise<number> {
  const port = text === "" ? otherwise : Number(text);
  if (!Number.isInteger(port) || port < 0 || port > 65_535) {
    throw new CannotStart(`PORT is "${text}", which is not a port number.`);
  }
  const probe = createServer();
  const problem = await new Promise<NodeJS.ErrnoException | undefined>((done) => {
    probe.once("error", done).listen(port, "127.0.0.1", () => done(undefined));
  });
  await new Promise((done) => probe.close(done));
  if (problem?.code === "EADDRINUSE") {
    throw new CannotStart(`Port ${port} is in use: stop what listens there, or choose another with PORT=….`);
  }
  if (problem) throw new CannotStart(`Port ${port} cannot be used: ${problem.message}.`);
  return port;
}

/** Runs `start`; every Worker it reports is stopped when the process is asked to end, or when `start` fails. */
export async function untilStopped(start: (started: (worker: LocalWorker) => void) => Promise<void>): Promise<void> {
  const workers: LocalWorker[] = [];
  let stopping = false;
  const stop = async (code: number): Promise<void> => {
    if (stopping) return;
    stopping = true;
    await Promise.allSettled(workers.map((worker) => worker.stop()));
    process.exit(code);
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => void stop(0));
  try {
    await start((worker) => workers.push(worker));
  } catch (error) {
    console.error(error instanceof CannotStart ? error.message : error);
    await stop(1);
  }
}
