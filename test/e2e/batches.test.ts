/** Batches and files through the gateway, with real SDKs, new and old: each workspace sees its own. */
import { createHash } from "node:crypto";
import { connect } from "node:net";
import Anthropic, { toFile } from "@anthropic-ai/sdk";
import Anthropic0 from "anthropic-sdk-0";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type LocalWorker, startLocalWorker } from "../../scripts/local-runtime.ts";
import { type Gateway, type Key, startGateway, UPSTREAM_KEY, until, withKey } from "../support/gateway.ts";
import { type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const MODEL = "claude-haiku-5-5";
const SCOPES = ["messages", "batches", "files"];
const FAULTS = { "anthropic-sim-fault": "batch_ms=1;downloadable=1" };

let simulator: LocalWorker;
let gateway: Gateway;
let workspaces = 0;

beforeAll(async () => {
  simulator = await startLocalWorker({ config: "simulator/wrangler.toml", bundle: "dist/simulator" });
  gateway = await startGateway(simulator.url);
});
afterAll(async () => {
  await gateway?.stop();
  await simulator?.stop();
});

const newWorkspace = (): string => `w_${++workspaces}`;
const makeKey = (workspace: string, fields: Record<string, unknown> = {}, of = gateway): Promise<Key> =>
  of.makeKey({ workspace, scopes: SCOPES, ...fields });
const options = (key: Key) => ({
  baseURL: gateway.url,
  apiKey: key.key,
  maxRetries: 0,
  defaultHeaders: FAULTS,
});
const request = (text: string, id: string, model = MODEL) => ({
  custom_id: id,
  params: { model, max_tokens: 50, messages: [{ role: "user" as const, content: text }] },
});

/** One SDK's types stand for both. */
const sdks = {
  "1.11.0": (key: Key) => {
    const client = new Anthropic(options(key));
    return { batches: client.messages.batches, files: client.files };
  },
  "0.137.0": (key: Key) => {
    const { beta } = new Anthropic0(options(key)) as unknown as Anthropic;
    return { batches: beta.messages.batches as unknown as Anthropic["messages"]["batches"], files: beta.files };
  },
};

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

describe.each(Object.entries(sdks))("SDK %s", (_, sdk) => {
  it("makes a batch, reads its results at the gateway, and pays for each request once", async () => {
    const workspace = newWorkspace();
    const key = await makeKey(workspace, { budget: { usd: 1, period: "day" } });
    const { batches } = sdk(key);
    const batch = await batches.create({ requests: [request("say: one", "a"), request("say: two", "b")] });
    expect(batch).toMatchObject({ type: "message_batch", processing_status: "in_progress" });
    const ended = await until(async () => {
      const now = await batches.retrieve(batch.id);
      return now.processing_status === "ended" ? now : undefined;
    }, "the batch to end");
    expect(ended.results_url).toBe(`${gateway.url}/v1/messages/batches/${batch.id}/results`);
    const usage = async () => gateway.usage(`workspace=${workspace}&group_by=workspace`);
    for (let times = 0; times < 3; times++) {
      const results = await collect(await batches.results(batch.id));
      expect(results.map(({ custom_id, result }) => [custom_id, result.type]).sort()).toEqual([
        ["a", "succeeded"],
        ["b", "succeeded"],
      ]);
      const tokens = results.reduce(
        (sum, { result }) => sum + (result.type === "succeeded" ? result.message.usage.output_tokens : 0),
        0,
      );
      await until(async () => (await usage()).output_tokens === tokens, "the results to be booked");
    }
    const { cost_micro_usd: cost } = await usage();
    expect(cost).toBeGreaterThan(0);
    expect((await gateway.settled(key)).budget?.spent_micro_usd).toBe(cost);
    const rows = await gateway.rows(key, 4, "/v1/messages/batches/:id/results");
    expect(rows.filter(({ requests }) => requests === 1)).toHaveLength(3);
    expect(rows.filter(({ requests }) => requests === 0)).toMatchObject([{ model: MODEL, upstream: "up_default" }]);
    expect(await batches.delete(batch.id)).toEqual({ id: batch.id, type: "message_batch_deleted" });
    await expect(batches.retrieve(batch.id)).rejects.toMatchObject({ status: 404 });
  });

  it("asked for results too early, says so, and has lost nothing by it", async () => {
    const { batches } = sdk(await makeKey(newWorkspace()));
    const slow = { headers: { "anthropic-sim-fault": "batch_ms=60000" } };
    const batch = await batches.create({ requests: [request("hi", "a")] }, slow);
    const early = await fetch(`${gateway.url}/v1/messages/batches/${batch.id}/results`, {
      headers: withKey(await makeKey(`w_${workspaces}`)),
    });
    expect([early.status, await early.text()]).toEqual([404, expect.stringContaining("before it has ended")]);
    expect(await batches.retrieve(batch.id)).toMatchObject({ id: batch.id });
    expect(await batches.cancel(batch.id)).toMatchObject({ processing_status: "canceling" });
  });

  it("uploads a file, uses it in a message, downloads and deletes it", async () => {
    const key = await makeKey(newWorkspace());
    const { files } = sdk(key);
    const bytes = Buffer.from(Array.from({ length: 300_000 }, (__, i) => (i * 7) % 251));
    const file = await files.upload({ file: await toFile(bytes, "ünï.pdf", { type: "application/pdf" }) });
    expect(file).toMatchObject({ size_bytes: bytes.length, filename: "ünï.pdf" });
    expect(await files.retrieveMetadata(file.id)).toMatchObject({ id: file.id });
    const download = await files.download(file.id);
    expect(download.headers.get("content-length")).toBe(String(bytes.length));
    expect(Buffer.from(await download.arrayBuffer()).equals(bytes)).toBe(true);
    const document = (id: string) => ({ type: "document", source: { type: "file", file_id: id } });
    const message = await fetch(`${gateway.url}/v1/messages`, {
      method: "POST",
      headers: withKey(key, { "anthropic-version": "2026-10-21" }),
      body: JSON.stringify({
        ...request("hi", "x").params,
        messages: [{ role: "user", content: [document(file.id)] }],
      }),
    });
    expect([message.status, await message.text()]).toMatchObject([200, expect.stringContaining('"message"')]);
    expect(await files.delete(file.id)).toMatchObject({ id: file.id, type: "file_deleted" });
    await expect(files.download(file.id)).rejects.toMatchObject({ status: 404 });
  });

  it("X-04 walks through all of its workspace's, each once, while others come and go", async () => {
    const workspace = newWorkspace();
    const { batches, files } = sdk(await makeKey(workspace));
    const other = sdk(await makeKey(newWorkspace()));
    const upload = async (client: typeof files, name: string) =>
      (await client.upload({ file: await toFile(Buffer.from(name), name, { type: "text/plain" }) })).id;
    const create = async (client: typeof batches) => (await client.create({ requests: [request("hi", "a")] })).id;
    const ids = { batches: [] as string[], files: [] as string[] };
    for (let n = 0; n < 7; n++) {
      ids.batches.push(await create(batches));
      await create(other.batches);
      ids.files.push(await upload(files, `f${n}`));
      await upload(other.files, `o${n}`);
    }
    const gone = ids.files.splice(2, 2);
    const seen: string[] = [];
    for await (const { id } of files.list({ limit: 2 })) {
      seen.push(id);
      // The one a page ends with, and one ahead of it, go while the list is walked through.
      if (seen.length === 2) for (const lost of gone) await files.delete(lost);
      if (seen.length === 3) {
        await upload(files, "new");
        await files.delete(seen[2] as string);
      }
    }
    expect(seen).toEqual([...ids.files].reverse());
    expect((await collect(batches.list({ limit: 3 }))).map(({ id }) => id)).toEqual([...ids.batches].reverse());
    const first = ids.batches[0] as string;
    const back = await collect(batches.list({ limit: 2, before_id: first }));
    expect(new Set(back.map(({ id }) => id))).toEqual(new Set(ids.batches.slice(1)));
    const page = await batches.list({ limit: 1000 });
    expect(page).toMatchObject({ has_more: false, first_id: ids.batches.at(-1), last_id: first });
    for (const { results_url: url } of page.data) if (url) expect(url.startsWith(`${gateway.url}/`)).toBe(true);
    expect(JSON.stringify(page.data)).not.toContain(simulator.url);
  });
});

describe("X-06 whose it is", () => {
  type Call = readonly [method: string, path: (id: string) => string];
  const calls: Record<"batches" | "files", readonly Call[]> = {
    batches: [
      ["GET", (id) => `messages/batches/${id}`],
      ["POST", (id) => `messages/batches/${id}/cancel`],
      ["GET", (id) => `messages/batches/${id}/results`],
      ["DELETE", (id) => `messages/batches/${id}`],
      ["GET", (id) => `messages/batches?after_id=${id}`],
      ["GET", (id) => `messages/batches?before_id=${id}`],
    ],
    files: [
      ["GET", (id) => `files/${id}`],
      ["GET", (id) => `files/${id}/content`],
      ["DELETE", (id) => `files/${id}`],
      ["GET", (id) => `files?page=${id}`],
      ["GET", (id) => `files?after_id=${id}`],
    ],
  };
  let upstream: ScriptedUpstream;
  let own: Gateway;
  let made = 0;

  beforeAll(async () => {
    upstream = await startScriptedUpstream();
    own = await startGateway(upstream.url);
  });
  afterAll(async () => {
    await own?.stop();
    await upstream?.stop();
  });
  beforeEach(() => {
    upstream.received.length = 0;
    upstream.script = (response, { target, method }) => {
      response.setHeader("content-type", "application/json");
      const id = method === "POST" && !target.includes("cancel") ? `obj_${++made}` : /obj_\d+/.exec(target)?.[0];
      response.end(JSON.stringify({ id, type: "object", results_url: null }));
    };
  });

  const call = (key: Key, method: string, path: string, init: RequestInit = {}) =>
    fetch(`${own.url}/v1/${path}`, { method, headers: withKey(key), ...init });
  const form = () => {
    const data = new FormData();
    data.append("file", new Blob(["content"]), "a.txt");
    return data;
  };
  async function make(kind: "batches" | "files", key: Key): Promise<string> {
    const response =
      kind === "files"
        ? await call(key, "POST", "files", { headers: { "x-api-key": key.key }, body: form() })
        : await call(key, "POST", "messages/batches", { body: JSON.stringify({ requests: [request("hi", "a")] }) });
    expect(response.status).toBe(200);
    return ((await response.json()) as { id: string }).id;
  }

  it.each(["batches", "files"] as const)(
    "%s: another workspace's, deleted ones and none are all the same",
    async (kind) => {
      const workspace = newWorkspace();
      const [a, b, stranger] = await Promise.all([
        makeKey(workspace, {}, own),
        makeKey(workspace, {}, own),
        makeKey(newWorkspace(), {}, own),
      ]);
      const theirs = await make(kind, stranger);
      const deleted = await make(kind, a);
      const [, path = String] = calls[kind].find(([method]) => method === "DELETE") ?? [];
      expect((await call(b, "DELETE", path(deleted))).status).toBe(200);
      upstream.received.length = 0;
      const bodies = new Map<string, Set<string>>();
      for (const [name, id] of Object.entries({ theirs, deleted, none: "obj_never" })) {
        for (const [method, at] of calls[kind]) {
          const list = at(id).includes("?");
          // A page may go on from one that was deleted a moment ago.
          if (list && name === "deleted") continue;
          const response = await call(a, method, at(id));
          expect([name, method, at(id), response.status]).toEqual([name, method, at(id), list ? 400 : 404]);
          const { request_id: _, ...body } = (await response.json()) as Record<string, unknown>;
          const what = `${method} ${at("id")}`;
          bodies.set(what, (bodies.get(what) ?? new Set()).add(JSON.stringify(body)));
        }
      }
      for (const [what, said] of bodies) expect([what, said.size]).toEqual([what, 1]);
      expect(upstream.received).toEqual([]);
      // What is its workspace's is both keys'.
      for (const [method, at] of calls[kind]) {
        for (const key of [a, b]) {
          const id = await make(kind, a);
          expect([method, at("id"), (await call(key, method, at(id))).status]).toEqual([method, at("id"), 200]);
        }
      }
      const listed = await call(b, "GET", kind === "files" ? "files?limit=1000" : "messages/batches?limit=1000");
      expect(await listed.text()).not.toContain(`"${theirs}"`);
    },
  );

  it("P-02 no odd id reaches the upstream", async () => {
    const key = await makeKey(newWorkspace(), {}, own);
    const odd = ["..%2Fmessages", "a%2Fb", "a%3Fx", "a%23x", "a".repeat(1024), "%F0%9F%98%80", "a%00", "a%20"];
    for (const id of odd) {
      for (const [method, at] of [...calls.batches, ...calls.files]) {
        const { status } = await call(key, method, at(id));
        expect([id, method, at("id"), status]).toEqual([id, method, at("id"), 400]);
      }
    }
    for (const path of ["files/a/b", "messages/batches/a/b", "messages/batches/a/results/b", "files/a/content/b"]) {
      const response = await call(key, "GET", path);
      expect(response.status).toBe(404);
      expect(response.headers.get("x-should-retry")).toBe("false");
    }
    expect(upstream.received).toEqual([]);
  });

  it("A-10 a key without the scope is told which one it lacks", async () => {
    const key = await own.makeKey();
    for (const [kind, list] of Object.entries(calls)) {
      for (const [method, at] of list) {
        const response = await call(key, method, at("obj_1"));
        expect(response.status).toBe(403);
        expect(await response.text()).toContain(`\`${kind}\``);
      }
    }
    expect(upstream.received).toEqual([]);
  });

  it("R-03 each model of a batch must be one that the key may use, and so must each file", async () => {
    const workspace = newWorkspace();
    const key = await makeKey(workspace, { models: ["claude-haiku-*"] }, own);
    const batch = (...requests: unknown[]) =>
      call(key, "POST", "messages/batches", { body: JSON.stringify({ requests }) });
    const refused = await batch(request("hi", "a"), request("hi", "b", "claude-opus-5-5"));
    expect([refused.status, await refused.text()]).toMatchObject([403, expect.stringContaining("claude-opus-5-5")]);
    const { custom_id, params } = request("hi", "c");
    const through = await batch({ custom_id, params: { ...params, fallbacks: [{ model: "claude-fable-5" }] } });
    expect([through.status, await through.text()]).toMatchObject([403, expect.stringContaining("claude-fable-5")]);
    const stranger = await makeKey(newWorkspace(), {}, own);
    const file = await make("files", stranger);
    upstream.received.length = 0;
    const block = { type: "document", source: { type: "file", file_id: file } };
    const asking = { ...request("hi", "a").params, messages: [{ role: "user", content: [block] }] };
    for (const response of [
      await batch({ custom_id: "a", params: asking }),
      await call(key, "POST", "messages", { body: JSON.stringify(asking) }),
      await call(key, "POST", "messages/count_tokens", { body: JSON.stringify(asking) }),
    ]) {
      expect([response.status, await response.text()]).toMatchObject([404, expect.stringContaining(file)]);
    }
    expect(upstream.received).toEqual([]);
    // The same id as an argument of a tool is nobody's business.
    const use = { type: "tool_use", id: "t", name: "n", input: { file_id: file } };
    const told = { ...asking, messages: [{ role: "assistant", content: [use] }] };
    expect((await call(key, "POST", "messages", { body: JSON.stringify(told) })).status).toBe(200);
  });

  it("L2 a spent budget makes no batch, and a strict one none that could exceed it by itself", async () => {
    const key = await makeKey(newWorkspace(), { budget: { usd: 0.001, period: "total" } }, own);
    const batch = (n: number) =>
      call(key, "POST", "messages/batches", {
        body: JSON.stringify({ requests: Array.from({ length: n }, (_, i) => request("hi", `r${i}`)) }),
      });
    expect((await batch(1)).status).toBe(200);
    const refused = await batch(1_000);
    expect([refused.status, await refused.text()]).toMatchObject([429, expect.stringContaining("billing_error")]);
    expect(upstream.received).toHaveLength(1);
    expect((await own.settled(key)).budget).toMatchObject({ spent_micro_usd: 0, reserved_micro_usd: 0 });
  });

  it("keeps every byte of a batch but its results_url, whatever the headers claim", async () => {
    const key = await makeKey(newWorkspace(), {}, own);
    const text = (url: string) =>
      `{ "id" : "obj_b",\n "odd":1.50, "results_url" : "${url}", "x":"\\u00e9é", "request_counts":{"succeeded":1} }`;
    upstream.script = (response) => {
      response.setHeader("content-type", "application/json");
      response.end(text("https://api.anthropic.com/v1/messages/batches/obj_b/results"));
    };
    const expected = text(`${own.url}/v1/messages/batches/obj_b/results`);
    const headers = withKey(key, {
      "x-forwarded-host": "evil.example",
      "x-forwarded-proto": "https",
      forwarded: "host=evil",
    });
    const body = JSON.stringify({ requests: [request("hi", "a")] });
    expect(await (await call(key, "POST", "messages/batches", { headers, body })).text()).toBe(expected);
    expect(await (await call(key, "GET", "messages/batches/obj_b", { headers })).text()).toBe(expected);
    expect(await (await call(key, "POST", "messages/batches/obj_b/cancel", { headers })).text()).toBe(expected);
    const page = await (await call(key, "GET", "messages/batches", { headers })).text();
    expect(page).toBe(`{"data":[${expected}],"has_more":false,"first_id":"obj_b","last_id":"obj_b"}`);
  });

  it("an id that the upstream gives to two workspaces stays the first one's", async () => {
    const [first, second] = [await makeKey(newWorkspace(), {}, own), await makeKey(newWorkspace(), {}, own)];
    upstream.script = (response) => void response.end('{"id":"obj_same","results_url":null}');
    const body = JSON.stringify({ requests: [request("hi", "a")] });
    expect((await call(first, "POST", "messages/batches", { body })).status).toBe(200);
    expect((await call(second, "POST", "messages/batches", { body })).status).toBe(502);
    expect((await call(second, "GET", "messages/batches/obj_same")).status).toBe(404);
    expect((await call(first, "GET", "messages/batches/obj_same")).status).toBe(200);
  });

  it("F-02 a batch that may have been made is not made again; one that was declined is", async () => {
    const key = await makeKey(newWorkspace(), {}, own);
    const body = JSON.stringify({ requests: [request("hi", "a")] });
    upstream.script = (response) => void response.socket.destroy();
    expect((await call(key, "POST", "messages/batches", { body })).status).toBe(502);
    expect(upstream.received).toHaveLength(1);
    upstream.script = (response) => {
      response.statusCode = upstream.received.length === 2 ? 529 : 200;
      response.end('{"id":"obj_again"}');
    };
    expect((await call(key, "POST", "messages/batches", { body })).status).toBe(200);
    expect(upstream.received).toHaveLength(3);
  });

  it("an upload streams: it begins at the upstream before it has ended at the client, and keeps its length", async () => {
    const key = await makeKey(newWorkspace(), {}, own);
    const head = '--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n';
    const tail = "\r\n--b--\r\n";
    const size = 16 * 1024 * 1024;
    const digest = createHash("sha256").update(head);
    const piece = Buffer.alloc(64 * 1024, "x");
    const socket = connect(own.port, "127.0.0.1");
    socket.write(
      `POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1:${own.port}\r\nx-api-key: ${key.key}\r\n` +
        `content-type: multipart/form-data; boundary=b\r\ncontent-length: ${head.length + size + tail.length}\r\n` +
        `connection: close\r\n\r\n${head}`,
    );
    // The upstream has a connection while most of the body is still here.
    const before = upstream.connections;
    for (let sent = 0; sent < size; sent += piece.length) {
      digest.update(piece);
      if (!socket.write(piece)) await new Promise((done) => socket.once("drain", done));
      if (sent === size / 2) await until(() => upstream.connections > before || undefined, "the upstream to be asked");
    }
    digest.update(tail);
    let answer = "";
    socket.on("data", (data) => {
      answer += data.toString();
    });
    socket.write(tail);
    await new Promise((done) => socket.on("close", done));
    expect(answer).toMatch(/^HTTP\/1\.1 200/);
    const [received] = upstream.received;
    expect(
      createHash("sha256")
        .update(received?.body ?? "")
        .digest("hex"),
    ).toBe(digest.digest("hex"));
    const headers = Object.fromEntries(received?.headers ?? []);
    expect(headers["content-length"]).toBe(String(head.length + size + tail.length));
    expect(headers).toMatchObject({ "x-api-key": UPSTREAM_KEY, "content-type": "multipart/form-data; boundary=b" });
  }, 60_000);

  it("S-07 an upload beyond the key's limit is a 413, whether or not it tells its length", async () => {
    const key = await makeKey(newWorkspace(), { limits: { max_request_bytes: 1_000 } }, own);
    const headers = { "x-api-key": key.key, "content-type": "multipart/form-data; boundary=b" };
    const told = await call(key, "POST", "files", { headers, body: Buffer.alloc(1_001) });
    expect(told.status).toBe(413);
    expect(upstream.received).toEqual([]);
    const body = new ReadableStream({
      start(controller) {
        for (let i = 0; i < 20; i++) controller.enqueue(new Uint8Array(100));
        controller.close();
      },
    });
    const untold = await call(key, "POST", "files", { headers, body, duplex: "half" } as RequestInit);
    expect(untold.status).toBe(413);
    // What the upstream made of the beginning is gone there again.
    expect(upstream.received.map(({ method }) => method)).toEqual(["POST", "DELETE"]);
    const typed = await call(key, "POST", "files", { headers: withKey(key), body: "{}" });
    expect(typed.status).toBe(415);
  });

  describe("results", () => {
    const usage = { input_tokens: 1_000, output_tokens: 2_000, service_tier: "batch" };
    const line = (n: number) =>
      JSON.stringify({
        custom_id: `r${n}`,
        result: { type: "succeeded", message: { type: "message", model: MODEL, content: [], usage } },
      });
    const lines = (from: number, to: number) =>
      Array.from({ length: to - from }, (_, i) => `${line(from + i)}\n`).join("");
    const sums = async (workspace: string) => {
      const { output_tokens: output, cost_micro_usd: cost } = await own.usage(
        `workspace=${workspace}&group_by=workspace`,
      );
      return { results: Number(output) / usage.output_tokens, cost: Number(cost) };
    };
    const read = async (key: Key, id: string): Promise<string> => {
      const response = await call(key, "GET", `messages/batches/${id}/results`);
      expect(response.status).toBe(200);
      return response.text();
    };

    it("L3 are booked once each, to the key that made the batch, though fetches are cut, repeated and race", async () => {
      const workspace = newWorkspace();
      const [maker, reader] = await Promise.all([makeKey(workspace, {}, own), makeKey(workspace, {}, own)]);
      const id = await make("batches", maker);
      const total = 2_500;
      upstream.script = async (response) => {
        response.setHeader("content-type", "application/x-jsonl");
        response.write(lines(0, 1_200) + line(1_200).slice(0, 40));
        await new Promise((done) => setTimeout(done, 100));
        response.socket.destroy();
      };
      await expect(read(reader, id)).rejects.toThrow();
      await until(async () => (await sums(workspace)).results === 1_200, "what came to be booked");
      upstream.script = (response) => void response.end(lines(0, total));
      const texts = await Promise.all([read(reader, id), read(maker, id), read(reader, id)]);
      expect(new Set(texts)).toEqual(new Set([lines(0, total)]));
      await until(async () => (await sums(workspace)).results === total, "the rest to be booked");
      await read(maker, id);
      // $0.1 and $0.5 a million, halved.
      expect(await sums(workspace)).toEqual({ results: total, cost: (total * (1_000 * 0.1 + 2_000 * 0.5)) / 2 });
      const byKey = await own.usage(`key=${reader.id}&group_by=key`);
      expect(byKey).toMatchObject({ output_tokens: 0, cost_micro_usd: 0 });
      const cut = (await own.rows(reader, 3, "/v1/messages/batches/:id/results"))[0];
      expect(cut).toMatchObject({ outcome: "upstream_cut", status: 200, requests: 1 });
    });

    it("R-01 pass without waiting for their end, in any pieces, lines that can't be read too", async () => {
      const workspace = newWorkspace();
      const key = await makeKey(workspace, {}, own);
      const id = await make("batches", key);
      const huge = `{"custom_id":"huge","text":"${"x".repeat(5 * 1024 * 1024)}"}\n`;
      const all = `${lines(0, 3)}not json\n\n${huge}${line(3)}`;
      let finish = (): void => {};
      const waiting = new Promise<void>((done) => {
        finish = done;
      });
      upstream.script = async (response) => {
        response.write(all.slice(0, 700));
        await waiting;
        for (let at = 700; at < all.length; at += 99_991) response.write(all.slice(at, at + 99_991));
        response.end();
      };
      const response = await call(key, "GET", `messages/batches/${id}/results`);
      const reader = response.body?.getReader();
      const first = await reader?.read();
      expect(first?.value?.length).toBeGreaterThan(0);
      finish();
      let length = first?.value?.length ?? 0;
      for (let next = await reader?.read(); next && !next.done; next = await reader?.read())
        length += next.value.length;
      expect(length).toBe(all.length);
      await until(async () => (await sums(workspace)).results === 4, "four results to be booked");
      const rows = await own.rows(key, 2, "/v1/messages/batches/:id/results");
      expect(rows.find(({ requests }) => requests === 1)).toMatchObject({ outcome: "complete", estimated: true });
    });

    it("a client that leaves in the middle pays for what has come, and the upstream is told", async () => {
      const workspace = newWorkspace();
      const key = await makeKey(workspace, {}, own);
      const id = await make("batches", key);
      upstream.script = async (response) => {
        response.write(lines(0, 10));
        const beat = setInterval(() => response.write(line(10).slice(0, 5)), 50);
        response.on("close", () => clearInterval(beat));
      };
      const abort = new AbortController();
      const response = await call(key, "GET", `messages/batches/${id}/results`, { signal: abort.signal });
      await response.body?.getReader().read();
      abort.abort();
      await until(() => upstream.received.at(-1)?.goneAt, "the upstream to be left");
      await until(async () => (await sums(workspace)).results === 10, "ten results to be booked");
      const rows = await own.rows(key, 2, "/v1/messages/batches/:id/results");
      expect(rows.find(({ requests }) => requests === 1)).toMatchObject({ outcome: "client_gone" });
    });
  });

  it("a download that is cut upstream is cut at the client, with or without a length", async () => {
    const key = await makeKey(newWorkspace(), {}, own);
    const id = await make("files", key);
    for (const length of [1_000_000, null]) {
      upstream.script = async (response) => {
        if (length !== null) response.setHeader("content-length", length);
        response.write(Buffer.alloc(300_000));
        await new Promise((done) => setTimeout(done, 50));
        response.socket.destroy();
      };
      const response = await call(key, "GET", `files/${id}/content`);
      expect([response.status, response.headers.get("content-length")]).toEqual([200, length && String(length)]);
      await expect(response.arrayBuffer()).rejects.toThrow();
    }
    const rows = await own.rows(key, 2, "/v1/files/:id/content");
    expect(rows).toMatchObject([{ outcome: "upstream_cut" }, { outcome: "upstream_cut" }]);
  });

  it("L5 a download is cut when its key is revoked and says so", async () => {
    const key = await makeKey(newWorkspace(), { on_revoke: "cut" }, own);
    const id = await make("files", key);
    upstream.script = (response) => {
      const beat = setInterval(() => response.write(Buffer.alloc(1_000)), 50);
      response.on("close", () => clearInterval(beat));
    };
    const response = await call(key, "GET", `files/${id}/content`);
    const whole = response.arrayBuffer().then(
      () => "whole",
      () => "cut",
    );
    const revokedAt = Date.now();
    expect((await own.admin(`keys/${key.id}`, { method: "DELETE" })).status).toBe(200);
    expect(await whole).toBe("cut");
    expect(Date.now() - revokedAt).toBeLessThan(5_000);
    expect(await own.rows(key, 1, "/v1/files/:id/content")).toMatchObject([
      { outcome: "upstream_cut", error_type: "authentication_error" },
    ]);
  });

  it("one that its upstream has forgotten is a 404, and on no list any more; an upstream that fails fails the list", async () => {
    const key = await makeKey(newWorkspace(), {}, own);
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) ids.push(await make("files", key));
    const [kept, lost, alsoLost] = ids;
    const usual = upstream.script;
    upstream.script = (response, received) => {
      if ([lost, alsoLost].some((id) => received.target.endsWith(`/${id}`))) response.statusCode = 404;
      void usual(response, received);
    };
    const page = async (query: string) => {
      const response = await call(key, "GET", `files?${query}`);
      return {
        status: response.status,
        body: (await response.json()) as { data?: { id: string }[]; next_page?: string },
      };
    };
    const listed = await page("limit=3");
    expect(listed.body.data?.map(({ id }) => id)).toEqual([ids[4], ids[3], kept]);
    expect(listed.body).toMatchObject({ has_more: false, next_page: null });
    expect((await call(key, "GET", `files/${lost}`)).status).toBe(404);
    const asked = upstream.received.length;
    expect((await page("")).body.data).toHaveLength(3);
    expect(upstream.received.length - asked).toBe(3);
    expect((await page(`ids[]=${kept}&ids[]=${lost}&ids[]=obj_none`)).body.data?.map(({ id }) => id)).toEqual([kept]);
    upstream.script = (response, received) => {
      if (received.target.endsWith(`/${ids[3]}`)) response.statusCode = 400;
      void usual(response, received);
    };
    expect((await page("")).status).toBe(400);
  });

  describe("D1 away", () => {
    const broken = async (statement: string, repair: string, work: () => Promise<void>) => {
      const db = await own.worker.miniflare.getD1Database("DB");
      await db.prepare(statement).run();
      try {
        await work();
      } finally {
        await db.prepare(repair).run();
      }
    };

    it("a call about batches or files, or with a file, is a 503 and asks nobody; all others go on", async () => {
      const key = await makeKey(newWorkspace(), {}, own);
      const file = await make("files", key);
      const batch = await make("batches", key);
      upstream.received.length = 0;
      const block = { type: "document", source: { type: "file", file_id: file } };
      const asking = request("hi", "a").params;
      await broken("ALTER TABLE files RENAME TO files_away", "ALTER TABLE files_away RENAME TO files", () =>
        broken("ALTER TABLE batches RENAME TO batches_away", "ALTER TABLE batches_away RENAME TO batches", async () => {
          const answers = [
            await call(key, "GET", `files/${file}`),
            await call(key, "GET", "files"),
            await call(key, "POST", "files", { headers: { "x-api-key": key.key }, body: form() }),
            await call(key, "GET", `messages/batches/${batch}/results`),
            await call(key, "POST", "messages/batches", { body: JSON.stringify({ requests: [request("hi", "a")] }) }),
            await call(key, "POST", "messages", {
              body: JSON.stringify({ ...asking, messages: [{ role: "user", content: [block] }] }),
            }),
          ];
          for (const { status, headers } of answers) expect([status, headers.get("retry-after")]).toEqual([503, "5"]);
          expect(upstream.received).toEqual([]);
          expect((await call(key, "POST", "messages", { body: JSON.stringify(asking) })).status).toBe(200);
        }),
      );
      expect((await call(key, "GET", `files/${file}`)).status).toBe(200);
    });

    it("what can't be entered as its workspace's is taken back, and its maker told", async () => {
      const key = await makeKey(newWorkspace(), {}, own);
      for (const kind of ["files", "batches"] as const) {
        upstream.received.length = 0;
        const refuse = `CREATE TRIGGER refuse BEFORE UPDATE ON ${kind} BEGIN SELECT RAISE(ABORT, 'away'); END`;
        await broken(refuse, "DROP TRIGGER refuse", async () => {
          const response =
            kind === "files"
              ? await call(key, "POST", "files", { headers: { "x-api-key": key.key }, body: form() })
              : await call(key, "POST", "messages/batches", {
                  body: JSON.stringify({ requests: [request("hi", "a")] }),
                });
          expect([response.status, await response.text()]).toMatchObject([
            503,
            expect.stringMatching(/cancelled|deleted/),
          ]);
        });
        const id = `obj_${made}`;
        expect(upstream.received.map(({ method, target }) => [method, target])).toEqual([
          ["POST", kind === "files" ? "/v1/files" : "/v1/messages/batches"],
          kind === "files" ? ["DELETE", `/v1/files/${id}`] : ["POST", `/v1/messages/batches/${id}/cancel`],
        ]);
        await until(() => own.log().includes(`"kind":"${kind}","id":"${id}"`) || undefined, "the log line");
      }
    });
  });

  it("what the gateway does not serve is a 404 that says so, with or without a key; other methods are a 405", async () => {
    const paths = [
      "skills",
      "user_profiles/x",
      "agents",
      "sessions/s/events",
      "organizations/me",
      "complete",
      "oauth/token",
    ];
    for (const path of paths) {
      for (const method of ["GET", "POST", "DELETE"]) {
        const response = await fetch(`${own.url}/v1/${path}`, { method });
        expect([path, response.status, response.headers.get("x-should-retry")]).toEqual([path, 404, "false"]);
        const message = `This gateway does not serve \`/v1/${path}\`.`;
        expect(await response.json()).toMatchObject({ type: "error", error: { type: "not_found_error", message } });
      }
    }
    for (const [path, allow] of [
      ["messages/batches", "POST, GET, HEAD"],
      ["messages/batches/x", "GET, HEAD, DELETE"],
      ["files/x/content", "GET, HEAD"],
    ] as const) {
      const response = await fetch(`${own.url}/v1/${path}`, { method: "PUT" });
      expect([path, response.status, response.headers.get("allow")]).toEqual([path, 405, allow]);
    }
    expect(upstream.received).toEqual([]);
  });
});

