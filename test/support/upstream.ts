/** For tests inside the Workers runtime: an upstream on loopback that answers every call with one short Message. */
import type { TestProject } from "vitest/node";
import { startScriptedUpstream } from "./scripted-upstream.ts";

declare module "vitest" {
  interface ProvidedContext {
    upstreamPort: number;
  }
}

const MESSAGE = {
  id: "msg_1",
  type: "message",
  role: "assistant",
  model: "claude-opus-5-5",
  content: [{ type: "text", text: "Hello" }],
  stop_reason: "end_turn",
  usage: { input_tokens: 10, output_tokens: 5 },
};

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const upstream = await startScriptedUpstream();
  upstream.script = (response) => {
    response.setHeader("content-type", "application/json");
    response.setHeader("request-id", "req_upstream");
    response.end(JSON.stringify(MESSAGE));
  };
  project.provide("upstreamPort", Number(new URL(upstream.url).port));
  return upstream.stop;
}
