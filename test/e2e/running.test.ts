/** The gateway as it is run: `npm start` as a new user meets it, restarts, kills, and a crowd at once. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { ROOT } from "../../scripts/local-runtime.ts";
import { type Gateway, startGateway, until, withKey } from "../support/gateway.ts";
import { type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const run = promisify(execFile);
const folder = mkdtempSync(join(tmpdir(), "sluice-test-"));
const children: ChildProcess[] = [];

afterEach(async () => {
  for (const child of children.splice(0)) await end(child, "SIGKILL");
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Started = { readonly child: ChildProcess; readonly text: string; readonly code: number | null };

/** Runs `npm start` until it says that it runs, or ends. */
function npmStart(env: Record<string, string>): Promise<Started> {
  return new Promise((resolve) => {
    const child = spawn("npm", ["start", "--silent"], {
      cwd: ROOT,
      env: { ...process.env, PORT: "0", ...env },
      detached: true,
    });
    children.push(child);
    let text = "";
    const look = (piece: Buffer) => {
      text += piece;
      if (text.includes("Ctrl-C stops it.")) resolve({ child, text, code: null });
    };
    child.stdout?.on("data", look);
    child.stderr?.on("data", look);
    child.on("exit", (code) => resolve({ child, text, code }));
  });
}

/** Sends a signal to the whole group, as a terminal does, and waits until nobody of it is left. */
async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  const group = -(child.pid ?? 0);
  const send = (what: NodeJS.Signals | 0): boolean => {
    try {
      return process.kill(group, what);
    } catch {
      return false;
    }
  };
  send(signal);
  await until(() => !send(0) || undefined, "the processes to end");
}

const field = (text: string, name: string): string => new RegExp(`^  ${name} +(\\S+)`, "m").exec(text)?.[1] ?? "";

describe("npm start", () => {
  it("prints lines that work when pasted, keeps its state, and leaves no process behind", async () => {
    const stateDir = join(folder, "state");
    const first = await npmStart({ STATE_DIR: stateDir });
    expect(first.text).toContain("Sluice is running.");
    const lines = first.text.split("\n").filter((line) => line.startsWith("  curl "));
    expect(lines).toHaveLength(4);
    const [plain, streaming, openAI, usage] = await Promise.all(lines.map((line) => run("bash", ["-c", line.trim()])));
    expect(JSON.parse(plain?.stdout ?? "")).toMatchObject({ type: "message", role: "assistant" });
    expect(streaming?.stdout).toMatch(
      /^event: message_start\n[\s\S]*event: message_stop\ndata: \{"type":"message_stop"\}\n\n$/,
    );
    expect(JSON.parse(openAI?.stdout ?? "")).toMatchObject({ object: "chat.completion", model: "claude-opus-5-5" });
    expect(JSON.parse(usage?.stdout ?? "")).toHaveProperty("data");
    const talk = first.text.split("\n").find((line) => line.startsWith("  ID=$(curl "));
    expect((await run("bash", ["-c", talk?.trim() ?? ""])).stdout).toMatch(
      /^id: 1\nevent: turn\.started\n[\s\S]*\nevent: turn\.completed\ndata: [^\n]*\n\n$/,
    );
    expect(first.text).toContain(`export ANTHROPIC_BASE_URL=${field(first.text, "gateway")}`);
    expect(first.text).toContain(`export ANTHROPIC_AUTH_TOKEN=${field(first.text, "key")}`);
    // The rows reach D1 within seconds, so that the next start finds them.
    const admin = { authorization: `Bearer ${field(first.text, "admin token")}` };
    const rows = async (url: string) => {
      const response = await fetch(`${url}/admin/audit`, { headers: admin });
      return ((await response.json()) as { data: unknown[] }).data.length;
    };
    await until(async () => (await rows(field(first.text, "gateway"))) === 6 || undefined, "six audit rows");
    await end(first.child, "SIGINT");

    const second = await npmStart({ STATE_DIR: stateDir });
    expect(field(second.text, "key")).toBe(field(first.text, "key"));
    expect(await rows(field(second.text, "gateway"))).toBe(6);
    const again = second.text.split("\n").find((line) => line.startsWith("  curl "));
    expect((await run("bash", ["-c", again?.trim() ?? ""])).stdout).toContain('"type":"message"');
    // Killed before the alarm: what was settled is still there for the next start.
    await new Promise((done) => setTimeout(done, 300));
    await end(second.child, "SIGKILL");

    const third = await npmStart({ STATE_DIR: stateDir });
    await until(async () => (await rows(field(third.text, "gateway"))) === 7 || undefined, "seven audit rows");
    await end(third.child, "SIGTERM");
    // Three starts, each of which builds.
  }, 120_000);

  it("says in one plain sentence why it can't start", async () => {
    const taken = createServer();
    const port = await new Promise<number>((resolve) => {
      taken.listen(0, "127.0.0.1", () => resolve((taken.address() as { port: number }).port));
    });
    writeFileSync(join(folder, "a-file"), "");
    const cases: [Record<string, string>, RegExp][] = [
      [{ PORT: String(port) }, /^Port \d+ is in use: .*\.$/],
      [{ PORT: "eighty" }, /^PORT is "eighty", which is not a port number\.$/],
      [{ STATE_DIR: join(folder, "a-file") }, /^STATE_DIR .*a-file cannot be written to: .*\.$/],
      [{ UPSTREAM_URL: "http://127.0.0.1:1" }, /^UPSTREAM_URL is set, but ANTHROPIC_API_KEY, .* is not\.$/],
      [{ KEY_TAG_SECRET: "short" }, /KEY_TAG_SECRET is shorter than 16 characters\.$/],
    ];
    for (const [env, sentence] of cases) {
      const { code, text } = await npmStart({ STATE_DIR: ":memory:", ...env });
      expect([env, code]).toEqual([env, 1]);
      expect(text.trim().split("\n").at(-1)).toMatch(sentence);
      expect(text).not.toMatch(/^\s+at /m);
    }
    await new Promise((done) => taken.close(done));
  });
});

