/**
 * `npm start`: the gateway on the local runtime, with the simulated Claude behind it unless a real upstream is named,
 * a ready key, and lines to paste. Settings come from the environment: PORT, STATE_DIR, ADMIN_TOKEN, KEY_TAG_SECRET,
 * ANTHROPIC_API_KEY, UPSTREAM_URL and the time limits of src/env.ts.
 */
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join, resolve } from "node:path";
import { build } from "./build.ts";
import { type LocalWorker, ROOT, startLocalWorker } from "./local-runtime.ts";

const DEFAULT_PORT = 8787;
const DEVELOPMENT_ADMIN_TOKEN = "sluice-development-admin";
const ANTHROPIC_URL = "https://api.anthropic.com";
const PASSED_ON = ["FIRST_BYTE_TIMEOUT_MS", "SILENCE_TIMEOUT_MS", "TOTAL_TIMEOUT_MS", "KEY_TAG_SECRET_PREVIOUS"];

/** What this machine keeps between starts, beside the runtime's own state. Readable by its owner alone. */
type LocalSecrets = { key_tag_secret: string; development_key?: string };

/** A reason not to start that the person at the keyboard can do something about. */
class CannotStart extends Error {}

const workers: LocalWorker[] = [];
let stopping = false;
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => void stop(0));

try {
  await start();
} catch (error) {
  console.error(error instanceof CannotStart ? error.message : error);
  await stop(1);
}

async function stop(code: number): Promise<void> {
  if (stopping) return;
  stopping = true;
  await Promise.allSettled(workers.map((worker) => worker.stop()));
  process.exit(code);
}

async function start(): Promise<void> {
  const { env } = process;
  const port = await freePort(env.PORT ?? "");
  const stateDir = stateFolder(env.STATE_DIR);
  const secrets = localSecrets(stateDir, env.KEY_TAG_SECRET);
  const adminToken = env.ADMIN_TOKEN || DEVELOPMENT_ADMIN_TOKEN;
  if (env.UPSTREAM_URL && !env.ANTHROPIC_API_KEY) {
    throw new CannotStart("UPSTREAM_URL is set, but ANTHROPIC_API_KEY, the secret to use there, is not.");
  }
  build();
  let upstreamUrl = env.UPSTREAM_URL || ANTHROPIC_URL;
  let upstreamKey = env.ANTHROPIC_API_KEY;
  if (!upstreamKey) {
    const simulator = await startLocalWorker({ config: "simulator/wrangler.toml", bundle: "dist/simulator" });
    workers.push(simulator);
    upstreamUrl = simulator.url;
    upstreamKey = "sk-ant-simulated";
  }
  const gateway = await startLocalWorker({
    config: "wrangler.toml",
    bundle: "dist/gateway",
    port,
    bindings: {
      ...Object.fromEntries(PASSED_ON.flatMap((name) => (env[name] ? [[name, env[name]]] : []))),
      UPSTREAM_URL: upstreamUrl,
      ANTHROPIC_API_KEY: upstreamKey,
      ADMIN_TOKEN: adminToken,
      KEY_TAG_SECRET: secrets.key_tag_secret,
    },
    ...(stateDir ? { stateDir: join(stateDir, "state") } : {}),
  });
  workers.push(gateway);
  const key = secrets.development_key ?? (await makeKey(gateway.url, adminToken));
  if (stateDir) saveSecrets(stateDir, { key_tag_secret: secrets.key_tag_secret, development_key: key });
  const upstream = env.ANTHROPIC_API_KEY ? upstreamUrl : `the simulated Claude at ${upstreamUrl} (docs/simulator.md)`;
  console.log(welcome(gateway.url, key, adminToken, upstream, stateDir));
}

async function freePort(text: string): Promise<number> {
  const port = text === "" ? DEFAULT_PORT : Number(text);
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

/** The state folder, made and tried; undefined for `:memory:`. */
function stateFolder(setting: string | undefined): string | undefined {
  if (setting === ":memory:") return undefined;
  const folder = resolve(ROOT, setting || ".sluice");
  try {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, ".writable"), "");
  } catch (error) {
    throw new CannotStart(`STATE_DIR ${folder} cannot be written to: ${(error as Error).message}.`);
  }
  return folder;
}

function localSecrets(stateDir: string | undefined, chosen: string | undefined): LocalSecrets {
  let kept: LocalSecrets | undefined;
  try {
    if (stateDir) kept = JSON.parse(readFileSync(join(stateDir, "secrets.json"), "utf8")) as LocalSecrets;
  } catch {
    // The first start with this folder, or a file nobody can read: new secrets then.
  }
  if (kept && (!chosen || chosen === kept.key_tag_secret)) return kept;
  return { key_tag_secret: chosen || randomBytes(32).toString("hex") };
}

function saveSecrets(stateDir: string, secrets: LocalSecrets): void {
  writeFileSync(join(stateDir, "secrets.json"), JSON.stringify(secrets), { mode: 0o600 });
}

async function makeKey(url: string, adminToken: string): Promise<string> {
  const response = await fetch(`${url}/admin/keys`, {
    method: "POST",
    headers: { authorization: `Bearer ${adminToken}`, "content-type": "application/json" },
    body: JSON.stringify({ name: "development" }),
  });
  const answer = (await response.json()) as { key?: string; error?: { message: string } };
  if (!answer.key) throw new CannotStart(`The development key could not be made: ${answer.error?.message}`);
  return answer.key;
}

function welcome(url: string, key: string, adminToken: string, upstream: string, stateDir?: string): string {
  const body = (more: string): string =>
    `'{"model":"claude-opus-5-5","max_tokens":200,${more}"messages":[{"role":"user","content":"Hello!"}]}'`;
  const curl = (flags: string, more: string): string =>
    `curl ${flags}${url}/v1/messages -H 'x-api-key: ${key}' -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' -d ${body(more)}`;
  return `
Sluice is running.

  gateway      ${url}
  upstream     ${upstream}
  state        ${stateDir ?? "in memory, gone when this stops"}
  key          ${key}
  admin token  ${adminToken}

Try it:

  ${curl("", "")}

  ${curl("-N ", '"stream":true,')}

Claude Code:

  export ANTHROPIC_BASE_URL=${url}
  export ANTHROPIC_AUTH_TOKEN=${key}

An SDK (TypeScript; every other has the same two settings):

  new Anthropic({ baseURL: "${url}", apiKey: "${key}" })

Who spent what:

  curl ${url}/admin/usage?group_by=key -H 'authorization: Bearer ${adminToken}'

Ctrl-C stops it.
`;
}
