/** What is asked of every subject: bodies, and how the load generator sends them. */

export type BodyName = keyof typeof BODIES;

export type Scenario = {
  readonly id:
    | "request1"
    | "request16"
    | "request64"
    | "large16"
    | "first1"
    | "stream32"
    | "open"
    | "chat16"
    | "chatLarge16"
    | "chatStream32";
  /** How the report calls it. */
  readonly title: string;
  readonly body: BodyName;
  /** Left out: the path of the Messages API. The others are asked of the gateway alone. */
  readonly path?: string;
  /** Connections of the load generator, each with one call at a time. */
  readonly connections: number;
  /** For the open streams: every connection makes one call, and their opening is spread over this many ms. */
  readonly rampMs?: number;
};

const MESSAGES = [
  { role: "user", content: "Tell me, in two sentences, why the sky is blue at noon and red at dusk." },
  { role: "assistant", content: "Air scatters short wavelengths more." },
  { role: "user", content: "And why not violet?" },
];
const LARGE_TEXT = 'All human beings are born free "and equal" in dignity and rights.\n'.repeat(1_900);
const MODEL = "claude-sonnet-4-5";

export const CHAT_PATH = "/v1/chat/completions";

const ask = (model: string, more: Record<string, unknown> = {}): string =>
  JSON.stringify({ model, max_tokens: 1024, system: "Answer briefly.", messages: MESSAGES, ...more });

/** The same as a Chat Completion. */
const chat = (model: string, more: Record<string, unknown> = {}): string =>
  JSON.stringify({
    model,
    max_tokens: 1024,
    messages: [{ role: "system", content: "Answer briefly." }, ...MESSAGES],
    ...more,
  });

/** The fake upstream reads from the end of the model's name how it is to answer (native/upstream.c). */
export const BODIES = {
  small: ask(MODEL),
  large: ask(MODEL, { messages: [{ role: "user", content: LARGE_TEXT }] }),
  // 4 events, the first after 5 ms, for many first events in little time.
  first: ask(`${MODEL}_n4_t5_g1000`, { stream: true }),
  // 64 events 5 ms apart: a fast model.
  stream: ask(`${MODEL}_n64_t20_g5000`, { stream: true }),
  // 10 events a second, for 10 s or 3 s.
  slow: ask(`${MODEL}_n100_t100_g100000`, { stream: true }),
  slowQuick: ask(`${MODEL}_n30_t100_g100000`, { stream: true }),
  chat: chat(MODEL),
  chatLarge: chat(MODEL, { messages: [{ role: "user", content: LARGE_TEXT }] }),
  chatStream: chat(`${MODEL}_n64_t20_g5000`, { stream: true }),
};

/** Output tokens that the fake upstream reports with each answer: what the meter must have counted. */
export const OUTPUT_TOKENS: Readonly<Record<BodyName, number>> = {
  small: 175,
  large: 175,
  first: 4 * 4,
  stream: 64 * 4,
  slow: 100 * 4,
  slowQuick: 30 * 4,
  chat: 175,
  chatLarge: 175,
  chatStream: 64 * 4,
};

const OPENING_MS = 3_000;
const QUICK_OPENING_MS = 2_000;

export function scenarios(openStreams: number, quick: boolean): readonly Scenario[] {
  return [
    { id: "request1", title: "1 client", body: "small", connections: 1 },
    { id: "request16", title: "16 clients", body: "small", connections: 16 },
    { id: "chat16", title: "Chat, 16 clients", body: "chat", connections: 16, path: CHAT_PATH },
    { id: "request64", title: "64 clients", body: "small", connections: 64 },
    { id: "large16", title: "128 KB requests, 16 clients", body: "large", connections: 16 },
    {
      id: "chatLarge16",
      title: "Chat, 128 KB requests, 16 clients",
      body: "chatLarge",
      connections: 16,
      path: CHAT_PATH,
    },
    { id: "first1", title: "short streams, 1 client", body: "first", connections: 1 },
    { id: "stream32", title: "32 streams", body: "stream", connections: 32 },
    { id: "chatStream32", title: "Chat, 32 streams", body: "chatStream", connections: 32, path: CHAT_PATH },
    {
      id: "open",
      title: `${openStreams.toLocaleString("en")} open streams`,
      body: quick ? "slowQuick" : "slow",
      connections: openStreams,
      rampMs: quick ? QUICK_OPENING_MS : OPENING_MS,
    },
  ];
}
