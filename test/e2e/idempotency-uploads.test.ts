/** `Idempotency-Key` for uploads: sent once, known again by what they carry and not by their bytes. */
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Anthropic, { toFile } from "@anthropic-ai/sdk";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type Gateway, type Key, startGateway, until } from "../support/gateway.ts";
import { pause, type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const bindings = { LEDGER_DEADLINE_MS: "5000" };
const MB = 1024 * 1024;

let upstream: ScriptedUpstream;
let gateway: Gateway;
let made = 0;
let workspaces = 0;
let gate: Promise<void>;
const folder = mkdtempSync(join(tmpdir(), "sluice-idempotency-uploads-"));

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url, { bindings });
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
  rmSync(folder, { recursive: true, force: true });
});
beforeEach(() => {
  upstream.received.length = 0;
  gate = Promise.resolve();
  upstream.script = async (response, { target }) => {
    await gate;
    response.setHeader("content-type", "application/json");
    const id = /obj_\d+/.exec(target)?.[0] ?? `obj_${++made}`;
    response.end(JSON.stringify({ id, type: "file", filename: "a.txt", told: made }));
  };
});

const makeKey = (at = gateway): Promise<Key> =>
  at.makeKey({ workspace: `w_${++workspaces}`, scopes: ["files"], limits: { concurrent_requests: 40 } });

const content = (size: number, seed = 7): Buffer =>
  Buffer.from(Array.from({ length: size }, (_, i) => (i * seed + (i >> 8)) % 251));

type Called = { status: number; replayed: boolean; text: string; id: string };

/** Each call has a boundary of its own, as those of SDKs and browsers have. */
async function upload(
  key: Key,
  idempotencyKey: string,
  file: Buffer,
  { name = "a.txt", at = gateway, path = "/v1/files" } = {},
): Promise<Called> {
  const form = new FormData();
  form.append("file", new Blob([new Uint8Array(file)], { type: "text/plain" }), name);
  const headers = { "x-api-key": key.key, "idempotency-key": idempotencyKey };
  const encoded = new Response(form);
  const type = { "content-type": encoded.headers.get("content-type") ?? "" };
  // In one piece, so that it has been sent when a refusal comes that does not wait for it.
  const body = await encoded.arrayBuffer();
  const response = await fetch(`${at.url}${path}`, { method: "POST", headers: { ...headers, ...type }, body });
  const text = await response.text();
  const { id = "" } = JSON.parse(text) as { id?: string };
  return { status: response.status, replayed: response.headers.get("idempotent-replayed") === "true", text, id };
}

async function idsOf(key: Key, at = gateway): Promise<(string | null)[]> {
  const db = await at.worker.miniflare.getD1Database("DB");
  const found = db.prepare("SELECT id FROM files WHERE key_id = ? ORDER BY seq").bind(key.id);
  return (await found.all<{ id: string | null }>()).results.map((row: { id: string | null }) => row.id);
}

const header = (n: number, name: string): string | undefined =>
  upstream.received[n]?.headers.find(([one]) => one === name)?.[1];

it("I-01 the same file again, with another boundary, is the first one's answer; it passed untouched, with its length", async () => {
  const key = await makeKey();
  const file = content(3 * MB);
  const first = await upload(key, "again", file);
  expect([first.status, first.replayed]).toEqual([200, false]);
  const [sent] = upstream.received;
  expect(header(0, "content-length")).toBe(String(sent?.body.length));
  expect(header(0, "transfer-encoding")).toBeUndefined();
  const start = sent?.body.indexOf("\r\n\r\n") ?? 0;
  const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
  expect(sha256(sent?.body.subarray(start + 4, start + 4 + file.length) ?? file.subarray(1))).toBe(sha256(file));
  expect(await upload(key, "again", file)).toEqual({ ...first, replayed: true });
  expect(upstream.received).toHaveLength(1);
  expect(await idsOf(key)).toEqual([first.id]);
  const read = await fetch(`${gateway.url}/v1/files/${first.id}`, { headers: { "x-api-key": key.key } });
  expect(read.status).toBe(200);
});

