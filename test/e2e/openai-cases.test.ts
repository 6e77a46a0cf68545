/**
 * The acceptance cases of the OpenAI dialect (test/fixtures/openai-cases/README.md): each is a request, what the upstream
 * answers, and what must have gone upstream and come back. Those in `own/` are ours, for what the given ones leave open.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { type Gateway, type Key, startGateway } from "../support/gateway.ts";
import { checkChatStream, checkResponsesStream, matchRequest, matchResponse } from "../support/openai-match.mjs";
import { type Received, type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

type Fields = Record<string, unknown>;
type Outcome = {
  readonly anthropic_request?: unknown;
  readonly anthropic_headers?: unknown;
  readonly max_cache_breakpoints?: number;
  readonly openai_response?: {
    readonly status: unknown;
    readonly headers?: unknown;
    readonly json?: unknown;
    readonly stream?: Fields;
    readonly responses_stream?: Fields;
  };
  readonly save?: Record<string, string>;
};
type Step = {
  readonly request: {
    readonly method: string;
    readonly path: string;
    readonly headers?: Record<string, string>;
    readonly body?: unknown;
    readonly raw_body?: string;
  };
  readonly upstream?: {
    readonly status: number;
    readonly headers?: Record<string, string>;
    readonly json?: unknown;
    readonly raw?: string;
    readonly sse?: readonly { readonly event: string; readonly data: unknown }[];
  };
  readonly outcomes: readonly Outcome[];
};
type Case = { readonly id: string; readonly name: string; readonly steps: readonly Step[] };
type Saved = Record<string, unknown>;

const FOLDER = join(import.meta.dirname, "../fixtures/openai-cases");
const cases = readdirSync(FOLDER, { recursive: true, encoding: "utf8" })
  .filter((name) => name.endsWith(".json"))
  .map((name) => JSON.parse(readFileSync(join(FOLDER, name), "utf8")) as Case);

let upstream: ScriptedUpstream;
let gateway: Gateway;
let key: Key;
beforeAll(async () => {
  upstream = await startScriptedUpstream();
  gateway = await startGateway(upstream.url, { bindings: { MAX_ATTEMPTS: "1" } });
  key = await gateway.makeKey();
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
});

it.each(cases)("$id: $name", async ({ steps }) => {
  const saved: Saved = {};
  for (const step of steps) await play(step, saved);
});

async function play({ request, upstream: script, outcomes }: Step, saved: Saved): Promise<void> {
  upstream.received.length = 0;
  upstream.script = (response, received) => {
    if (!received.target.startsWith("/v1/messages") || !script) {
      response.writeHead(404, { "content-type": "application/json" });
      return void response.end('{"type":"error","error":{"type":"not_found_error","message":"nothing here"}}');
    }
    const asked = JSON.parse(received.body.toString()) as Fields;
    const streamed = script.sse !== undefined;
    response.writeHead(script.status, {
      "content-type": streamed ? "text/event-stream" : "application/json",
      "request-id": "req_01CASE",
      ...script.headers,
    });
    const filled = (value: unknown): string => JSON.stringify(fillIn(value, asked));
    for (const { event, data } of script.sse ?? []) response.write(`event: ${event}\ndata: ${filled(data)}\n\n`);
    response.end(streamed ? undefined : (script.raw ?? filled(script.json)));
  };
  const answer = await fetch(gateway.url + request.path, {
    method: request.method,
    headers: {
      authorization: `Bearer ${key.key}`,
      ...(request.method === "POST" ? { "content-type": "application/json" } : {}),
      ...mapValues(request.headers ?? {}, (value) => value.replaceAll("$KEY", key.key)),
    },
    ...(request.method === "POST" ? { body: request.raw_body ?? JSON.stringify(withSaved(request.body, saved)) } : {}),
  });
  const text = await answer.text();
  const asked = upstream.received.filter(({ target }) => target.startsWith("/v1/messages"));
  const tries = outcomes.map((outcome) => ({ outcome, problems: judge(outcome, answer, text, asked, saved) }));
  const matched = tries.find(({ problems }) => problems.length === 0);
  expect(
    matched,
    `${tries.map(({ problems }) => problems.join("\n")).join("\nor\n")}\n${text.slice(0, 2_000)}`,
  ).toBeDefined();
  for (const [name, path] of Object.entries(matched?.outcome.save ?? {})) {
    saved[name] = path.split(".").reduce<unknown>((at, field) => (at as Fields)[field], JSON.parse(text));
  }
}

function judge(outcome: Outcome, answer: Response, text: string, asked: readonly Received[], saved: Saved): string[] {
  const problems: string[] = [];
  const [first] = asked;
  const vars = { ...saved };
  if (outcome.anthropic_request === null && first) problems.push(`upstream was asked: ${first.body}`);
  if (outcome.anthropic_request) {
    if (!first) problems.push("upstream was not asked");
    else {
      const body: unknown = JSON.parse(first.body.toString());
      problems.push(...matchRequest(outcome.anthropic_request, body, vars).map((why) => `to upstream ${why}`));
    }
  }
  if (outcome.anthropic_headers && first) {
    problems.push(...matchResponse(outcome.anthropic_headers, Object.fromEntries(first.headers), vars));
  }
  const most = outcome.max_cache_breakpoints;
  if (most !== undefined && first && first.body.toString().split('"cache_control"').length - 1 > most) {
    problems.push(`more than ${most} breakpoints: ${first.body}`);
  }
  const expected = outcome.openai_response;
  if (!expected) return problems;
  problems.push(...matchResponse(expected.status, answer.status, vars).map((why) => `status ${why}`));
  if (expected.headers) problems.push(...matchResponse(expected.headers, Object.fromEntries(answer.headers), vars));
  if (expected.json) {
    try {
      problems.push(...matchResponse(expected.json, JSON.parse(text), vars));
    } catch {
      problems.push("the answer is not JSON");
    }
  }
  if (expected.stream) problems.push(...checkChatStream(expected.stream, text, vars));
  if (expected.responses_stream) problems.push(...checkResponsesStream(expected.responses_stream, text, vars));
  return problems;
}

/** The upstream's answer with what it takes from the request it was sent. */
function fillIn(value: unknown, asked: Fields): unknown {
  if (Array.isArray(value)) return value.map((entry) => fillIn(entry, asked));
  if (typeof value !== "object" || value === null) return value;
  const { $from_request: path, ...rest } = value as Fields;
  if (typeof path === "string") {
    return path.split(/[.[\]]+/).reduce<unknown>((at, field) => (field === "" ? at : (at as Fields)[field]), asked);
  }
  const filled = mapValues(rest, (entry) => fillIn(entry, asked));
  const text = (filled.input as Fields | undefined)?.$single_string_property;
  if (text === undefined) return filled;
  const tool = (asked.tools as Fields[]).find(({ name }) => name === filled.name);
  const [property = ""] = (tool?.input_schema as { required?: string[] } | undefined)?.required ?? [];
  return { ...filled, input: { [property]: text } };
}

/** The request with what earlier steps have saved: `{{name}}` in a text, `"{{...name}}"` in a list. */
function withSaved(value: unknown, saved: Saved): unknown {
  if (typeof value === "string") return value.replace(/\{\{(\w+)\}\}/g, (_, name: string) => String(saved[name]));
  if (Array.isArray(value)) {
    return value.flatMap((entry) => {
      const spread = typeof entry === "string" ? /^\{\{\.\.\.(\w+)\}\}$/.exec(entry)?.[1] : undefined;
      return spread === undefined ? [withSaved(entry, saved)] : (saved[spread] as unknown[]);
    });
  }
  if (typeof value !== "object" || value === null) return value;
  return mapValues(value as Fields, (entry) => withSaved(entry, saved));
}

function mapValues<T, U>(object: Record<string, T>, to: (value: T) => U): Record<string, U> {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, to(value)]));
}