describe("a crowd", () => {
  let upstream: ScriptedUpstream;
  let gateway: Gateway;
  beforeAll(async () => {
    upstream = await startScriptedUpstream();
    upstream.script = (response) =>
      void response
        .setHeader("content-type", "application/json")
        .end('{"type":"message","model":"claude-opus-5-5","usage":{"input_tokens":1,"output_tokens":1}}');
    gateway = await startGateway(upstream.url);
  });
  afterAll(async () => {
    await gateway?.stop();
    await upstream?.stop();
  });

  const ask = (key: Parameters<typeof withKey>[0]) =>
    fetch(`${gateway.url}/v1/messages`, {
      method: "POST",
      headers: withKey(key),
      body: '{"model":"claude-opus-5-5","max_tokens":5}',
    });

  it("of two hundred on a bucket of sixty: sixty pass, the others are told when to come back, each is audited once", async () => {
    const key = await gateway.makeKey({ limits: { requests_per_minute: 60 } });
    const started = Date.now();
    const responses = await Promise.all(Array.from({ length: 200 }, () => ask(key)));
    const refilled = Math.ceil((Date.now() - started) / 1000);
    const passed = responses.filter((response) => response.status === 200).length;
    expect(passed).toBeGreaterThanOrEqual(60);
    expect(passed).toBeLessThanOrEqual(60 + refilled);
    expect(upstream.received).toHaveLength(passed);
    for (const response of responses.filter((one) => one.status !== 200)) {
      expect(response.status).toBe(429);
      expect(Number(response.headers.get("retry-after"))).toBeGreaterThanOrEqual(1);
      expect(response.headers.get("anthropic-ratelimit-requests-limit")).toBe("60");
    }
    const rows = await gateway.audit(key, 200);
    expect(rows).toHaveLength(200);
    expect(new Set(rows.map((row) => row.request_id)).size).toBe(200);
    expect(rows.filter((row) => row.status === 200)).toHaveLength(passed);
  });

  it("with D1 gone for a while: no request fails, and no row is lost or doubled", async () => {
    const key = await gateway.makeKey();
    expect((await ask(key)).status).toBe(200);
    const db = await gateway.worker.miniflare.getD1Database("DB");
    await db.prepare("ALTER TABLE audit RENAME TO audit_away").run();
    for (let i = 0; i < 5; i++) {
      const responses = await Promise.all(Array.from({ length: 20 }, () => ask(key)));
      expect(responses.every((response) => response.status === 200)).toBe(true);
      await new Promise((done) => setTimeout(done, 300));
    }
    expect((await gateway.admin("audit")).status).toBe(503);
    await db.prepare("ALTER TABLE audit_away RENAME TO audit").run();
    const rows = await gateway.audit(key, 101);
    expect(rows).toHaveLength(101);
  });

  it("health tells what is up and what is down", async () => {
    const well = await fetch(`${gateway.url}/health`);
    expect(well.status).toBe(200);
    expect(await well.json()).toMatchObject({
      status: "ok",
      version: expect.any(String),
      checks: { d1: "up", kv: "up", durable_objects: "up", upstream: "up" },
    });
    const lonely = await startGateway("http://127.0.0.1:9");
    const ill = await fetch(`${lonely.url}/health`);
    expect(ill.status).toBe(503);
    expect(await ill.json()).toMatchObject({ status: "degraded", checks: { d1: "up", upstream: "down" } });
    const key = await lonely.makeKey();
    const call = await fetch(`${lonely.url}/v1/messages`, {
      method: "POST",
      headers: withKey(key),
      body: '{"model":"m","max_tokens":1}',
    });
    expect(call.status).toBe(502);
    await lonely.stop();
  });

  it("a missing secret is a 503 that names it", async () => {
    const bare = await startGateway(upstream.url, { bindings: { ADMIN_TOKEN: "" } });
    const response = await fetch(`${bare.url}/v1/models`);
    expect(response.status).toBe(503);
    expect(await response.json()).toMatchObject({
      type: "error",
      error: { message: "The secret ADMIN_TOKEN is not set." },
    });
    await bare.stop();
  });
});