it("I-02 racing uploads: one is sent, one row, the same bytes for all", async () => {
  let open = (): void => {};
  gate = new Promise((done) => {
    open = done;
  });
  const key = await makeKey();
  const file = content(MB);
  const calls = Array.from({ length: 6 }, () => upload(key, "race", file));
  await until(() => upstream.received.length > 0 || undefined, "the upload");
  await pause(200);
  open();
  const told = await Promise.all(calls);
  expect(new Set(told.map(({ status, text }) => `${status} ${text}`)).size).toBe(1);
  expect(told[0]?.status).toBe(200);
  expect(told.filter(({ replayed }) => replayed)).toHaveLength(5);
  expect(upstream.received).toHaveLength(1);
  expect(await idsOf(key)).toEqual([told[0]?.id]);
});

it("I-03 other bytes, another name or another path are a 422, while the first one runs too; another key is its own", async () => {
  let open = (): void => {};
  gate = new Promise((done) => {
    open = done;
  });
  const key = await makeKey();
  const file = content(100_000);
  const first = upload(key, "shared", file);
  await until(() => upstream.received.length > 0 || undefined, "the upload");
  const other = await upload(key, "shared", content(100_000, 11));
  expect([other.status, other.text]).toEqual([422, expect.stringContaining("Idempotency-Key")]);
  open();
  expect((await first).status).toBe(200);
  expect((await upload(key, "shared", file, { name: "b.txt" })).status).toBe(422);
  expect((await upload(key, "shared", file.subarray(1))).status).toBe(422);
  const small = content(10);
  await upload(key, "small", small);
  expect((await upload(key, "small", small, { path: "/v1/files?beta=true" })).status).toBe(422);
  expect(upstream.received).toHaveLength(2);
  expect(await upload(await makeKey(), "shared", file)).toMatchObject({ status: 200, replayed: false });
  expect(upstream.received).toHaveLength(3);
});

describe("what came to nothing runs anew", () => {
  it("I-04 refused before it was read, failed, or not to be registered", async () => {
    const key = await makeKey();
    const file = content(MB);
    const usual = upstream.script;
    upstream.script = (response) => {
      response.writeHead(500, { "content-type": "application/json" });
      response.end('{"type":"error","error":{"type":"api_error","message":"no"}}');
    };
    expect((await upload(key, "failed", file)).status).toBe(500);
    upstream.script = usual;
    expect(await upload(key, "failed", file)).toMatchObject({ status: 200, replayed: false });
    const db = await gateway.worker.miniflare.getD1Database("DB");
    await db.prepare("CREATE TRIGGER refuse BEFORE UPDATE ON files BEGIN SELECT RAISE(ABORT, 'away'); END").run();
    try {
      const away = await upload(key, "away", file);
      expect([away.status, away.text]).toEqual([503, expect.stringContaining("deleted")]);
    } finally {
      await db.prepare("DROP TRIGGER refuse").run();
    }
    expect(upstream.received.at(-1)).toMatchObject({ method: "DELETE", target: `/v1/files/obj_${made}` });
    expect(await upload(key, "away", file)).toMatchObject({ status: 200, replayed: false });
    await db.prepare("CREATE TRIGGER refuse BEFORE INSERT ON files BEGIN SELECT RAISE(ABORT, 'away'); END").run();
    try {
      expect((await upload(key, "early", file)).status).toBe(503);
    } finally {
      await db.prepare("DROP TRIGGER refuse").run();
    }
    expect(await upload(key, "early", file)).toMatchObject({ status: 200, replayed: false });
  });

  it("a client that leaves in mid-upload: nothing is made of the half, and the next one is sent", async () => {
    const key = await makeKey();
    const file = content(2 * MB);
    const socket = connect(gateway.port, "127.0.0.1");
    socket.on("error", () => {});
    socket.write(
      `POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1:${gateway.port}\r\nx-api-key: ${key.key}\r\nidempotency-key: half\r\n` +
        `content-type: multipart/form-data; boundary=b\r\ncontent-length: ${file.length + 100}\r\n\r\n` +
        '--b\r\ncontent-disposition: form-data; name="file"; filename="a.txt"\r\n\r\n',
    );
    socket.write(file.subarray(0, MB));
    await until(async () => (await idsOf(key)).length > 0 || undefined, "the file to be announced");
    await pause(100);
    socket.destroy();
    const next = await until(async () => {
      const answer = await upload(key, "half", file);
      return answer.status === 200 ? answer : undefined;
    }, "the key to be free");
    expect(next.replayed).toBe(false);
    expect(upstream.received).toHaveLength(1);
    expect((await idsOf(key)).filter((id) => id !== null)).toEqual([next.id]);
  });
});

