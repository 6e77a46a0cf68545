/** The real bundle on the local runtime, for end-to-end tests: a gateway, its admin, and what it wrote to its log. */
import { type LocalWorker, startLocalWorker } from "../../scripts/local-runtime.ts";

export const ADMIN_TOKEN = "admin-token-of-the-tests";
export const UPSTREAM_KEY = "sk-ant-UPKEY-CANARY";
export const TAG_SECRET = "tag-secret-of-the-tests-0123456789";

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
  stop(): Promise<void>;
};

export type AuditRow = Record<string, string | number | boolean | null>;

export async function startGateway(
  upstreamUrl: string,
  options: { bindings?: Record<string, string>; stateDir?: string; port?: number } = {},
): Promise<Gateway> {
  let text = "";
  const worker = await startLocalWorker({
    config: "wrangler.toml",
    bundle: "dist/gateway",
    port: options.port ?? 0,
    ...(options.stateDir ? { stateDir: options.stateDir } : {}),
    bindings: {
      UPSTREAM_URL: upstreamUrl,
      ANTHROPIC_API_KEY: UPSTREAM_KEY,
      ADMIN_TOKEN,
      KEY_TAG_SECRET: TAG_SECRET,
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
    stop: () => worker.stop(),
  };
}

/** Asks until there is an answer, for ten seconds. */
export async function until<T>(ask: () => Promise<T | undefined> | T | undefined, what: string): Promise<T> {
  const end = Date.now() + 10_000;
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
