/** Tokens with the real bundle: what a page is given in place of a key, with the SDK and on a socket. */
import Anthropic from "@anthropic-ai/sdk";
import { createRemoteJWKSet, jwtVerify } from "jose";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { talk } from "../support/conversations.ts";
import { type Gateway, type Key, startGateway, until } from "../support/gateway.ts";
import { offering, Viewer } from "../support/socket.ts";
import { startTellingClaude, type TellingClaude } from "../support/telling-claude.ts";

const MODEL = "claude-opus-5-5";
const ISSUER = "https://gateway.example";
let claude: TellingClaude;
let gateway: Gateway;
let key: Key;

beforeAll(async () => {
  claude = await startTellingClaude();
  claude.plan = ({ asked }) => ({ say: ["I heard ", asked, "."] });
  gateway = await startGateway(claude.url, { bindings: { LEDGER_DEADLINE_MS: "5000", TOKEN_ISSUER: ISSUER } });
  key = await gateway.makeKey();
});
afterAll(async () => {
  await gateway?.stop();
  await claude?.stop();
});

type Token = { readonly token: string; readonly id: string; readonly expires_at: string };

async function traded(fields: object): Promise<Token> {
  const response = await fetch(`${gateway.url}/v1/token`, {
    method: "POST",
    headers: { "x-api-key": key.key, "content-type": "application/json" },
    body: JSON.stringify(fields),
  });
  expect(response.status).toBe(201);
  return (await response.json()) as Token;
}

describe("a token", () => {
  it("is an SDK's key, for what it names", async () => {
    const { token } = await traded({ scopes: ["messages"], models: [MODEL] });
    const client = new Anthropic({ baseURL: gateway.url, apiKey: token, maxRetries: 0 });
    const messages = [{ role: "user" as const, content: "hi" }];
    const said = await client.messages.stream({ model: MODEL, max_tokens: 10, messages }).finalMessage();
    expect(said.content).toMatchObject([{ type: "text", text: "I heard hi." }]);
    const other = client.messages.create({ model: "claude-haiku-4-5", max_tokens: 10, messages });
    await expect(other).rejects.toBeInstanceOf(Anthropic.PermissionDeniedError);
    const bearer = new Anthropic({ baseURL: gateway.url, apiKey: null, authToken: token, maxRetries: 0 });
    await bearer.messages.stream({ model: MODEL, max_tokens: 10, messages }).finalMessage();
    expect(gateway.log()).not.toContain(token);
  });

  it("is verified by anybody who has our published keys", async () => {
    const { token, id } = await traded({ scopes: ["messages"] });
    const keys = createRemoteJWKSet(new URL(`${gateway.url}/.well-known/jwks.json`));
    const { payload } = await jwtVerify(token, keys, { issuer: ISSUER, audience: "sluice", typ: "at+jwt" });
    expect(payload).toMatchObject({ sub: key.id, jti: id, scope: "messages" });
  });

  it("opens one conversation's socket, which is closed when it has ended and something is said", async () => {
    const mine = talk(gateway.url, key);
    const [{ id }, other] = [await mine.create(), await mine.create()];
    const { token, expires_at } = await traded({ conversation: id, expires_in_seconds: 6 });
    const path = (of: string): string => `${gateway.url}/v1/conversations/${of}/socket`;
    const elsewhere = await Viewer.open(path(other.id), { protocols: offering(token) });
    expect((await elsewhere.closed).code).toBe(4404);
    const viewer = await Viewer.open(path(id), { protocols: offering(token) });
    await viewer.next("ready");
    expect((await viewer.say("hello", "c1")).type).toBe("turn.completed");
    await until(() => Date.now() > Date.parse(expires_at) || undefined, "the token's end");
    viewer.send({ type: "send", id: "c2", content: "may I" });
    expect((await viewer.closed).code).toBe(4401);
    expect(claude.of("may I")).toEqual([]);
  });
});
