/** The TypeScript client in Node, over a line that breaks, before the real bundle. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Received, SluiceClient } from "../../clients/typescript/index.ts";
import { type LocalWorker, startLocalWorker } from "../../scripts/local-runtime.ts";
import { type Gateway, startGateway, until } from "../support/gateway.ts";
import { Wire } from "../support/wire.ts";

const MODEL = "claude-opus-5-5";
let simulator: LocalWorker;
let gateway: Gateway;
let wire: Wire;
let client: SluiceClient;
let key: string;

beforeAll(async () => {
  simulator = await startLocalWorker({ config: "simulator/wrangler.toml", bundle: "dist/simulator" });
  gateway = await startGateway(simulator.url, { bindings: { ANTHROPIC_API_KEY: "sk-ant-UPKEY-CANARY+pace=10" } });
  wire = new Wire();
  await wire.lay(gateway.port);
  ({ key } = await gateway.makeKey());
  client = new SluiceClient({ baseUrl: `http://127.0.0.1:${wire.port}/`, apiKey: key });
});
afterAll(async () => {
  await wire?.remove();
  await gateway?.stop();
  await simulator?.stop();
});

describe("the client", () => {
  it("makes, lists, asks, reads and deletes over HTTP", async () => {
    const made = await client.createConversation({ model: MODEL, metadata: { title: "one" } });
    const { message, state } = await client.send(made.id, "say: over HTTP", {}, "mine");
    expect([state, message?.content]).toMatchObject(["completed", [{ type: "text", text: "over HTTP" }]]);
    const again = await client.send(made.id, "say: over HTTP", {}, "mine");
    expect(again.message?.id).toBe(message?.id);
    const { data } = await client.messages(made.id);
    expect(data.map(({ role }) => role)).toEqual(["user", "assistant"]);
    expect((await client.listConversations()).data.map(({ id }) => id)).toContain(made.id);
    await client.deleteConversation(made.id);
    await expect(client.getConversation(made.id)).rejects.toMatchObject({ status: 404, type: "not_found_error" });
  });

  it("W-07 shows every frame once and in order over a line that breaks again and again", async () => {
    const { id } = await client.createConversation({ model: MODEL });
    const frames: Received[] = [];
    const socket = client.connect(id, { after: 0, window: 2_000, onEvent: (frame) => frames.push(frame) });
    const pieces = (async () => {
      let text = "";
      for await (const piece of socket.send("repeat 100 break").text()) text += piece;
      return text;
    })();
    for (let n = 1; n <= 4; n++) {
      await until(() => frames.length > n * 6, "more frames");
      wire.cut();
      await until(() => socket.status.state === "waiting", "the line to be missed");
      wire.mend();
      socket.reconnectNow();
    }
    expect((await pieces).trim().split(/\s+/)).toEqual(Array.from({ length: 100 }, () => "break"));
    expect(frames.map(({ seq }) => seq)).toEqual(frames.map((_, index) => index + 1));
    // Said into a line that is gone.
    wire.cut();
    const late = socket.send("say: late");
    await until(() => socket.status.state === "waiting", "the line to be missed");
    wire.mend();
    socket.reconnectNow();
    await expect(late.done).resolves.toMatchObject({ type: "turn.completed", stop_reason: "end_turn" });
    const { data } = await client.messages(id);
    expect(data).toHaveLength(4);
    socket.close();
  });

  it("stops an answer, and is told when the conversation is deleted", async () => {
    const { id } = await client.createConversation({ model: MODEL });
    const socket = client.connect(id);
    const turn = socket.send("repeat 3000 long");
    for await (const piece of turn.text()) if (piece !== "") break;
    socket.cancel();
    await expect(turn.done).resolves.toMatchObject({ type: "turn.failed", state: "cancelled" });
    await client.deleteConversation(id);
    await until(() => socket.status.state === "closed", "the end");
    expect(socket.status).toMatchObject({ error: { type: "not_found_error", status: 4404 } });
  });

  it("W-01 stays away where the key is not valid", async () => {
    const { id } = await client.createConversation({ model: MODEL });
    const stranger = new SluiceClient({ baseUrl: gateway.url, apiKey: "sk-sluice-nobody" });
    const socket = stranger.connect(id);
    await expect(socket.send("hello").done).rejects.toMatchObject({ type: "authentication_error", status: 4401 });
    await expect(stranger.listConversations()).rejects.toMatchObject({ type: "authentication_error", status: 401 });
  });

  it("gets a fresh token for each request and each line, and goes on when one has ended", async () => {
    let traded = 0;
    const apiKey = async (): Promise<string> => {
      traded++;
      const headers = { "x-api-key": key, "content-type": "application/json" };
      const body = JSON.stringify({ scopes: ["conversations"], expires_in_seconds: 3 });
      const response = await fetch(`${gateway.url}/v1/token`, { method: "POST", headers, body });
      return ((await response.json()) as { token: string }).token;
    };
    const page = new SluiceClient({ baseUrl: gateway.url, apiKey });
    const { id } = await page.createConversation({ model: MODEL });
    const socket = page.connect(id);
    await expect(socket.send("say: one").done).resolves.toMatchObject({ type: "turn.completed" });
    expect(traded).toBe(2);
    await new Promise((done) => setTimeout(done, 4_000));
    await expect(socket.send("say: two").done).resolves.toMatchObject({ type: "turn.completed" });
    expect(traded).toBe(3);
    expect((await page.messages(id)).data).toHaveLength(4);
    socket.close();
  });
});
