/**
 * Whatever a client of OpenAI's dialect sends, it is answered in that dialect, never with a 5xx, and nothing goes upstream
 * that the Messages API would refuse. FUZZ_BODIES and FUZZ_SEED choose how many bodies, and which.
 */
import { type IncomingHttpHeaders, request } from "node:http";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, beforeAll, expect, it } from "vitest";
import { type LocalWorker, startLocalWorker } from "../../scripts/local-runtime.ts";
import { KNOWN_MODELS } from "../../src/wire/anthropic/model-facts.ts";
import { type Gateway, type Key, startGateway } from "../support/gateway.ts";
import { problemsOf } from "../support/messages-rules.ts";
import { BODIES, type Body, oddBody } from "../support/odd-bodies.ts";
import { checkResponsesStream, parseSSE, readChatStream } from "../support/openai-match.mjs";
import { type Received, type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const COUNT = Number(process.env.FUZZ_BODIES ?? 500);
const SEED = Number(process.env.FUZZ_SEED ?? 5);
const AT_ONCE = 16;
const HANGS_MS = 20_000;
const PATHS = ["/v1/chat/completions", "/v1/chat/completions", "/v1/responses"];
const MODELS = [...KNOWN_MODELS.map(({ id }) => id), "opus", "sonnet(high)", "fable(none)", "haiku(xhigh)", "opus[1m]"];
/** What only the upstream can know of a body. */
const NOT_OURS = /not_found_error|signature|prompt is too long/i;

const FAULT = "anthropic-sim-fault";

type Call = { readonly path: string; readonly headers: Record<string, string>; readonly body: string | Uint8Array };

let simulator: LocalWorker;
let upstream: ScriptedUpstream;
let gateway: Gateway;
let key: Key;
/** What was wrong with what went upstream. */
const wrong: string[] = [];

beforeAll(async () => {
  simulator = await startLocalWorker({ config: "simulator/wrangler.toml", bundle: "dist/simulator" });
  upstream = await startScriptedUpstream();
  upstream.script = async (response, received) => {
    const { method, target, headers, body } = received;
    const answer = await fetch(simulator.url + target, {
      method,
      headers: headers.filter(([name]) => !["host", "connection", "content-length"].includes(name)) as [
        string,
        string,
      ][],
      ...(method === "POST" && { body: new Uint8Array(body) }),
    });
    if (target.startsWith("/v1/messages")) await judge(received, answer);
    response.writeHead(answer.status, [...answer.headers].filter(([name]) => name !== "transfer-encoding").flat());
    try {
      for await (const piece of answer.body ?? []) response.write(piece);
      response.end();
    } catch {
      response.socket.destroy();
    }
  };
  gateway = await startGateway(upstream.url, { bindings: { MAX_ATTEMPTS: "1" } });
  key = await gateway.makeKey();
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
  await simulator?.stop();
});

async function judge({ headers, body }: Received, answer: Response): Promise<void> {
  const asked = body.toString();
  const version = headers.find(([name]) => name === "anthropic-version")?.[1] ?? "";
  const problems = problemsOf(JSON.parse(asked) as Body, version);
  const struck = headers.some(([name]) => name === FAULT);
  const refusal = answer.status >= 400 && !struck ? await answer.clone().text() : "";
  if (refusal !== "" && !NOT_OURS.test(refusal)) problems.push(refusal);
  if (problems.length > 0) wrong.push(`${problems.join("\n")}\n${asked.slice(0, 2_000)}`);
}

/** How a body is written and sent; most as it should be. */
const MANNERS: readonly ((text: string) => Partial<Call> & { readonly body: Call["body"] })[] = [
  ...Array.from({ length: 30 }, () => (text: string) => ({ body: text })),
  (text) => ({ body: text.slice(0, text.length / 2) }),
  (text) => ({ body: `\ufeff${text}` }),
  (text) => ({ body: `{"model":"other","stream":1,"messages":[],${text.slice(1)}` }),
  (text) => ({ body: text.replace(/\d+/, "1e999") }),
  (text) => ({ body: text.replace(/[a-z]/g, "\\ud83d") }),
  (text) => ({ body: text.replace('"', '"\u0000') }),
  (text) => ({ body: Buffer.from(text).map((byte, i) => (i === 40 ? 0xff : byte)) }),
  (text) => ({ body: `[${text}]` }),
  (text) => ({ body: `${text}${text}` }),
  () => ({ body: "" }),
  () => ({ body: "null" }),
  () => ({ body: `${'{"messages":['.repeat(5_000)}` }),
  (text) => ({ body: gzipSync(text) }),
  (text) => ({ body: gzipSync(text), headers: { "content-encoding": "gzip" } }),
  (text) => ({ body: text, headers: { "content-type": "text/plain" } }),
  (text) => ({ body: text, headers: { "content-type": "multipart/form-data; boundary=x" } }),
  (text) => ({ body: text, headers: { "anthropic-beta": ",,x,\t" } }),
  (text) => ({ body: text, headers: { "idempotency-key": "k".repeat(400) } }),
];

const calls = fc.sample(
  fc
    .tuple(oddBody(MODELS), fc.constantFrom(...PATHS), fc.constantFrom(...MANNERS))
    .map(([body, path, manner]): Call => ({ path, headers: {}, ...manner(JSON.stringify(body)) })),
  { numRuns: COUNT, seed: SEED },
);

it("odd bodies are answered as OpenAI answers, and what goes upstream is what Claude takes", {
  timeout: 600_000,
}, async () => {
  const statuses = new Map<number, number>();
  const bad: string[] = [];
  let next = 0;
  const work = async (): Promise<void> => {
    for (let call = calls[next++]; call; call = calls[next++]) {
      const { status, problem } = await send(call);
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      if (problem)
        bad.push(
          `${problem}\n${call.path} ${JSON.stringify(call.headers)} ${Buffer.from(call.body).toString().slice(0, 2_000)}`,
        );
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  if (process.env.FUZZ_SEED) console.log(statuses);
  expect(bad).toEqual([]);
  expect(wrong).toEqual([]);
  // Many of them got through.
  expect(statuses.get(200)).toBeGreaterThan(COUNT / 5);
});

async function send({ path, headers, body }: Call): Promise<{ status: number; problem: string | null }> {
  let answer: Response;
  try {
    answer = await fetch(gateway.url + path, {
      method: "POST",
      headers: { authorization: `Bearer ${key.key}`, "content-type": "application/json", ...headers },
      body: body as BodyInit,
      signal: AbortSignal.timeout(HANGS_MS),
    });
    const text = await answer.text();
    return { status: answer.status, problem: problemWith(path, answer, text, FAULT in headers) };
  } catch (error) {
    return { status: 0, problem: `no answer: ${error}` };
  }
}

function problemWith(path: string, { status, headers }: Response, text: string, struck: boolean): string | null {
  const type = headers.get("content-type") ?? "";
  if (status >= 500 && !struck) return `${status}: ${text}`;
  if (type.startsWith("text/event-stream")) {
    const errors = path === "/v1/responses" ? responsesProblems(text) : readChatStream(text).errors;
    // A free-form tool's input is told as arguments where the answer is Chat's, to a body that was not.
    const real = errors.filter((error) => !error.startsWith("S10: arguments"));
    return real.length > 0 ? `${real.join("\n")}\n${text}` : null;
  }
  if (!type.startsWith("application/json")) return `content-type ${type}: ${text}`;
  const told = JSON.parse(text) as Body;
  if (status < 400) {
    const object = path === "/v1/responses" ? "response" : "chat.completion";
    return told.object === object ? null : `no ${object}: ${text}`;
  }
  return isOpenAIError(told) ? null : `no error of the dialect: ${text}`;
}

function responsesProblems(text: string): string[] {
  const last = parseSSE(text).at(-1)?.data ?? "{}";
  const { type } = JSON.parse(last) as Body;
  const ended = ["response.completed", "response.incomplete", "response.failed"].includes(String(type));
  return [...checkResponsesStream({}, text), ...(ended ? [] : [`ends with ${last}`])];
}

function isOpenAIError({ error, ...rest }: Body): boolean {
  if (typeof error !== "object" || error === null || Object.keys(rest).length > 0) return false;
  const { message, type, param, code, ...more } = error as Body;
  const mayBeNull = (value: unknown): boolean => value === null || typeof value === "string";
  const named = typeof message === "string" && message !== "" && typeof type === "string";
  return named && mayBeNull(param) && mayBeNull(code) && Object.keys(more).length === 0;
}

/** Where a stream breaks, in events or bytes, and how it may be written. */
const broken = fc.tuple(
  fc.constantFrom("error_after", "cut_after", "end_after", "malformed", "cut", "end", "error_first", "none"),
  fc.nat(40),
);
const written = fc.constantFrom(
  "",
  "crlf",
  "cr",
  "bom",
  "comments",
  "padded",
  "unknown_event",
  "sse_fields",
  "no_names",
);
const struck = fc
  .tuple(
    fc.constantFrom(...BODIES.slice(0, 3)),
    fc.constantFrom(...PATHS),
    broken,
    written,
    fc.constantFrom(5, 17, 64, 4_096),
  )
  .map(([body, path, [how, at], form, chunk]): Call => {
    const fault =
      how === "none"
        ? ""
        : how === "error_first"
          ? `${how}=overloaded_error`
          : `${how}=${how === "cut" || how === "end" ? at * 40 : at}`;
    const faults = [fault, form, `chunk=${chunk}`].filter((each) => each !== "").join(";");
    const asked = { ...body, stream: true, tool_choice: "auto", response_format: undefined, text: undefined };
    return { path, headers: { [FAULT]: faults }, body: JSON.stringify(asked) };
  });

it("a stream that breaks anywhere is told to its end, with every invariant", { timeout: 300_000 }, async () => {
  const bad: string[] = [];
  let whole = 0;
  const all = fc.sample(fc.noBias(struck), { numRuns: COUNT / 10, seed: SEED });
  let next = 0;
  const work = async (): Promise<void> => {
    for (let call = all[next++]; call; call = all[next++]) {
      const { status, problem } = await send(call);
      if (problem) bad.push(`${problem}\n${call.path} ${JSON.stringify(call.headers)}`);
      else if (status === 200) whole++;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  expect(bad).toEqual([]);
  expect(whole).toBeGreaterThan(COUNT / 20);
});

const ROUTES = [
  ...["/v1/chat/completions", "/v1/responses", "/v1/models", "/v1/embeddings", "/v1/completions", "/v1/audio/speech"],
  ...[
    "/v1/images/generations",
    "/v1/responses/resp_1/input_items",
    "/chat/completions",
    "/models",
    "//v1//responses//x",
  ],
];
const ENDS = [
  ...[
    "",
    "/",
    "/x",
    "/%00",
    "/%zz",
    "/%2f..%2f",
    "/..",
    "/\u00ff",
    "/resp_1",
    `/${"a".repeat(3_000)}`,
    "/a(high)",
    "/opus[1m]",
  ],
  ...[
    "?",
    "?limit=-1",
    "?limit=1e9&order=up",
    "?after_id=%ff",
    "?stream=true&starting_after=x",
    "?include[]=a&include[]=b",
  ],
  ...[
    "/__proto__",
    "/constructor",
    "/anthropic/opus",
    "/a/b/c/d",
    "/resp_1/cancel",
    "#x",
    "?a=b?c=d",
    "/claude-opus-5%20",
  ],
];
const METHODS = ["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"];
const HEADERS: readonly Record<string, string>[] = [
  ...[{}, { "x-api-key": "other" }, { "api-key": "" }, { authorization: "Bearer" }, { authorization: "Basic eDp5" }],
  ...[
    { "anthropic-version": "x" },
    { "access-control-request-headers": "a,\tb" },
    { "content-type": "application/json" },
  ],
  ...[{ origin: "null" }, { traceparent: "x" }, { "idempotency-key": "" }, { accept: "text/event-stream" }],
];

it("odd paths, queries, methods and headers are answered, and refused in JSON", { timeout: 120_000 }, async () => {
  const odd = fc.tuple(...[ROUTES, ENDS, METHODS, HEADERS].map((all) => fc.constantFrom<unknown>(...all)));
  const bad: string[] = [];
  for (const [route, end, method, more] of fc.sample(fc.noBias(odd), { numRuns: COUNT, seed: SEED })) {
    const headers = { authorization: `Bearer ${key.key}`, ...(more as Record<string, string>) };
    const { status, headers: told, text } = await raw(String(method), `${route}${end}`, headers);
    const named = `${method} ${route}${end} ${JSON.stringify(more)}: ${status} ${text.slice(0, 300)}`;
    if (status >= 500 || status === 0) bad.push(named);
    else if (status >= 400 && method !== "HEAD" && !isRefusal(told, text)) bad.push(named);
  }
  expect(bad).toEqual([]);
});

/** As it is written: `fetch` would mend the path. */
function raw(method: string, path: string, headers: Record<string, string>) {
  return new Promise<{ status: number; headers: IncomingHttpHeaders; text: string }>((resolve, reject) => {
    const sent = request({
      port: gateway.port,
      host: "127.0.0.1",
      method,
      path: encodeURI(path).replaceAll("%25", "%"),
      headers,
    });
    sent.setTimeout(HANGS_MS, () => sent.destroy(new Error(`no answer: ${method} ${path}`)));
    sent.on("error", reject);
    sent.on("response", (answer) => {
      let text = "";
      answer.setEncoding("utf8");
      answer.on("data", (piece: string) => {
        text += piece;
      });
      answer.on("end", () => resolve({ status: answer.statusCode ?? 0, headers: answer.headers, text }));
    });
    sent.end();
  });
}

function isRefusal(headers: IncomingHttpHeaders, text: string): boolean {
  if (!headers["content-type"]?.startsWith("application/json")) return false;
  const { error } = JSON.parse(text) as { error?: Body };
  return typeof error?.message === "string" && typeof error.type === "string";
}
