/** The door of the WebSocket: who gets through to the object, and how others are told. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { call, failed, keyOf, type Options, StandIns, settled } from "./door.ts";

const NAME = "/v1/conversations";
let objects: StandIns;
let id: string;
let keyA: string;
let keyB: string;
const open: WebSocket[] = [];

beforeAll(async () => {
  vi.spyOn(console, "log").mockImplementation(() => {});
  vi.spyOn(console, "error").mockImplementation(() => {});
  keyA = await keyOf("ws_a");
  keyB = await keyOf("ws_b");
});

afterAll(settled);

beforeEach(async () => {
  objects = new StandIns();
  const made = await call(objects, NAME, { as: keyA, json: { model: "m" } });
  id = (await made.json<{ id: string }>()).id;
  objects.reached.length = 0;
});

afterEach(() => {
  for (const socket of open.splice(0)) socket.close(1000);
});

const upgrade = (headers: Readonly<Record<string, string>>, options: Options & { readonly at?: string } = {}) =>
  call(objects, `${NAME}/${options.at ?? id}/socket`, { ...options, headers: { upgrade: "websocket", ...headers } });

const speaking = (...more: string[]) => ({ "sec-websocket-protocol": ["sluice.v1", ...more].join(", ") });
const auth = (key: string) => `sluice.auth.${key}`;

/** What is said on a socket until it is closed, and how that is done. */
async function heard(response: Response): Promise<{ frames: string[]; code: number; reason: string }> {
  expect(response.status).toBe(101);
  const socket = response.webSocket;
  if (!socket) throw new Error("no socket");
  const frames: string[] = [];
  const closed = Promise.withResolvers<CloseEvent>();
  socket.addEventListener("message", ({ data }) => void frames.push(String(data)));
  socket.addEventListener("close", closed.resolve);
  socket.accept();
  const { code, reason } = await closed.promise;
  return { frames, code, reason };
}

/** The first thing that the object says. */
async function ready(response: Response): Promise<string> {
  expect(response.status).toBe(101);
  const socket = response.webSocket;
  if (!socket) throw new Error("no socket");
  open.push(socket);
  const first = Promise.withResolvers<string>();
  socket.addEventListener("message", ({ data }) => first.resolve(String(data)));
  socket.accept();
  return first.promise;
}

describe("W-04 a credential", () => {
  it("may be a subprotocol, of which only sluice.v1 is said back", async () => {
    const response = await upgrade(speaking(auth(keyA)));
    expect(response.headers.get("sec-websocket-protocol")).toBe("sluice.v1");
    expect(await ready(response)).toBe('{"type":"ready"}');
    const request = objects.asked.at(-1)?.with[0] as Request;
    expect(request.headers.has("sec-websocket-protocol")).toBe(false);
    expect([...request.headers.values()].join()).not.toContain(keyA);
  });

  it("may be a header, without any subprotocol", async () => {
    const response = await upgrade({}, { as: keyA });
    expect(response.headers.get("sec-websocket-protocol")).toBeNull();
    await ready(response);
  });

  it("may be shown in several places if it is the same", async () => {
    const everywhere = { ...speaking(auth(keyA)), authorization: `Bearer ${keyA}` };
    await ready(await upgrade(everywhere, { as: keyA }));
    for (const different of [
      upgrade(speaking(auth(keyA)), { as: keyB }),
      upgrade({ ...speaking(auth(keyA)), authorization: `Bearer ${keyB}` }),
      upgrade(speaking(auth(keyA), auth(keyB))),
      upgrade({ ...speaking(auth(keyA)), authorization: "Basic x" }),
    ]) {
      expect((await heard(await different)).code).toBe(4401);
    }
  });

  it("W-02 is never a cookie's or the address's", async () => {
    const cookie = { cookie: `key=${keyA}; authorization=Bearer ${keyA}` };
    expect((await upgrade(cookie)).status).toBe(401);
    expect((await upgrade({ ...cookie, origin: "https://evil.example" })).status).toBe(403);
    expect((await upgrade({ ...cookie, origin: "https://gw.test" })).status).toBe(401);
    expect((await upgrade({}, { at: `${id}/socket?api_key=${keyA}#` })).status).not.toBe(101);
    expect(objects.reached).toEqual([]);
  });
});