describe("U-18 several upstreams", () => {
  const upstreams: ScriptedUpstream[] = [];
  let own: Gateway;
  let made = 0;

  beforeAll(async () => {
    for (let n = 0; n < 3; n++) {
      const upstream = await startScriptedUpstream();
      upstreams.push(upstream);
      upstream.script = (response, { method, target }) => {
        response.setHeader("content-type", "application/json");
        const id = /obj_\d+/.exec(target)?.[0] ?? `obj_${++made}`;
        const isMade = method === "POST" || target.includes(id);
        response.statusCode = isMade ? 200 : 500;
        response.end(JSON.stringify({ id, type: "object", at: n, results_url: null }));
      };
    }
    own = await startGateway(upstreams[0]?.url ?? "");
  });
  afterAll(async () => {
    await own?.stop();
    await Promise.all(upstreams.map((upstream) => upstream.stop()));
  });

  it("each call goes to the one that holds it, lists hold all of them, and one that was removed is named", async () => {
    const ids = new Map<string, number>();
    for (const [n, { url }] of upstreams.entries()) {
      const response = await own.admin("upstreams", { json: { name: `u${n}`, base_url: url, api_key: `sk-ant-${n}` } });
      expect(response.status).toBe(201);
      ids.set(((await response.json()) as { id: string }).id, n);
    }
    const key = await makeKey(newWorkspace(), {}, own);
    const call = (method: string, path: string, init: RequestInit = {}) =>
      fetch(`${own.url}/v1/${path}`, { method, headers: withKey(key), ...init });
    const body = JSON.stringify({ requests: [request("hi", "a")] });
    const holders = new Map<string, number>();
    for (let i = 0; i < 12; i++) {
      // Another session, another upstream perhaps.
      const headers = withKey(key, { "x-claude-code-session-id": `session-${i}` });
      const batch = (await (await call("POST", "messages/batches", { headers, body })).json()) as {
        id: string;
        at: number;
      };
      holders.set(batch.id, batch.at);
    }
    expect(new Set(holders.values()).size).toBeGreaterThan(1);
    for (const [id, at] of holders) {
      const batch = (await (await call("GET", `messages/batches/${id}`)).json()) as { at: number };
      expect([id, batch.at]).toEqual([id, at]);
    }
    const list = async () =>
      ((await (await call("GET", "messages/batches?limit=100")).json()) as { data: { id: string; at: number }[] }).data;
    expect((await list()).map(({ id, at }) => [id, at])).toEqual([...holders].reverse());
    // The files of a workspace live together.
    const files = new Set<number>();
    for (let i = 0; i < 4; i++) {
      const form = new FormData();
      form.append("file", new Blob(["content"]), "a.txt");
      const file = await call("POST", "files", { headers: { "x-api-key": key.key }, body: form });
      files.add(((await file.json()) as { at: number }).at);
    }
    expect(files.size).toBe(1);
    const [lost, at] = [...holders][0] ?? ["", 0];
    const [removed] = [...ids].find(([, n]) => n === at) ?? [""];
    expect((await own.admin(`upstreams/${removed}`, { method: "DELETE" })).status).toBe(200);
    const gone = await until(async () => {
      const response = await call("GET", `messages/batches/${lost}`);
      return response.status === 200 ? undefined : response;
    }, "the upstream to be gone");
    expect([gone.status, gone.headers.get("x-should-retry")]).toEqual([503, "false"]);
    expect(await gone.text()).toContain(removed);
    expect((await list()).map(({ id }) => id)).toEqual(
      [...holders]
        .filter(([, n]) => n !== at)
        .reverse()
        .map(([id]) => id),
    );
  });
});
