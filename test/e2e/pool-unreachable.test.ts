/** F-09: upstreams that cannot be reached, or speak no TLS. Never is one spoken to in the clear instead. */
import { once } from "node:events";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Answer, call } from "../faults/client.ts";
import { MODEL } from "../faults/script.ts";
import { type FaultyUpstreams, startFaultyUpstreams } from "../faults/upstream.ts";
import { addUpstream, BINDINGS } from "../faults/world.ts";
import { type Gateway, startGateway, withKey } from "../support/gateway.ts";

let upstreams: FaultyUpstreams;
/** Accepts, and says nothing. */
let stalling: Server;
/** A port on which nobody listens. */
let closed: string;
const sockets = new Set<Socket>();

const portOf = (server: Server): number => (server.address() as AddressInfo).port;

beforeAll(async () => {
  upstreams = await startFaultyUpstreams(1);
  stalling = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.resume();
  });
  stalling.listen(0, "127.0.0.1");
  await once(stalling, "listening");
  const brief = createServer();
  brief.listen(0, "127.0.0.1");
  await once(brief, "listening");
  closed = `http://127.0.0.1:${portOf(brief)}`;
  brief.close();
  await once(brief, "close");
});
afterAll(async () => {
  for (const socket of sockets) socket.destroy();
  stalling?.close();
  await upstreams?.stop();
});

async function asked(gateway: Gateway, stream: boolean, session = "s"): Promise<Answer> {
  const key = await gateway.makeKey();
  const body = JSON.stringify({ model: MODEL, max_tokens: 10, stream, messages: [] });
  const answer = await call(`${gateway.url}/v1/messages`, withKey(key, { "x-claude-code-session-id": session }), body);
  const [row] = await gateway.audit(key, 1);
  expect(Number(row?.attempts)).toBeGreaterThan(0);
  expect(Number(row?.attempts)).toBeLessThanOrEqual(3);
  expect(Number(row?.cost_micro_usd ?? 0) > 0).toBe(answer.status === 200);
  return answer;
}

async function withGateway(url: string, use: (gateway: Gateway) => Promise<void>): Promise<void> {
  const gateway = await startGateway(url, { bindings: BINDINGS });
  try {
    await use(gateway);
  } finally {
    await gateway.stop();
  }
}

describe.each([true, false])("F-09, stream: %s", (stream) => {
  it("a refused connection is tried again, and then is a 502", () =>
    withGateway(closed, async (gateway) => {
      const answer = await asked(gateway, stream);
      expect([answer.status, answer.headers["x-should-retry"]]).toEqual([502, "false"]);
      expect(answer.body.toString()).not.toContain("127.0.0.1");
    }));

  it("an upstream that refuses connections is no matter where another works", () =>
    withGateway(closed, async (gateway) => {
      await addUpstream(gateway, { base_url: closed, api_key: "sk-ant-UPKEY-CANARY-closed" });
      await addUpstream(gateway, { base_url: upstreams.urls[0] ?? "", api_key: "sk-ant-UPKEY-CANARY-works" });
      const answers = await Promise.all(Array.from({ length: 6 }, (_, n) => asked(gateway, stream, `s-${n}`)));
      expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
    }));

  it("an upstream that speaks no TLS is not spoken to without", async () => {
    upstreams.forget();
    await withGateway((upstreams.urls[0] ?? "").replace("http:", "https:"), async (gateway) => {
      expect((await asked(gateway, stream)).status).toBeGreaterThanOrEqual(502);
    });
    expect(upstreams.attempts).toEqual([]);
  });

  it("a handshake that stalls ends at the limit for connecting", () =>
    withGateway(`https://127.0.0.1:${portOf(stalling)}`, async (gateway) => {
      const answer = await asked(gateway, stream);
      expect([502, 504]).toContain(answer.status);
      expect(answer.ms).toBeLessThan(4_000);
    }));
});
