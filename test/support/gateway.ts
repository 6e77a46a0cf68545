/** The real bundle on the local runtime, for end-to-end tests: a gateway, its admin, and what it wrote to its log. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type LocalWorker, startLocalWorker } from "../../scripts/local-runtime.ts";

export const ADMIN_TOKEN = "admin-token-of-the-tests";
export const UPSTREAM_KEY = "sk-ant-UPKEY-CANARY";
export const TAG_SECRET = "tag-secret-of-the-tests-0123456789";
export const MASTER_KEY = "1:bWFzdGVyLWtleS1vZi10aGUtdGVzdHMtMDEyMzQ1Njc=";

export type Key = { readonly id: string; readonly key: string };

export type Gateway = {
  readonly url: string;
  readonly port: number;
  readonly worker: LocalWorker;
  /** Everything the gateway has logged so far. */
  log(): string;
  /** A new key; `fields` as POST /admin/keys takes them. */
  makeKey(fields?: Record<string, unknown>): Promise<Key>;
  admin(path: string, init?: RequestInit & { json?: unknown }): Promise<Response>;
  /** The audit rows of a key, oldest first, once there are as many as expected. */
  audit(key: Key, count: number): Promise<AuditRow[]>;
  /** All audit rows of a key's calls on a route, oldest first, once there are as many as expected. */
  rows(key: Key, count: number, route?: string): Promise<AuditRow[]>;
  /** The sums of a key's calls, of a workspace's, or whatever the query asks for. */
  usage(query: string): Promise<AuditRow>;
  /** `GET /v1/key`. */
  standing(key: Key): Promise<Standing>;
  /** The same, once nothing is reserved and nothing runs any more. */
  settled(key: Key): Promise<Standing>;
  /** Kills the runtime as `kill -9` does, and nothing else. */
  kill(): Promise<void>;
  stop(): Promise<void>;
};

/** As much of `GET /v1/key` as the tests read. */
export type Standing = StandingOf & { readonly shared: StandingOf | null };
type StandingOf = {
  readonly left: {
    readonly requests: { readonly remaining: number } | null;
    readonly input_tokens: { readonly remaining: number } | null;
    readonly output_tokens: { readonly remaining: number } | null;
    readonly concurrent_requests: { readonly running: number; readonly remaining: number } | null;
  };
  readonly budget: {
    readonly limit_micro_usd: number;
    readonly spent_micro_usd: number;
    readonly reserved_micro_usd: number;
    readonly remaining_micro_usd: number;
  } | null;
};

export type AuditRow = Record<string, string | number | boolean | null>;