it("I-05 one that does not tell its length, or its boundary, is a 400 that says so", async () => {
  const key = await makeKey();
  const headers = { "x-api-key": key.key, "idempotency-key": "odd" };
  const untold = await fetch(`${gateway.url}/v1/files`, {
    method: "POST",
    headers: { ...headers, "content-type": "multipart/form-data; boundary=b" },
    body: new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode("--b--\r\n"));
        controller.close();
      },
    }),
    duplex: "half",
  } as RequestInit);
  expect([untold.status, await untold.text()]).toEqual([400, expect.stringContaining("content-length")]);
  const unnamed = await fetch(`${gateway.url}/v1/files`, {
    method: "POST",
    headers: { ...headers, "content-type": "multipart/form-data" },
    body: "--b--\r\n",
  });
  expect(unnamed.status).toBe(400);
  expect(upstream.received).toHaveLength(0);
});

it("kill -9: a kept one is kept, and still known by what it carried", async () => {
  const stateDir = join(folder, "killed");
  let own = await startGateway(upstream.url, { bindings, stateDir });
  const key = await makeKey(own);
  const file = content(50_000);
  const first = await upload(key, "kept", file, { at: own });
  await own.kill();
  own = await startGateway(upstream.url, { bindings, stateDir });
  try {
    expect(await upload(key, "kept", file, { at: own })).toEqual({ ...first, replayed: true });
    expect((await upload(key, "kept", content(50_000, 11), { at: own })).status).toBe(422);
    expect(upstream.received).toHaveLength(1);
    expect(await idsOf(key, own)).toEqual([first.id]);
  } finally {
    await own.stop();
  }
}, 60_000);

it("the official SDK, which makes up a boundary each time", async () => {
  const key = await makeKey();
  const client = new Anthropic({ apiKey: key.key, baseURL: gateway.url, maxRetries: 0 });
  const send = async (): Promise<string> =>
    (
      await client.files.upload(
        { file: await toFile(content(300_000), "ünï.pdf", { type: "application/pdf" }) },
        { headers: { "Idempotency-Key": "from the SDK" } },
      )
    ).id;
  expect(await send()).toBe(await send());
  expect(upstream.received).toHaveLength(1);
});

it("a large one passes, and is known again", async () => {
  const key = await makeKey();
  const head = '--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n';
  const tail = "\r\n--b--\r\n";
  const size = 160 * MB;
  const piece = content(64 * 1024);
  const send = async (): Promise<string> => {
    const socket = connect(gateway.port, "127.0.0.1");
    let answer = "";
    socket.on("data", (data) => {
      answer += data.toString();
    });
    socket.write(
      `POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1:${gateway.port}\r\nx-api-key: ${key.key}\r\nidempotency-key: large\r\n` +
        `content-type: multipart/form-data; boundary=b\r\ncontent-length: ${head.length + size + tail.length}\r\n` +
        `connection: close\r\n\r\n${head}`,
    );
    for (let sent = 0; sent < size; sent += piece.length) {
      if (!socket.write(piece)) await new Promise((done) => socket.once("drain", done));
    }
    socket.write(tail);
    await new Promise((done) => socket.on("close", done));
    return answer;
  };
  const first = await send();
  const second = await send();
  expect(first).toMatch(/^HTTP\/1\.1 200/);
  expect(second).toMatch(/idempotent-replayed: true/i);
  expect(upstream.received).toHaveLength(1);
  expect(upstream.received[0]?.body.length).toBe(head.length + size + tail.length);
}, 60_000);
