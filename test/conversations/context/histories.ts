/** Random histories of conversations, as they come about: said, answered, cancelled, edited, cut; by the room's own rules. */
import fc from "fast-check";
import type { ContentBlock } from "../../../clients/typescript/protocol.ts";
import { sign } from "../../../simulator/signature.ts";
import { type Assembled, assemble } from "../../../src/conversations/context/assemble.ts";
import { AnswerBuilder } from "../../../src/conversations/context/builder.ts";
import { awaitingResults } from "../../../src/conversations/context/tools.ts";
import type { Spec } from "../../../src/conversations/protocol.ts";
import type { Path, StoredCut, StoredMessage } from "../../../src/conversations/tree.ts";
import type { StreamEvent } from "../../../src/wire/anthropic/events.ts";

export type Fields = Readonly<Record<string, unknown>>;

export const MODELS = ["claude-opus-5-5", "claude-haiku-5-5", "claude-opus-5", "claude-opus-4-6", "claude-sonnet-4-5"];
const ORGANIZATIONS = ["org-a", "org-b", null];

export const TOOLS = ["look", "do"].map((name) => ({ name, input_schema: { type: "object" } }));

export function specOf(more: Partial<Spec> = {}): Spec {
  return {
    id: "conv_1",
    model: MODELS[0] ?? "",
    system: "Be brief.",
    maxTokens: 4_096,
    tools: TOOLS,
    options: {},
    context: { strategy: "truncate", max_input_tokens: null, keep_turns: 1, summary_model: null },
    ttlSeconds: 60,
    onBusy: "queue",
    metadata: {},
    ...more,
  };
}

export function messageOf(more: Partial<StoredMessage>): StoredMessage {
  return {
    id: "msg",
    role: "user",
    content: "hi",
    turn: "turn",
    parent: null,
    createdAt: 0,
    model: null,
    stopReason: null,
    incomplete: false,
    organization: null,
    tokensThrough: null,
    ...more,
  };
}

/** How the history goes on. What can't be done in its place is passed over. */
export type Step =
  | { readonly do: "say"; readonly blocks: number; readonly mark: string | null; readonly answer: Answer }
  | { readonly do: "edit"; readonly at: number; readonly answer: Answer }
  | { readonly do: "regenerate"; readonly answer: Answer }
  | { readonly do: "cut"; readonly at: number; readonly summary: boolean }
  | { readonly do: "model"; readonly to: string }
  | { readonly do: "account"; readonly to: string | null };

export type Answer = {
  readonly options: Fields;
  readonly think: "no" | "signed" | "redacted";
  readonly text: string | null;
  readonly calls: number;
  readonly server: boolean;
  /** Events of the answer that come. */
  readonly comes: "all" | number;
  readonly pauses: boolean;
};

const answer = (gentle: boolean): fc.Arbitrary<Answer> =>
  fc.record({
    options: gentle
      ? fc.constant({})
      : fc.constantFrom<Fields>(
          {},
          {},
          {},
          { thinking: { type: "disabled" } },
          { tools: [] },
          { cache_control: { type: "ephemeral", ttl: "1h" } },
        ),
    think: fc.constantFrom("no", "signed", "signed", "redacted"),
    text: fc.constantFrom(null, "", " \n", "Well.", "An answer 👋", "\ud83d"),
    calls: fc.constantFrom(0, 0, 1, 3),
    server: fc.boolean(),
    comes: fc.oneof(fc.constant("all" as const), fc.constant("all" as const), fc.nat(18)),
    pauses: fc.boolean(),
  });

/** `gentle`: nothing that changes the prefix. */
export function steps(gentle = false): fc.Arbitrary<Step[]> {
  const goesOn = fc.record({
    do: fc.constant("say" as const),
    blocks: fc.nat(30),
    mark: fc.constantFrom(null, null, "5m", "1h"),
    answer: answer(gentle),
  });
  const rough: fc.Arbitrary<Step>[] = [
    fc.record({ do: fc.constant("edit" as const), at: fc.nat(9), answer: answer(false) }),
    fc.record({ do: fc.constant("regenerate" as const), answer: answer(false) }),
    fc.record({ do: fc.constant("cut" as const), at: fc.nat(9), summary: fc.boolean() }),
    fc.record({ do: fc.constant("model" as const), to: fc.constantFrom(...MODELS) }),
    fc.record({ do: fc.constant("account" as const), to: fc.constantFrom(...ORGANIZATIONS) }),
  ];
  return fc.array(gentle ? goesOn : fc.oneof(goesOn, goesOn, goesOn, ...rough), { minLength: 1, maxLength: 14 });
}

