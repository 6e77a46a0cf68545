/** Several isolates of the gateway in one: modules of their own each, before the same ledgers and the same database. */
import { createExecutionContext, createScheduledController } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { expect, vi } from "vitest";
import type { app } from "../../src/app.ts";
import type gateway from "../../src/index.ts";

/** A path of each module that the first call loads, as far as the tests of isolates come by one. */
const LOADED_LATER = ["/admin/keys", "/v1/token", "/v1/chat/completions"];

type Asked = {
  readonly as?: string | null;
  readonly method?: string;
  /** Sent as JSON, by POST unless said otherwise. */
  readonly json?: unknown;
};

export class Isolate {
  settings: Readonly<Record<string, string>> = {};
  readonly #app: typeof app;
  readonly #worker: typeof gateway;

  constructor(own: typeof app, worker: typeof gateway) {
    this.#app = own;
    this.#worker = worker;
  }

  async ask(path: string, { as = null, json, method = json === undefined ? "GET" : "POST" }: Asked = {}) {
    const headers = {
      ...(as === null ? {} : { authorization: `Bearer ${as}` }),
      ...(json === undefined ? {} : { "content-type": "application/json" }),
    };
    const body = json === undefined ? {} : { body: JSON.stringify(json) };
    const request = new Request(`https://gw.test${path}`, { method, headers, ...body });
    return this.#app.fetch(request, { ...env, ...this.settings }, createExecutionContext());
  }

  cron(): Promise<void> {
    return this.#worker.scheduled(createScheduledController(), { ...env, ...this.settings } as Env);
  }
}

export async function startIsolates(count: number): Promise<readonly Isolate[]> {
  const apps: (typeof app)[] = [];
  const started: Isolate[] = [];
  for (let i = 0; i < count; i++) {
    vi.resetModules();
    const [{ app: own }, { default: worker }] = await Promise.all([
      import("../../src/app.ts"),
      import("../../src/index.ts"),
    ]);
    apps.push(own);
    const isolate = new Isolate(own, worker);
    // Now, or it would load those of the last one.
    for (const path of LOADED_LATER) expect(await isolate.ask(path, { method: "POST" })).toMatchObject({ status: 401 });
    started.push(isolate);
  }
  expect(new Set(apps).size).toBe(count);
  return started;
}