describe("W-01 pages", () => {
  const ALLOWED_ORIGINS = "https://chat.example";
  const from = (origin: string | null) =>
    upgrade({ ...speaking(auth(keyA)), ...(origin === null ? {} : { origin }) }, { env: { ALLOWED_ORIGINS } });

  it.each(["https://chat.example", "https://gw.test", null])("of %s get in", async (origin) => {
    await ready(await from(origin));
  });

  it.each([
    "https://evil.example",
    "null",
    "https://chat.example.evil.example",
    "https://chat.example:8443",
    "http://chat.example",
    "http://gw.test",
  ])("of %s do not, whatever they show and speak", async (origin) => {
    const response = await from(origin);
    expect(response.status).toBe(403);
    expect(response.webSocket).toBeNull();
    expect(objects.reached).toEqual([]);
  });
});

describe("whoever is refused", () => {
  it("and speaks sluice.v1 is told in a frame, and closed with its code", async () => {
    const { key: narrow } = { key: await keyOf("ws_a", { scopes: ["messages"] }) };
    const cases = [
      [speaking(), 4401, "authentication_error"],
      [speaking(auth("sk-sluice-x")), 4401, "authentication_error"],
      [speaking(auth(narrow)), 4403, "permission_error"],
      [speaking(auth(keyB)), 4404, "not_found_error"],
    ] as const;
    for (const [headers, code, type] of cases) {
      const response = await upgrade(headers);
      expect(response.headers.get("sec-websocket-protocol")).toBe("sluice.v1");
      const { frames, ...close } = await heard(response);
      expect(close.code).toBe(code);
      expect(JSON.parse(frames[0] ?? "")).toMatchObject({ type: "error", ref: null, error: { type } });
      expect(JSON.parse(frames[0] ?? "").error.message.startsWith(close.reason)).toBe(true);
    }
    expect(objects.reached).toEqual([]);
  });

  it("by a limit is told when to come again", async () => {
    const key = await keyOf("ws_a", { limits: { requests_per_minute: 1 } });
    await ready(await upgrade(speaking(auth(key))));
    const { frames, code } = await heard(await upgrade(speaking(auth(key))));
    expect(code).toBe(4429);
    expect(JSON.parse(frames[0] ?? "").error.retry_after_seconds).toBeGreaterThan(0);
  });

  it("by the object is told the same way", async () => {
    objects.deeds = { fetch: () => failed({ kind: "limit_reached", message: "too many" }) };
    expect(await heard(await upgrade(speaking(auth(keyA))))).toMatchObject({ code: 4429, reason: "too many" });
    objects.deeds = { fetch: () => Promise.reject(Object.assign(new Error("busy"), { overloaded: true })) };
    expect((await heard(await upgrade(speaking(auth(keyA))))).code).toBe(1013);
    expect((await upgrade({}, { as: keyA })).status).toBe(503);
  });

  it("and speaks something else gets an HTTP answer", async () => {
    expect((await upgrade({})).status).toBe(401);
    expect((await upgrade({}, { as: keyB })).status).toBe(404);
    const other = await upgrade({ "sec-websocket-protocol": `graphql-ws, ${auth(keyA)}` });
    expect([other.status, other.headers.get("x-sluice-request-id")]).toEqual([400, expect.stringMatching(/^req_/)]);
  });

  it("because it wants no upgrade is told which one there is", async () => {
    for (const method of ["GET", "HEAD"]) {
      const response = await call(objects, `${NAME}/${id}/socket`, { as: keyA, method });
      expect([response.status, response.headers.get("upgrade")]).toEqual([426, "websocket"]);
    }
  });
});