export type Call = {
  readonly path: Path;
  readonly assembled: Assembled;
  readonly body: Fields;
  readonly model: string;
};

/** Plays the steps; gives each call that is made. */
export function play(all: readonly Step[], base: Spec = specOf()): Call[] {
  const history = new Story(base);
  for (const step of all) history.step(step);
  return history.calls;
}

class Story {
  readonly calls: Call[] = [];
  #spec: Spec;
  #messages: StoredMessage[] = [];
  #cuts: StoredCut[] = [];
  #organization: string | null = "org-a";
  #now = 0;

  constructor(spec: Spec) {
    this.#spec = spec;
  }

  step(step: Step): void {
    this.#now++;
    switch (step.do) {
      case "model":
        this.#spec = { ...this.#spec, model: step.to };
        return;
      case "account":
        this.#organization = step.to;
        return;
      case "cut":
        this.#cut(step.at, step.summary);
        return;
      case "say":
        this.#say(this.#words(step.blocks, step.mark), step.answer);
        return;
      case "edit": {
        const at = step.at % Math.max(1, this.#messages.length);
        if (this.#messages[at]?.role !== "user") return;
        this.#messages = this.#messages.slice(0, at);
        this.#say(this.#words(1, null), step.answer);
        return;
      }
      case "regenerate": {
        const at = this.#messages.findLastIndex(({ role }) => role === "user");
        if (at < 0) return;
        this.#messages = this.#messages.slice(0, at + 1);
        this.#answer(step.answer);
      }
    }
  }

  get #path(): Path {
    const on = new Set(this.#messages.map(({ id }) => id));
    return { messages: this.#messages, cut: this.#cuts.findLast(({ through }) => on.has(through)) ?? null };
  }

  /** What is said, results of open calls first. */
  #words(blocks: number, mark: string | null): ContentBlock[] {
    const calls = awaitingResults(this.#path);
    const results = calls.map((id, i) => ({
      type: "tool_result",
      tool_use_id: id,
      content: i === 1 ? [{ type: "text", text: "" }] : `result ${this.#now}`,
    }));
    const texts = Array.from({ length: calls.length > 0 ? blocks % 2 : blocks + 1 }, (_, i) => ({
      type: "text",
      text: i % 7 === 3 ? " " : `words ${this.#now}.${i}`,
    }));
    const all: ContentBlock[] = [...results, ...texts];
    const last = all.at(-1);
    if (mark !== null && last) all.splice(-1, 1, { ...last, cache_control: { type: "ephemeral", ttl: mark } });
    return all;
  }

  #say(content: ContentBlock[], answer: Answer): void {
    const before = this.#messages;
    const parent = before.at(-1)?.id ?? null;
    const id = `msg_${this.#now}`;
    const message = messageOf({ id, content, turn: `turn_${this.#now}`, parent, createdAt: this.#now });
    this.#messages = [...before, message];
    this.#answer(answer);
    // A turn that failed before its first event leaves nothing.
    if (answer.comes === 0) this.#messages = before;
  }

  #answer(answer: Answer): void {
    const { options } = answer;
    const user = this.#messages.at(-1);
    const spec = { ...this.#spec, options: { thinking: THINKING[this.#spec.model] } };
    const builder = new AnswerBuilder();
    const ask = (continued: readonly ContentBlock[]): Call => {
      const path = this.#path;
      const assembled = assemble(spec, options, path, {
        stream: true,
        ...(continued.length > 0 && { continued, continuedBy: this.#organization }),
      });
      if (!assembled.ok) throw new Error(JSON.stringify(assembled.error));
      const body = JSON.parse(new TextDecoder().decode(assembled.value.body)) as Fields;
      const call = { path, assembled: assembled.value, body, model: spec.model };
      this.calls.push(call);
      return call;
    };
    let { body } = ask([]);
    if (answer.pauses) {
      // Its thinking would be signed over half of the answer, which the simulator can't tell from another one.
      const paused = streamOf({ ...answer, think: "no", text: null, calls: 0 }, `p${this.#now}`, spec.model, [], null);
      for (const event of paused) builder.push(event);
      ({ body } = ask(builder.content()));
      builder.goOn();
    }
    const signer = this.#organization === null ? "org-unknown" : this.#organization;
    const said = answer.pauses ? { ...answer, think: "no" as const, server: false } : answer;
    const events = streamOf(said, String(this.#now), spec.model, body.messages as Fields[], signer);
    if (answer.pauses) events.splice(1, 0, ...blockEvents(-1, serverResult(`p${this.#now}`), []));
    for (const event of answer.comes === "all" ? events : events.slice(0, answer.comes)) builder.push(event);
    const content = builder.content();
    if (content.length === 0 || user === undefined) return;
    this.#messages = [
      ...this.#messages,
      messageOf({
        id: `answer_${this.#now}`,
        role: "assistant",
        content,
        turn: user.turn,
        parent: user.id,
        createdAt: this.#now,
        model: builder.model,
        stopReason: builder.stopReason,
        incomplete: !builder.finished,
        organization: this.#organization,
      }),
    ];
  }

  #cut(at: number, summary: boolean): void {
    const { cut, messages } = this.#path;
    const from = cut ? messages.findIndex(({ id }) => id === cut.through) + 1 : 0;
    const places = messages.flatMap(({ role, content }, i) =>
      role === "user" && typeof content !== "string" && content[0]?.type === "text" && i > from ? [i] : [],
    );
    const place = places[at % Math.max(1, places.length)];
    const through = place === undefined ? undefined : messages[place - 1];
    if (!through) return;
    const text = summary ? `What was said until ${this.#now}.` : null;
    const told = { strategy: "truncate", reason: "max_input_tokens", messages: 1, through: through.id } as const;
    this.#cuts.push({
      id: `cut_${this.#now}`,
      through: through.id,
      turn: `turn_${this.#now}`,
      summary: text,
      cut: { ...told, tokens_before: 2, tokens_after: 1, summary: null },
      createdAt: this.#now,
    });
  }
}

const THINKING: Readonly<Record<string, Fields>> = {
  "claude-opus-5-5": { type: "adaptive" },
  "claude-haiku-5-5": { type: "adaptive" },
  "claude-opus-5": { type: "adaptive" },
  "claude-opus-4-6": { type: "adaptive" },
  "claude-sonnet-4-5": { type: "enabled", budget_tokens: 1_024 },
};

const serverResult = (id: string): Fields => ({
  type: "web_search_tool_result",
  tool_use_id: `srv_${id}`,
  content: [],
});

/** The events of an answer to these messages. */
function streamOf(
  answer: Answer,
  id: string,
  model: string,
  messages: readonly Fields[],
  signer: string | null,
): StreamEvent[] {
  const { think, text, calls, server, pauses } = answer;
  const organization = signer ?? "";
  const paused = signer === null;
  const blocks: [Fields, Fields[]][] = [];
  if (think === "redacted") blocks.push([{ type: "redacted_thinking", data: "x" }, []]);
  if (think === "signed") {
    const signature = sign({ organization, model }, messages, "Hm.");
    const deltas = [
      { type: "thinking_delta", thinking: "Hm." },
      { type: "signature_delta", signature },
    ];
    blocks.push([{ type: "thinking", thinking: "", signature: "" }, deltas]);
  }
  if (text !== null) blocks.push([{ type: "text", text: "" }, [{ type: "text_delta", text }]]);
  if (paused || (server && !pauses)) {
    const use = { type: "server_tool_use", id: `srv_${id}`, name: "web_search", input: {} };
    blocks.push([use, [{ type: "input_json_delta", partial_json: '{"q":1}' }]]);
    if (!paused) blocks.push([serverResult(id), []]);
  }
  for (let i = 0; i < calls; i++) {
    const use = { type: "tool_use", id: `toolu_${id}_${i}`, name: "look", input: {} };
    blocks.push([use, [{ type: "input_json_delta", partial_json: i === 1 ? "" : '{"a":{"b":[1]}}' }]]);
  }
  const stop = paused ? "pause_turn" : calls > 0 ? "tool_use" : "end_turn";
  return [
    { type: "message_start", message: { model, usage: { input_tokens: 5, output_tokens: 1 } } },
    ...blocks.flatMap(([block, deltas], index) => blockEvents(index, block, deltas)),
    { type: "message_delta", delta: { stop_reason: stop }, usage: { output_tokens: 7 } },
    { type: "message_stop" },
  ];
}

function blockEvents(index: number, block: Fields, deltas: readonly Fields[]): StreamEvent[] {
  return [
    { type: "content_block_start", index, content_block: block },
    ...deltas.map((delta) => ({ type: "content_block_delta", index, delta })),
    { type: "content_block_stop", index },
  ];
}
