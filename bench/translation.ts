/**
 * What the OpenAI dialect's own code costs, without the runtime around it: each streamed event beside the native meter's
 * look at the same bytes, and a request of 128 KB beside the scan of one. CPU of this process, in turn, round after round.
 */
import { EventReader } from "../src/wire/anthropic/events.ts";
import { modelFacts } from "../src/wire/anthropic/model-facts.ts";
import { readRequestFacts } from "../src/wire/anthropic/request.ts";
import { StreamMeter } from "../src/wire/anthropic/stream-meter.ts";
import { readChat } from "../src/wire/openai/chat-request.ts";
import { chatStream } from "../src/wire/openai/chat-stream.ts";
import type { Draft } from "../src/wire/openai/draft.ts";
import { messagesJson } from "../src/wire/openai/messages-body.ts";
import { responsesStream } from "../src/wire/openai/responses-stream.ts";
import { fit as fitToModel } from "../src/wire/openai/steps.ts";

const ROUNDS = 15;
const DELTAS = 2_000;
const STREAMS = 20;
const REQUESTS = 100;
const REQUEST_BYTES = 128 * 1024;
const MODEL = "claude-opus-5";

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const event = (name: string, data: object): Uint8Array =>
  encoder.encode(`event: ${name}\ndata: ${JSON.stringify({ type: name, ...data })}\n\n`);

const usage = { input_tokens: 10, output_tokens: 1 };
const message = { id: "msg_bench", type: "message", role: "assistant", model: MODEL, content: [], usage };
const pieces = [
  event("message_start", { message }),
  event("content_block_start", { index: 0, content_block: { type: "text", text: "" } }),
  ...Array.from({ length: DELTAS }, (_, n) =>
    event("content_block_delta", { index: 0, delta: { type: "text_delta", text: ` word ${n}` } }),
  ),
  event("content_block_stop", { index: 0 }),
  event("message_delta", { delta: { stop_reason: "end_turn" }, usage: { output_tokens: DELTAS } }),
  event("message_stop", {}),
];

const chatBody = encoder.encode(
  JSON.stringify({
    model: MODEL,
    messages: Array.from({ length: REQUEST_BYTES / 1_024 }, (_, n) => ({
      role: n % 2 === 0 ? "user" : "assistant",
      content: "word ".repeat(196),
    })),
  }),
);

function draftOf(body: Uint8Array): Draft {
  const draft = readChat(JSON.parse(decoder.decode(body)));
  if (!draft.ok) throw new Error("the body is refused");
  return draft.value;
}

const { telling } = draftOf(chatBody);
const facts = modelFacts(MODEL);
const name = { id: "req_bench", created: 1 };
let sink = 0;

const tell = (mapper: ReturnType<typeof chatStream>, written: (text: string) => number): void => {
  const events = new EventReader();
  for (const piece of pieces) {
    for (const one of events.read(piece)) sink += written(mapper.push(one) as string);
  }
};
const asText = (text: string): number => text.length;
const asBytes = (text: string): number => encoder.encode(text).length;
const seal = async (): Promise<string> => "";
const subjects: readonly (readonly [what: string, times: number, per: number, run: () => void])[] = [
  [
    "event: native meter",
    STREAMS,
    pieces.length,
    () => {
      const meter = new StreamMeter();
      for (const piece of pieces) meter.push(piece);
      sink += meter.facts.usage.outputTokens;
    },
  ],
  ["event: told as a Chat chunk", STREAMS, pieces.length, () => tell(chatStream(name, telling), asText)],
  ["event: told as a Chat chunk, in bytes", STREAMS, pieces.length, () => tell(chatStream(name, telling), asBytes)],
  [
    "event: told as a Responses event",
    STREAMS,
    pieces.length,
    () => tell(responsesStream(name, telling, seal), asText),
  ],
  [
    "128 KB request: native scan",
    REQUESTS,
    1,
    () => {
      sink += Number(readRequestFacts(chatBody).ok);
    },
  ],
  [
    "128 KB request: from Chat to Messages",
    REQUESTS,
    1,
    () => {
      const draft = draftOf(chatBody);
      if (fitToModel(draft, facts)) throw new Error("the draft does not fit");
      sink += encoder.encode(messagesJson(draft)).length;
    },
  ],
];

const micros = subjects.map((): number[] => []);
for (let round = 0; round < ROUNDS; round++) {
  for (const [at, [, times, per, run]] of subjects.entries()) {
    const before = process.cpuUsage();
    for (let n = 0; n < times; n++) run();
    const { user, system } = process.cpuUsage(before);
    micros[at]?.push((user + system) / (times * per));
  }
}
const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;
const width = Math.max(...subjects.map(([what]) => what.length));
for (const [at, [what]] of subjects.entries()) {
  console.log(
    `${what.padEnd(width)}  ${median(micros[at] ?? [])
      .toFixed(2)
      .padStart(8)} µs`,
  );
}
if (sink === 0) throw new Error("nothing was done");
