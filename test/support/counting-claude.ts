/**
 * A Claude that keeps books: it says how many tokens it made, how many calls ran at once and what that costs by the
 * price list's own figures, so that what a gateway counts can be held against it.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { pause } from "./scripted-upstream.ts";

/** µUSD per token of claude-opus-5-5 (wire notes §5.4), the model of all these tests. */
export const MODEL = "claude-opus-5-5";
const INPUT_MICRO_USD = 4;
const OUTPUT_MICRO_USD = 20;

export type Made = { calls: number; inputTokens: number; outputTokens: number; microUsd: number };

export type Plan = {
  readonly inputTokens: number;
  readonly outputTokens: number;
  /** How long the answer takes, ms. */
  readonly lastsMs: number;
};

export type Asked = { readonly max_tokens: number; readonly stream?: boolean; readonly bytes: number };

export type CountingClaude = {
  readonly url: string;
  /** What was made since the last `forget`. */
  made: Made;
  running: number;
  peak: number;
  /** Decides what an answer will be. */
  plan: (asked: Asked) => Plan;
  forget(): void;
  stop(): Promise<void>;
};

export async function startCountingClaude(): Promise<CountingClaude> {
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    if (request.url?.startsWith("/api/hello")) return void response.end();
    const body = Buffer.concat(pieces);
    if (request.url?.includes("count_tokens")) {
      response.setHeader("content-type", "application/json");
      return void response.end('{"input_tokens":7}');
    }
    const asked: Asked = { ...(JSON.parse(body.toString()) as Asked), bytes: body.length };
    const { inputTokens, outputTokens, lastsMs } = claude.plan(asked);
    claude.running++;
    claude.peak = Math.max(claude.peak, claude.running);
    response.on("close", () => {
      claude.running--;
    });
    const usage = { input_tokens: inputTokens, output_tokens: outputTokens };
    if (asked.stream) {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(event("message_start", { message: { model: MODEL, usage: { ...usage, output_tokens: 1 } } }));
      await pause(lastsMs);
      response.write(event("message_delta", { delta: { stop_reason: "end_turn" }, usage }) + event("message_stop"));
    } else {
      await pause(lastsMs);
      response.writeHead(200, { "content-type": "application/json" });
      response.write(JSON.stringify({ type: "message", model: MODEL, content: [], usage }));
    }
    claude.made.calls++;
    claude.made.inputTokens += inputTokens;
    claude.made.outputTokens += outputTokens;
    claude.made.microUsd += inputTokens * INPUT_MICRO_USD + outputTokens * OUTPUT_MICRO_USD;
    response.end();
  };
  const server = createServer((request, response) => {
    response.on("error", () => {});
    request.on("error", () => {});
    void answer(request, response).catch(() => response.destroy());
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", 1_024, done));
  const claude: CountingClaude = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    made: nothing(),
    running: 0,
    peak: 0,
    plan: ({ max_tokens, bytes }) => ({ inputTokens: Math.ceil(bytes / 4), outputTokens: max_tokens, lastsMs: 0 }),
    forget() {
      claude.made = nothing();
      claude.peak = claude.running;
    },
    stop: () =>
      new Promise((done) => {
        server.close(() => done());
        server.closeAllConnections();
      }),
  };
  return claude;
}

const nothing = (): Made => ({ calls: 0, inputTokens: 0, outputTokens: 0, microUsd: 0 });

export const event = (name: string, fields: object = {}): string =>
  `event: ${name}\ndata: ${JSON.stringify({ type: name, ...fields })}\n\n`;
