/**
 * `npm start`: the gateway on the local runtime, with the simulated Claude behind it unless a real upstream is named,
 * a ready key, and lines to paste. Settings come from the environment: PORT, STATE_DIR, ADMIN_TOKEN, KEY_TAG_SECRET,
 * MASTER_KEY, ALLOW_LOCAL_UPSTREAMS, ANTHROPIC_API_KEY, UPSTREAM_URL and those that are passed on as they are (PASSED_ON; src/env.ts reads them).
 */
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { build } from "./build.ts";
import { CannotStart, freePort, ROOT, startLocalWorker, untilStopped } from "./local-runtime.ts";

const DEFAULT_PORT = 8787;
const DEVELOPMENT_ADMIN_TOKEN = "sluice-development-admin";
const ANTHROPIC_URL = "https://api.anthropic.com";
const PASSED_ON = [
  "FIRST_BYTE_TIMEOUT_MS",
  "SILENCE_TIMEOUT_MS",
  "TOTAL_TIMEOUT_MS",
  "CONNECT_TIMEOUT_MS",
  "STREAM_TOTAL_TIMEOUT_MS",
  "MAX_ATTEMPTS",
  "QUEUE_WAIT_MS",
  "LEDGER_DEADLINE_MS",
  "AUDIT_RETENTION_DAYS",
  "LOG_JOIN_MS",
  "KEY_TAG_SECRET_PREVIOUS",
  "UPSTREAM_HOSTS",
  "ISSUER_HOSTS",
  "MODEL_ALIASES",
  "ALLOWED_ORIGINS",
  "TOKEN_ISSUER",
  "TOKEN_ALG",
];
const CLIENT_SCOPES = ["messages", "conversations", "templates:read", "batches", "files"];
const HOUR_MS = 60 * 60 * 1_000;

/** What this machine keeps between starts, beside the runtime's own state. Readable by its owner alone. */
type LocalSecrets = { key_tag_secret: string; master_key: string; development_key?: string };

await untilStopped(async (started) => {
  const { env } = process;
  const port = await freePort(env.PORT ?? "", DEFAULT_PORT);
  const stateDir = stateFolder(env.STATE_DIR);
  const secrets = localSecrets(stateDir, env.KEY_TAG_SECRET);
  // At once: what is sealed from now on opens with this key alone.
  if (stateDir) saveSecrets(stateDir, secrets);
  const adminToken = env.ADMIN_TOKEN || DEVELOPMENT_ADMIN_TOKEN;
  if (env.UPSTREAM_URL && !env.ANTHROPIC_API_KEY) {
    throw new CannotStart("UPSTREAM_URL is set, but ANTHROPIC_API_KEY, the secret to use there, is not.");
  }
  build();
  let upstreamUrl = env.UPSTREAM_URL || ANTHROPIC_URL;
  let upstreamKey = env.ANTHROPIC_API_KEY;
  if (!upstreamKey) {
    const simulator = await startLocalWorker({ config: "simulator/wrangler.toml", bundle: "dist/simulator" });
    started(simulator);
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
      MASTER_KEY: env.MASTER_KEY || secrets.master_key,
      ALLOW_LOCAL_UPSTREAMS: env.ALLOW_LOCAL_UPSTREAMS || "true",
    },
    ...(stateDir ? { stateDir: join(stateDir, "state") } : {}),
  });
  started(gateway);
  const kept = secrets.development_key;
  const key = kept && (await isLive(gateway.url, adminToken, kept)) ? kept : await makeKey(gateway.url, adminToken);
  if (stateDir) saveSecrets(stateDir, { ...secrets, development_key: key });
  const upstream = env.ANTHROPIC_API_KEY ? upstreamUrl : `the simulated Claude at ${upstreamUrl} (docs/simulator.md)`;
  console.log(welcome(gateway.url, key, adminToken, upstream, stateDir));
  // The local runtime fires no cron. (Its types name a package that is not here.)
  const worker = (await gateway.miniflare.getWorker()) as unknown as { scheduled(): Promise<unknown> };
  const cron = (): void => void worker.scheduled().catch((error) => console.error(error));
  cron();
  setInterval(cron, HOUR_MS);
});

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
  let kept: Partial<LocalSecrets> = {};
  try {
    if (stateDir) kept = JSON.parse(readFileSync(join(stateDir, "secrets.json"), "utf8")) as Partial<LocalSecrets>;
  } catch {
    // The first start with this folder, or a file nobody can read: new secrets then.
  }
  const key_tag_secret = chosen || kept.key_tag_secret || randomBytes(32).toString("hex");
  const { master_key = `1:${randomBytes(32).toString("base64")}`, development_key } = kept;
  const keyIsOurs = development_key !== undefined && key_tag_secret === kept.key_tag_secret;
  return { key_tag_secret, master_key, ...(keyIsOurs ? { development_key } : {}) };
}

/** Written beside and then put in its place: half a file would be a lost master key. */
function saveSecrets(stateDir: string, secrets: LocalSecrets): void {
  const file = join(stateDir, "secrets.json");
  writeFileSync(`${file}.new`, JSON.stringify(secrets), { mode: 0o600 });
  renameSync(`${file}.new`, file);
}

/** Whether the key of an earlier start is still there: the state beside it may have been deleted, or it revoked. */
async function isLive(url: string, adminToken: string, key: string): Promise<boolean> {
  const id = `key_${key.split("-")[2]}`;
  const response = await fetch(`${url}/admin/keys/${id}`, { headers: { authorization: `Bearer ${adminToken}` } });
  const record = (await response.json()) as { revoked_at?: string | null };
  return response.ok && record.revoked_at === null;
}

async function makeKey(url: string, adminToken: string): Promise<string> {
  const response = await fetch(`${url}/admin/keys`, {
    method: "POST",
    headers: { authorization: `Bearer ${adminToken}`, "content-type": "application/json" },
    // All that a client may do; nothing of the control plane.
    body: JSON.stringify({ name: "development", scopes: CLIENT_SCOPES }),
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
  const talk =
    `ID=$(curl -s ${url}/v1/conversations -H 'x-api-key: ${key}' -H 'content-type: application/json' -d '{"model":"claude-opus-5-5"}' | grep -o 'conv_[0-9a-z]*'); ` +
    `curl -N ${url}/v1/conversations/$ID/messages -H 'x-api-key: ${key}' -H 'content-type: application/json' -d '{"content":"Hello!","stream":true}'`;
  return `
Sluice is running.

  gateway      ${url}
  console      ${url}/console/, for administrators ${url}/console/admin.html
  description  ${url}/openapi.json (docs/api.md)
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

A conversation that the gateway keeps (docs/conversations.md; a page to chat in is the console above):

  ${talk}

OpenAI clients (Cursor too, but its servers need a public https address to reach this one at):

  curl ${url}/v1/chat/completions -H 'authorization: Bearer ${key}' -H 'content-type: application/json' -d '{"model":"sluice-opus","messages":[{"role":"user","content":"Hello!"}]}'

  new OpenAI({ baseURL: "${url}/v1", apiKey: "${key}" })

Who spent what:

  curl '${url}/admin/usage?group_by=key' -H 'authorization: Bearer ${adminToken}'

Ctrl-C stops it.
`;
}