export async function startGateway(
  upstreamUrl: string,
  options: { bindings?: Record<string, string>; stateDir?: string; port?: number; bundle?: string } & Pick<
    Parameters<typeof startLocalWorker>[0],
    "registry" | "name" | "objectsIn"
  > = {},
): Promise<Gateway> {
  let text = "";
  const before = new Set(runtimes());
  const worker = await startLocalWorker({
    config: "wrangler.toml",
    bundle: options.bundle ?? "dist/gateway",
    port: options.port ?? 0,
    ...(options.stateDir ? { stateDir: options.stateDir } : {}),
    ...(options.registry ? { registry: options.registry } : {}),
    ...(options.name ? { name: options.name } : {}),
    ...(options.objectsIn ? { objectsIn: options.objectsIn } : {}),
    bindings: {
      UPSTREAM_URL: upstreamUrl,
      ANTHROPIC_API_KEY: UPSTREAM_KEY,
      ADMIN_TOKEN,
      KEY_TAG_SECRET: TAG_SECRET,
      MASTER_KEY,
      ALLOW_LOCAL_UPSTREAMS: "true",
      ...options.bindings,
    },
    onLog: (piece) => {
      text += piece;
    },
  });
  const admin: Gateway["admin"] = (path, { json, ...init } = {}) =>
    fetch(`${worker.url}/admin/${path}`, {
      ...init,
      headers: { authorization: `Bearer ${ADMIN_TOKEN}`, "content-type": "application/json", ...init.headers },
      ...(json === undefined ? {} : { method: init.method ?? "POST", body: JSON.stringify(json) }),
    });
  const pids = runtimes().filter((pid) => !before.has(pid));
  const standing: Gateway["standing"] = async (key) => {
    const response = await fetch(`${worker.url}/v1/key`, { headers: withKey(key) });
    if (response.status !== 200) throw new Error(`no standing: ${await response.text()}`);
    return (await response.json()) as Standing;
  };
  return {
    url: worker.url,
    port: worker.port,
    worker,
    log: () => text,
    admin,
    async makeKey(fields = {}) {
      const response = await admin("keys", { json: { name: "test", ...fields } });
      if (response.status !== 201) throw new Error(`no key: ${await response.text()}`);
      return (await response.json()) as Key;
    },
    async audit(key, count) {
      return until(async () => {
        const response = await admin(`audit?key=${key.id}&limit=500`);
        const { data } = (await response.json()) as { data: AuditRow[] };
        return data.length >= count ? data.reverse() : undefined;
      }, `${count} audit rows`);
    },
    async rows(key, count, route = "/v1/messages") {
      return until(async () => {
        const response = await admin(`audit.ndjson?key=${key.id}&route=${route}`);
        const lines = (await response.text()).split("\n").filter((line) => line !== "");
        return lines.length >= count ? lines.map((line) => JSON.parse(line) as AuditRow).reverse() : undefined;
      }, `${count} audit rows`);
    },
    async usage(query) {
      const response = await admin(`usage?${query}`);
      const { data } = (await response.json()) as { data: AuditRow[] };
      return data[0] ?? {};
    },
    standing,
    settled: (key) =>
      until(async () => {
        const now = await standing(key);
        const quiet = [now, now.shared].every(
          (one) => !one?.budget?.reserved_micro_usd && !one?.left.concurrent_requests?.running,
        );
        return quiet ? now : undefined;
      }, "nothing to be reserved"),
    async kill() {
      for (const pid of pids) process.kill(pid, "SIGKILL");
      await until(() => !runtimes().some((pid) => pids.includes(pid)) || undefined, "the runtime to be gone");
      await worker.stop();
    },
    stop: () => worker.stop(),
  };
}

export type Fleet = {
  /** The first one has the ledgers and the database; the others are runtimes of their own, and ask it. */
  readonly gateways: readonly [Gateway, ...Gateway[]];
  stop(): Promise<void>;
};

/** Several runtimes, each a process with an isolate of its own, before the same ledgers. */
export async function startFleet(
  upstreamUrl: string,
  size: number,
  options: { bindings?: Record<string, string>; stateDir?: string } = {},
): Promise<Fleet> {
  const registry = mkdtempSync(join(tmpdir(), "sluice-registry-"));
  const first = await startGateway(upstreamUrl, { ...options, registry, name: "sluice" });
  const others: Gateway[] = [];
  for (let n = 2; n <= size; n++) {
    const { bindings } = options;
    const own = { registry, name: `sluice-${n}`, objectsIn: "sluice", ...(bindings ? { bindings } : {}) };
    others.push(await startGateway(upstreamUrl, own));
  }
  return {
    gateways: [first, ...others],
    async stop() {
      await Promise.allSettled([...others, first].map((gateway) => gateway.stop()));
      rmSync(registry, { recursive: true, force: true });
    },
  };
}

/** The runtimes that this process has started. */
function runtimes(): number[] {
  return readdirSync("/proc").flatMap((pid) => {
    if (!/^\d+$/.test(pid)) return [];
    try {
      const status = readFileSync(`/proc/${pid}/status`, "latin1");
      const live = status.startsWith("Name:\tworkerd\n") && !/^State:\s+Z/m.test(status);
      return live && status.includes(`\nPPid:\t${process.pid}\n`) ? [Number(pid)] : [];
    } catch {
      // It ended between the listing and the look.
      return [];
    }
  });
}

/** Asks until there is an answer, for ten seconds unless told otherwise. */
export async function until<T>(
  ask: () => Promise<T | undefined> | T | undefined,
  what: string,
  limitMs = 10_000,
): Promise<T> {
  const end = Date.now() + limitMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) return answer;
    if (Date.now() > end) throw new Error(`waited in vain for ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** Headers of an ordinary Messages call. */
export function withKey(key: Key, extra: Record<string, string> = {}): Record<string, string> {
  return { "x-api-key": key.key, "anthropic-version": "2023-06-01", "content-type": "application/json", ...extra };
}
