/**
 * Idempotency keys, the response cache, drains, batches, queues and a pool that breaks, all at once. Every answer of the
 * upstreams says which question it answers and is made once, so that one that is paid for twice, lost, mixed or shown to
 * the wrong caller is seen as such.
 */
import { cpSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import Anthropic from "@anthropic-ai/sdk";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LOAN_EXPIRES_MS } from "../../src/ledger/protocol.ts";
import { type Answer, call, type Manners } from "../faults/client.ts";
import { errorJson, event, MODEL } from "../faults/script.ts";
import {
  ADMIN_TOKEN,
  type AuditRow,
  type Gateway,
  type Key,
  MASTER_KEY,
  startGateway,
  TAG_SECRET,
  UPSTREAM_KEY,
  until,
  withKey,
} from "../support/gateway.ts";
import { pause, type Script, type ScriptedUpstream, startScriptedUpstream } from "../support/scripted-upstream.ts";

const USAGE = { input_tokens: 30, output_tokens: 20 };
/** What one answer costs, in µUSD, by the price of claude-opus-5-5. */
const COST = 30 * 4 + 20 * 20;
const DELTAS = 10;

const folder = mkdtempSync(join(tmpdir(), "sluice-together-"));
let upstream: ScriptedUpstream;
let gateway: Gateway;

beforeAll(async () => {
  upstream = await startScriptedUpstream();
  upstream.script = answering();
  const bindings = { LEDGER_DEADLINE_MS: "5000", QUEUE_WAIT_MS: "2000" };
  gateway = await startGateway(upstream.url, { bindings, stateDir: join(folder, "one") });
});
afterAll(async () => {
  await gateway?.stop();
  await upstream?.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** Number of the answer that was made last, by whichever upstream. */
let made = 0;

/** The whole answer of a number to a question. */
function wholeOf(nth: number, question: string, stream: boolean): string {
  const id = `msg_${nth}`;
  if (!stream) {
    const content = [{ type: "text", text: question }];
    const message = { id, type: "message", role: "assistant", model: MODEL, content, stop_reason: "end_turn" };
    return JSON.stringify({ ...message, usage: USAGE });
  }
  return piecesOf(nth, question).join("");
}

function piecesOf(nth: number, question: string): string[] {
  const message = { id: `msg_${nth}`, model: MODEL, usage: { ...USAGE, output_tokens: 1 } };
  const delta = (n: number): string =>
    event("content_block_delta", { index: 0, delta: { type: "text_delta", text: `${question} ${nth} ${n}` } });
  const end = event("message_delta", { delta: { stop_reason: "end_turn" }, usage: USAGE });
  return [
    event("message_start", { message }),
    ...Array.from({ length: DELTAS }, (_, n) => delta(n)),
    end + event("message_stop"),
  ];
}

type Sent = { readonly stream: boolean; readonly question: string };

function sentIn(body: Buffer): Sent {
  const { stream = false, messages } = JSON.parse(body.toString()) as {
    stream?: boolean;
    messages: { content: string }[];
  };
  return { stream, question: messages[0]?.content ?? "" };
}

/** Answers in full, each time with another number. `ms`: how long it takes. */
function answering(ms = 0): Script {
  return async (response, { body }) => {
    const { stream, question } = sentIn(body);
    const nth = ++made;
    if (!stream) {
      if (ms > 0) await pause(ms);
      response.setHeader("content-type", "application/json");
      return void response.end(wholeOf(nth, question, false));
    }
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (const piece of piecesOf(nth, question)) {
      response.write(piece);
      if (ms > 0) await pause(ms / DELTAS);
    }
    response.end();
  };
}

/** The scripts for the attempts from now on, one after the other; the last one stays. */
function inTurn(...scripts: Script[]): { asked: () => number } {
  let asked = 0;
  upstream.script = (response, request) => {
    const script = scripts[Math.min(asked++, scripts.length - 1)];
    return script?.(response, request);
  };
  return { asked: () => asked };
}

const refusing =
  (status: number, headers: Record<string, string> = {}): Script =>
  (response) => {
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end(errorJson("overloaded_error"));
  };

/** The canary stands in every question. */
const PROMPT_CANARY = "PROMPT-CANARY-91d";
let questions = 0;
const newQuestion = (): string => `${PROMPT_CANARY} ${++questions}`;

type Asking = {
  readonly at?: Gateway;
  readonly stream?: boolean;
  readonly idempotency?: string;
  readonly headers?: Record<string, string>;
  readonly manners?: Manners;
};

function ask(
  key: Key,
  question: string,
  { at = gateway, stream = false, idempotency, headers, manners }: Asking = {},
): Promise<Answer> {
  const body = JSON.stringify({
    model: MODEL,
    max_tokens: 50,
    stream,
    messages: [{ role: "user", content: question }],
  });
  const own = idempotency === undefined ? {} : { "idempotency-key": idempotency };
  return call(`${at.url}/v1/messages`, withKey(key, { ...own, ...headers }), body, manners);
}

const text = ({ body }: Answer): string => body.toString();
const replayed = ({ headers }: Answer): boolean => headers["idempotent-replayed"] === "true";
const numberIn = (answer: Answer): number => Number(/"id":"msg_(\d+)"/.exec(text(answer))?.[1]);

/** It is all of one answer, to this very question. */
function expectWhole(answer: Answer, question: string, stream = false): number {
  expect([answer.status, answer.end, stream ? "" : text(answer).slice(0, 60)]).toEqual([
    200,
    "clean",
    stream ? "" : expect.stringContaining('{"id":"msg_'),
  ]);
  const nth = numberIn(answer);
  expect(text(answer)).toBe(wholeOf(nth, question, stream));
  return nth;
}

const BUDGET = { budget: { usd: 10, period: "total", mode: "strict" } };

/** The key has paid for so many whole answers, and has a row for each call. */
async function expectPaid(key: Key, answers: number, calls: number): Promise<void> {
  const rows = await gateway.rows(key, calls);
  expect(rows).toHaveLength(calls);
  expect(rows.reduce((sum, row) => sum + Number(row.cost_micro_usd), 0)).toBe(answers * COST);
  const sums = await until(async () => {
    const now = await gateway.usage(`key=${key.id}`);
    return now.requests === calls ? now : undefined;
  }, "the sums");
  expect(sums).toMatchObject({ cost_micro_usd: answers * COST, unreported: 0 });
  expect((await gateway.settled(key)).budget?.spent_micro_usd).toBe(answers * COST);
}

describe("an idempotency key before a pool that fails", () => {
  for (const stream of [false, true]) {
    it(`F-03, I-01: a 529 first is part of the one run: attached, replayed, charged once (stream: ${stream})`, async () => {
      const key = await gateway.makeKey(BUDGET);
      const question = newQuestion();
      const { asked } = inTurn(refusing(529, { "retry-after": "1" }), answering(200));
      const first = ask(key, question, { stream, idempotency: "k" });
      await until(() => asked() === 1 || undefined, "the first attempt");
      const others = Array.from({ length: 4 }, () => ask(key, question, { stream, idempotency: "k" }));
      const answers = await Promise.all([first, ...others]);
      const numbers = answers.map((answer) => expectWhole(answer, question, stream));
      expect(new Set(numbers).size).toBe(1);
      expect(answers.map(replayed)).toEqual([false, true, true, true, true]);
      expectWhole(await ask(key, question, { stream, idempotency: "k" }), question, stream);
      expect(asked()).toBe(2);
      await expectPaid(key, 1, 6);
      const rows = await gateway.rows(key, 6);
      expect(rows.map((row) => row.attempts).sort()).toEqual([0, 0, 0, 0, 0, 2]);
    });
  }

  it("I-04: a cut reaches all who read, late ones from the first byte; nobody is given it later", async () => {
    const key = await gateway.makeKey(BUDGET);
    const question = newQuestion();
    const gate = Promise.withResolvers<void>();
    const cut: Script = async (response) => {
      const pieces = piecesOf(++made, question);
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(pieces.slice(0, 5).join(""));
      await gate.promise;
      response.write(pieces[5]?.slice(0, 30));
      await pause(50);
      response.destroy();
    };
    const { asked } = inTurn(cut, answering());
    const options = { stream: true, idempotency: "k" };
    const first = ask(key, question, options);
    await until(() => asked() === 1 || undefined, "the run");
    const second = ask(key, question, options);
    const leaver = await ask(key, question, { ...options, manners: { leave: { afterBytes: 10 } } });
    expect(leaver.end).toBe("left");
    const third = ask(key, question, options);
    await pause(200);
    gate.resolve();
    const answers = await Promise.all([first, second, third]);
    for (const answer of answers) {
      expect([answer.status, answer.end]).toEqual([200, "clean"]);
      expect(text(answer)).toContain("event: error");
      expect(text(answer)).not.toContain("message_stop");
      expect(text(answer)).toBe(text(answers[0] as Answer));
    }
    expect(asked()).toBe(1);
    const again = await ask(key, question, options);
    expectWhole(again, question, true);
    expect([replayed(again), asked()]).toEqual([false, 2]);
    const rows = await gateway.rows(key, 5);
    expect(rows.filter((row) => row.cost_micro_usd !== 0).map((row) => row.outcome)).toEqual([
      "upstream_cut",
      "complete",
    ]);
  });

  it("F-20, I-02: a client that leaves while its run waits for the next attempt loses nothing for the others", async () => {
    const key = await gateway.makeKey(BUDGET);
    const question = newQuestion();
    const { asked } = inTurn(refusing(529, { "retry-after": "1" }), answering(50));
    const left = ask(key, question, { idempotency: "k", manners: { leave: { afterMs: 400 } } });
    await until(() => asked() === 1 || undefined, "the first attempt");
    const other = ask(key, question, { idempotency: "k" });
    expect((await left).end).toBe("left");
    expectWhole(await other, question);
    expectWhole(await ask(key, question, { idempotency: "k" }), question);
    expect(asked()).toBe(2);
    await expectPaid(key, 1, 3);
  });

  it("Q-04, I-02: a client that leaves in line hands its turn on; the next one waits for a slot and runs", async () => {
    const key = await gateway.makeKey({ ...BUDGET, limits: { concurrent_requests: 1 } });
    const [slow, question] = [newQuestion(), newQuestion()];
    const { asked } = inTurn(answering(1_200), answering());
    const holder = ask(key, slow);
    await until(() => asked() === 1 || undefined, "the slot to be taken");
    const left = ask(key, question, { idempotency: "k", manners: { leave: { afterMs: 400 } } });
    await pause(100);
    const others = [1, 2, 3].map(() => ask(key, question, { idempotency: "k" }));
    expect((await left).end).toBe("left");
    expectWhole(await holder, slow);
    for (const other of await Promise.all(others)) expectWhole(other, question);
    expect(asked()).toBe(2);
    await expectPaid(key, 2, 5);
  });

  it("Q-02, I-02: the first of two is refused for want of a slot; the second runs", async () => {
    const key = await gateway.makeKey({ ...BUDGET, limits: { concurrent_requests: 1 } });
    const [slow, question] = [newQuestion(), newQuestion()];
    const { asked } = inTurn(answering(3_000), answering());
    const holder = ask(key, slow);
    await until(() => asked() === 1 || undefined, "the slot to be taken");
    const first = ask(key, question, { idempotency: "k" });
    await pause(500);
    const second = ask(key, question, { idempotency: "k" });
    const refused = await first;
    expect([refused.status, text(refused)]).toEqual([429, expect.stringContaining("concurrent")]);
    expectWhole(await second, question);
    expectWhole(await holder, slow);
    expect(asked()).toBe(2);
    await expectPaid(key, 2, 3);
  });

  it("I-02: refused by budget and by rate one after the other, at once; what follows the change runs", async () => {
    const question = newQuestion();
    const { asked } = inTurn(answering());
    const poor = { budget: { usd: 0.000_001, period: "total", mode: "strict" } };
    const enough = { budget: { usd: 10, period: "total", mode: "strict" } };
    for (const [limits, better] of [
      [poor, enough],
      [
        { limits: { output_tokens_per_minute: 1, output_tokens_burst: 1 } },
        { limits: { output_tokens_per_minute: null, output_tokens_burst: null } },
      ],
    ]) {
      const key = await gateway.makeKey(limits);
      const before = asked();
      if ("limits" in (limits ?? {})) expectWhole(await ask(key, newQuestion()), `${PROMPT_CANARY} ${questions}`);
      const startedAt = Date.now();
      const refused = await Promise.all(Array.from({ length: 6 }, () => ask(key, question, { idempotency: "k" })));
      expect(refused.map(({ status }) => status)).toEqual(refused.map(() => 429));
      expect(Date.now() - startedAt).toBeLessThan(8_000);
      await gateway.admin(`keys/${key.id}`, { method: "PATCH", json: better });
      const runs = await until(async () => {
        const answer = await ask(key, question, { idempotency: "k" });
        return answer.status === 200 ? answer : undefined;
      }, "the change");
      expectWhole(runs, question);
      expect(replayed(await ask(key, question, { idempotency: "k" }))).toBe(true);
      expect(asked() - before).toBe("limits" in (limits ?? {}) ? 2 : 1);
    }
  });

  it("I-06: the SDK's own retries under one key: one run, one answer, one charge", async () => {
    const key = await gateway.makeKey(BUDGET);
    const question = newQuestion();
    const { asked } = inTurn(refusing(529, { "retry-after": "1" }), answering(2_000));
    const client = new Anthropic({ apiKey: key.key, baseURL: gateway.url, maxRetries: 6, timeout: 900 });
    const message = await client.messages.create(
      { model: MODEL, max_tokens: 50, messages: [{ role: "user", content: question }] },
      { headers: { "Idempotency-Key": "one logical call" } },
    );
    expect(message.content).toEqual([{ type: "text", text: question }]);
    // The gateway's own two attempts, and none of the SDK's.
    expect(asked()).toBe(2);
    const rows = await gateway.rows(key, 3);
    expect(rows.reduce((sum, row) => sum + Number(row.cost_micro_usd), 0)).toBe(COST);
    expect((await gateway.settled(key)).budget?.spent_micro_usd).toBe(COST);
  });
});

describe("an idempotency key whose key changes", () => {
  it("A-07: revoked with `cut`: all who read are cut, within seconds; with `finish` all have it whole", async () => {
    for (const on_revoke of ["cut", "finish"]) {
      const key = await gateway.makeKey({ ...BUDGET, on_revoke, on_disconnect: "drain" });
      const question = newQuestion();
      const { asked } = inTurn(answering(6_000));
      const options = { stream: true, idempotency: "k" };
      const first = ask(key, question, options);
      await until(() => asked() === 1 || undefined, "the run");
      const others = [ask(key, question, options), ask(key, question, options)];
      await pause(300);
      expect((await gateway.admin(`keys/${key.id}`, { method: "DELETE" })).status).toBe(200);
      const revokedAt = Date.now();
      for (const answer of await Promise.all([first, ...others])) {
        if (on_revoke === "finish") expectWhole(answer, question, true);
        else {
          expect(answer.startedAt + answer.ms - revokedAt).toBeLessThan(4_000);
          expect(text(answer)).toContain("authentication_error");
          expect(text(answer)).not.toContain("message_stop");
        }
      }
      expect((await ask(key, question, options)).status).toBe(401);
      expect(asked()).toBe(1);
      const rows = await gateway.rows(key, 3);
      expect(rows.map((row) => row.outcome)).toEqual(
        rows.map(() => (on_revoke === "cut" ? "upstream_cut" : "complete")),
      );
      expect(rows.filter((row) => Number(row.cost_micro_usd) > 0)).toHaveLength(1);
    }
  });

  it("L-05: a budget that is used up meanwhile takes nothing from those who read", async () => {
    const key = await gateway.makeKey({ budget: { usd: (2 * COST) / 1e6, period: "total", mode: "soft" } });
    const question = newQuestion();
    const { asked } = inTurn(answering(1_500), answering());
    const options = { stream: true, idempotency: "k" };
    const first = ask(key, question, options);
    await until(() => asked() === 1 || undefined, "the run");
    await gateway.admin(`keys/${key.id}`, {
      method: "PATCH",
      json: { budget: { usd: 0.000_001, period: "total", mode: "soft" } },
    });
    await until(
      async () => (await ask(key, newQuestion())).status === 429 || undefined,
      "the budget to be tight",
      5_000,
    );
    const late = ask(key, question, options);
    for (const answer of await Promise.all([first, late])) expectWhole(answer, question, true);
    const kept = await ask(key, question, options);
    expectWhole(kept, question, true);
    expect(replayed(kept)).toBe(true);
  });

  it("I-03: a rotated key is the same key: both secrets get the one answer", async () => {
    const key = await gateway.makeKey(BUDGET);
    const question = newQuestion();
    const { asked } = inTurn(answering(1_000));
    const first = ask(key, question, { idempotency: "k" });
    await until(() => asked() === 1 || undefined, "the run");
    const rotated = await gateway.admin(`keys/${key.id}/rotate`, { json: { grace_seconds: 600 } });
    const next: Key = { id: key.id, key: ((await rotated.json()) as Key).key };
    expect(next.key).not.toBe(key.key);
    const answers = [
      await first,
      ...(await Promise.all([key, next].map((one) => ask(one, question, { idempotency: "k" })))),
    ];
    expect(new Set(answers.map((answer) => expectWhole(answer, question))).size).toBe(1);
    expect(asked()).toBe(1);
    await expectPaid(key, 1, 3);
  });

  it("D-03, I-02: a key that drains: who leaves has paid, once, and finds the answer", async () => {
    const key = await gateway.makeKey({ ...BUDGET, on_disconnect: "drain" });
    const question = newQuestion();
    const { asked } = inTurn(answering(800));
    const options = { stream: true, idempotency: "k" };
    const left = await ask(key, question, { ...options, manners: { leave: { afterBytes: 100 } } });
    expect(left.end).toBe("left");
    expectWhole(await ask(key, question, options), question, true);
    expectWhole(await ask(key, question, options), question, true);
    expect(asked()).toBe(1);
    await expectPaid(key, 1, 3);
  });
});

const TTL = { "x-sluice-cache": "ttl=300" };

describe("the response cache among workspaces", () => {
  it("C-03: thirty random pairs of keys in three workspaces: no answer crosses, and each is paid for once", async () => {
    inTurn(answering(20));
    const workspaces = ["ws_t1", "ws_t2", "ws_t3"];
    const keys = await Promise.all(
      Array.from({ length: 9 }, async (_, n) => {
        const workspace = workspaces[n % 3] ?? "";
        return {
          workspace,
          key: await gateway.makeKey({ workspace, ...(n < 3 ? { cache: { ttl_seconds: 300 } } : {}) }),
        };
      }),
    );
    const shared = [newQuestion(), newQuestion(), newQuestion()];
    const owners = new Map<number, string>();
    const pick = <T>(of: readonly T[]): T => of[Math.floor(Math.random() * of.length)] as T;
    const seen: string[] = [];
    for (let pair = 0; pair < 30; pair += 5) {
      await Promise.all(
        Array.from({ length: 5 }, async () => {
          const [question, stream] = [pick(shared), Math.random() < 0.5];
          for (const { key, workspace } of [pick(keys), pick(keys)]) {
            const answer = await ask(key, question, { stream, headers: TTL });
            const nth = expectWhole(answer, question, stream);
            expect([nth, owners.get(nth) ?? workspace]).toEqual([nth, workspace]);
            owners.set(nth, workspace);
            seen.push(String(answer.headers["x-sluice-cache"]));
          }
        }),
      );
    }
    expect(seen.filter((one) => one === "hit").length + owners.size).toBe(60);
    expect(owners.size).toBeLessThanOrEqual(18);
  });

  it("C-06: a purge while an answer is made: whoever asks after it has one of their own, which stays", async () => {
    const workspace = "ws_purged";
    const key = await gateway.makeKey({ workspace });
    const question = newQuestion();
    const { asked } = inTurn(answering(3_500), answering());
    const first = ask(key, question, { headers: TTL });
    await until(() => asked() === 1 || undefined, "the run");
    expect((await gateway.admin(`workspaces/${workspace}/cache/purge`, { method: "POST" })).status).toBe(200);
    await pause(2_100);
    const second = await ask(key, question, { headers: TTL });
    const before = expectWhole(await first, question);
    const after = expectWhole(second, question);
    expect(after).not.toBe(before);
    expect(expectWhole(await ask(key, question, { headers: TTL }), question)).toBe(after);
    expect(asked()).toBe(2);
  });

  it("C-07: a hit is a request and nothing else: not of the budget, of the rate, and never of another key's models", async () => {
    const workspace = "ws_hits";
    const { asked } = inTurn(answering());
    const rich = await gateway.makeKey({ workspace });
    const poor = await gateway.makeKey({ workspace, budget: { usd: 0.000_001, period: "total", mode: "strict" } });
    const rated = await gateway.makeKey({ workspace, limits: { requests_per_minute: 2 } });
    const narrow = await gateway.makeKey({ workspace, models: ["claude-haiku-*"] });
    const scopeless = await gateway.makeKey({ workspace, scopes: ["files"] });
    const cutting = await gateway.makeKey({ workspace, on_revoke: "cut" });
    for (const stream of [false, true]) {
      const question = newQuestion();
      const nth = expectWhole(await ask(rich, question, { stream, headers: TTL }), question, stream);
      const hit = await ask(poor, question, { stream, headers: TTL });
      expect([expectWhole(hit, question, stream), hit.headers["x-sluice-cache"]]).toEqual([nth, "hit"]);
      expect((await ask(poor, newQuestion(), { stream, headers: TTL })).status).toBe(429);
      for (const other of [narrow, scopeless]) {
        const refused = await ask(other, question, { stream, headers: TTL });
        expect([refused.status, text(refused).includes(question)]).toEqual([403, false]);
      }
      const own = await ask(cutting, question, { stream, headers: TTL });
      expect([own.status, own.headers["x-sluice-cache"]]).toEqual([200, stream ? "bypass" : "hit"]);
      const statuses = [];
      for (let n = 0; n < 2; n++) statuses.push((await ask(rated, question, { stream, headers: TTL })).status);
      expect(statuses).toEqual(stream ? [429, 429] : [200, 200]);
    }
    // Of two questions, and of one stream that is never shared.
    expect(asked()).toBe(3);
  });
});

/** Upstreams of several kinds of calls: batches are made, read and told of, everything else is answered. */
function mixed(ms: () => number, madeFor: Map<string, number>, batches: Set<string>): Script {
  return (response, request) => {
    const { method, target, body } = request;
    if (!target.startsWith("/v1/messages/batches")) {
      const { question } = sentIn(body);
      const whose = question.split(" ")[1] ?? "";
      madeFor.set(whose, (madeFor.get(whose) ?? 0) + 1);
      return answering(ms())(response, request);
    }
    const id = method === "POST" ? `msgbatch_${++made}` : target.split("/")[4];
    if (method === "POST") batches.add(String(id));
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ id, type: "message_batch", processing_status: "in_progress", results_url: null }));
  };
}

describe("an idempotency key on a batch", () => {
  const path = "/v1/messages/batches";
  const make = (key: Key, question: string, idempotency = "k", manners: Manners = {}): Promise<Answer> => {
    const params = { model: MODEL, max_tokens: 50, messages: [{ role: "user", content: question }] };
    const headers = withKey(key, { "idempotency-key": idempotency });
    return call(`${gateway.url}${path}`, headers, JSON.stringify({ requests: [{ custom_id: "a", params }] }), manners);
  };
  const idOf = (answer: Answer): string => (JSON.parse(text(answer)) as { id: string }).id;
  const listed = async (key: Key): Promise<string[]> => {
    const response = await fetch(`${gateway.url}${path}`, { headers: withKey(key) });
    return ((await response.json()) as { data: { id: string }[] }).data.map(({ id }) => id);
  };
  const newKey = (workspace: string) => gateway.makeKey({ ...BUDGET, workspace, scopes: ["batches", "files"] });
  const batching = (ms: number): { readonly made: Set<string> } => {
    const made = new Set<string>();
    const script = mixed(() => 0, new Map(), made);
    upstream.script = async (response, request) => {
      await pause(ms);
      return script(response, request);
    };
    return { made };
  };

  it("I-01, I-02, X-01: it is made once, whoever races, leaves or repeats; it is its workspace's, and cancelled once", async () => {
    const { made: batches } = batching(300);
    const [key, other] = [await newKey("ws_b1"), await newKey("ws_b2")];
    const question = newQuestion();
    const left = make(key, question, "k", { leave: { afterMs: 150 } });
    await pause(50);
    const answers = await Promise.all([1, 2, 3].map(() => make(key, question)));
    expect((await left).end).toBe("left");
    answers.push(await make(key, question));
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    expect(new Set(answers.map(text)).size).toBe(1);
    expect(answers.map(replayed)).toEqual([true, true, true, true]);
    const id = idOf(answers[0] as Answer);
    expect([...batches]).toEqual([id]);
    expect(await listed(key)).toEqual([id]);
    expect((await make(key, newQuestion())).status).toBe(422);
    // Another workspace's key of the same name makes its own.
    const own = await make(other, question);
    expect([own.status, replayed(own), idOf(own) === id]).toEqual([200, false, false]);
    expect(await listed(other)).toEqual([idOf(own)]);
    const cancels = () => upstream.received.filter(({ target }) => target === `${path}/${id}/cancel`).length;
    const cancel = (as: Key) => call(`${gateway.url}${path}/${id}/cancel`, withKey(as, { "idempotency-key": "c" }), "");
    const cancelled = [await cancel(key), await cancel(key)];
    expect(cancelled.map((answer) => [answer.status, replayed(answer)])).toEqual([
      [200, false],
      [200, true],
    ]);
    expect(text(cancelled[1] as Answer)).toBe(text(cancelled[0] as Answer));
    expect((await cancel(other)).status).toBe(404);
    expect(cancels()).toBe(1);
    const rows = await gateway.rows(key, 5, path);
    expect(rows.filter((row) => row.replayed)).toHaveLength(4);
    const db = await gateway.worker.miniflare.getD1Database("DB");
    const { results } = await db.prepare("SELECT id FROM batches WHERE workspace = 'ws_b1'").all();
    expect(results).toEqual([{ id }]);
  });
});

const STORED_CANARY = "sk-ant-STORED-UPKEY-CANARY";
const random = (below: number): number => Math.floor(Math.random() * below);

/** One call of a crowd, and what came of it. */
type Played = {
  readonly key: Key;
  readonly workspace: string;
  readonly kind: "plain" | "idempotent" | "cached" | "batch";
  readonly question: string;
  readonly stream: boolean;
  readonly answer: Answer;
};

type Player = { readonly key: Key; readonly workspace: string };

async function makePlayers(at: Gateway): Promise<Player[]> {
  const scopes = ["messages", "batches", "files"];
  return Promise.all(
    Array.from({ length: 6 }, async (_, n) => {
      const workspace = `ws_c${n % 3}`;
      const on_disconnect = n < 3 ? "drain" : "cancel";
      const key = await at.makeKey({
        workspace,
        scopes,
        on_disconnect,
        ...BUDGET,
        limits: { concurrent_requests: 60 },
      });
      return { key, workspace };
    }),
  );
}

/** A random call of one of the players; questions of a kind come again. `leavers`: some leave. */
async function play(at: Gateway, players: readonly Player[], leavers: boolean): Promise<Played> {
  const { key, workspace } = players[random(players.length)] as Player;
  const kind = (["plain", "idempotent", "idempotent", "cached", "cached", "batch"] as const)[random(6)] ?? "plain";
  const stream = kind !== "batch" && random(2) === 0;
  const manners: Manners = leavers && random(5) === 0 ? { leave: { afterMs: random(120) } } : {};
  const form = stream ? "s" : "w";
  if (kind === "batch") {
    const name = random(2) === 0 ? `b${random(4)}` : "";
    const question = `${PROMPT_CANARY} ${key.id} batch ${name || ++questions}`;
    const params = { model: MODEL, max_tokens: 50, messages: [{ role: "user", content: question }] };
    const body = JSON.stringify({ requests: [{ custom_id: "a", params }] });
    const answer = await call(
      `${at.url}/v1/messages/batches`,
      withKey(key, name ? { "idempotency-key": name } : {}),
      body,
      manners,
    );
    return { key, workspace, kind, question, stream, answer };
  }
  const name = { plain: ++questions, idempotent: `i${random(12)}${form}`, cached: `c${random(6)}` }[kind];
  // Answers in the cache belong to whoever of the workspace came first.
  const question = `${PROMPT_CANARY} ${kind === "cached" ? workspace : key.id} ${name}`;
  const answer = await ask(key, question, {
    at,
    stream,
    manners,
    ...(kind === "idempotent" ? { idempotency: String(name) } : {}),
    ...(kind === "cached" ? { headers: TTL } : {}),
  });
  return { key, workspace, kind, question, stream, answer };
}

/** Whole or honestly failed, to the very question that was asked; the number of a whole one. */
function expectHonest({ answer, question, stream, kind }: Played): number | null {
  expect(answer.end).not.toBe("hung");
  if (answer.status !== 200 || answer.end !== "clean" || kind === "batch") return null;
  if (stream && text(answer).includes("event: error")) {
    expect(text(answer)).not.toContain("message_stop");
    return null;
  }
  return expectWhole(answer, question, stream);
}

/** Everything in the databases under a folder, table by table, less the answers themselves. */
function rowsIn(state: string): string {
  const copy = mkdtempSync(join(folder, "dump-"));
  cpSync(state, copy, { recursive: true });
  const files = readdirSync(copy, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".sqlite"));
  expect(files.length).toBeGreaterThan(3);
  const lines: string[] = [];
  const seen = new Set<string>();
  for (const file of files) {
    const db = new DatabaseSync(join(copy, file), { readBigInts: true });
    for (const { name } of db.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").all()) {
      seen.add(String(name));
      if (name === "pieces") continue;
      for (const row of db.prepare(`SELECT * FROM "${name}"`).all()) {
        const texts = Object.values(row).map((value) =>
          value instanceof Uint8Array ? Buffer.from(value).toString("latin1") : String(value),
        );
        lines.push(`${file} ${name} ${JSON.stringify(texts)}`);
      }
    }
    db.close();
  }
  for (const table of ["audit", "api_keys", "upstreams", "batches", "pieces", "kept"])
    expect([...seen]).toContain(table);
  return lines.join("\n");
}

function expectNoSecrets(where: Record<string, string>, keys: readonly Key[]): void {
  const secrets = [UPSTREAM_KEY, STORED_CANARY, PROMPT_CANARY, ADMIN_TOKEN, TAG_SECRET, MASTER_KEY.slice(2)];
  for (const { key } of keys) secrets.push(key, key.split("_").at(-1) ?? key);
  for (const [place, found] of Object.entries(where)) {
    const leaked = secrets.filter((secret) => found.includes(secret));
    const lines = found.split("\n").filter((line) => leaked.some((secret) => line.includes(secret)));
    expect([place, leaked, lines.slice(0, 3)]).toEqual([place, [], []]);
  }
}

async function toldOf(at: Gateway): Promise<Record<string, string>> {
  const metrics = await fetch(`${at.url}/metrics`, { headers: { authorization: `Bearer ${ADMIN_TOKEN}` } });
  expect(metrics.status).toBe(200);
  const told: Record<string, string> = { metrics: await metrics.text(), log: at.log() };
  for (const path of ["audit.ndjson", "keys", "workspaces", "upstreams", "usage"])
    told[path] = await (await at.admin(path)).text();
  return told;
}

it("U-05, R-07, I-01, X-01: killed five times under all of it at once: nothing is lost, free, mixed or another's", async () => {
  const stateDir = join(folder, "killed");
  const claude = await startScriptedUpstream();
  const madeFor = new Map<string, number>();
  const batches = new Set<string>();
  claude.script = mixed(() => random(300), madeFor, batches);
  const start = () => startGateway(claude.url, { bindings: { LEDGER_DEADLINE_MS: "5000" }, stateDir });
  let at = await start();
  const played: Played[] = [];
  const logs: string[] = [];
  const settledIds = new Set<string>();
  try {
    const stored = await at.admin("upstreams", {
      json: { name: "stored", base_url: claude.url, api_key: STORED_CANARY, concurrent_requests: 100 },
    });
    expect(stored.status).toBe(201);
    const players = await makePlayers(at);
    for (let life = 1; life <= 5; life++) {
      let on = true;
      const before = played.length;
      const crowd = Array.from({ length: 16 }, async () => {
        while (on) {
          const one = await play(at, players, true);
          played.push(one);
          if (one.answer.status === 0) await pause(20);
        }
      });
      await pause(500 + random(1_500));
      on = false;
      const killedAt = Date.now();
      await at.kill();
      await Promise.all(crowd);
      for (const { answer } of played.slice(before)) {
        const early = answer.end === "clean" && answer.startedAt + answer.ms < killedAt - 1_000;
        if (early) settledIds.add(String(answer.headers["x-sluice-request-id"]));
      }
      logs.push(at.log());
      at = await start();
    }
    const restartedAt = Date.now();
    // Kept, or made anew: whoever had it once has it again.
    const idempotent = new Map<string, Set<number>>();
    const owners = new Map<number, string>();
    const delivered = new Set<number>();
    const named = new Map<string, Set<string>>();
    const check = (one: Played): void => {
      const nth = expectHonest(one);
      if (
        one.kind === "batch" &&
        one.answer.status === 200 &&
        one.answer.end === "clean" &&
        / b\d$/.test(one.question)
      ) {
        named.set(one.question, (named.get(one.question) ?? new Set()).add(text(one.answer)));
      }
      if (nth === null) return;
      delivered.add(nth);
      const owner = one.kind === "cached" ? one.workspace : one.key.id;
      expect([nth, owners.get(nth) ?? owner]).toEqual([nth, owner]);
      owners.set(nth, owner);
      if (one.kind === "idempotent") idempotent.set(one.question, (idempotent.get(one.question) ?? new Set()).add(nth));
    };
    for (const one of played) check(one);
    const asked = new Map(played.filter(({ kind }) => kind === "idempotent").map((one) => [one.question, one]));
    expect(asked.size).toBeGreaterThan(20);
    for (const one of asked.values()) {
      const { key, question, stream } = one;
      const answer = await ask(key, question, { at, stream, idempotency: question.split(" ").at(-1) ?? "" });
      expectWhole(answer, question, stream);
      const again = { ...one, answer };
      played.push(again);
      check(again);
    }
    expect([...idempotent].filter(([, numbers]) => numbers.size > 1)).toEqual([]);
    expect(named.size).toBeGreaterThan(5);
    expect([...named].filter(([, answers]) => answers.size > 1)).toEqual([]);

    // A batch is its workspace's or nobody's.
    const strangers = [await at.makeKey({ workspace: "ws_stranger", scopes: ["batches"] })];
    const made = played.filter(
      ({ kind, answer }) => kind === "batch" && answer.status === 200 && answer.end === "clean",
    );
    const owned = new Map(
      made.map(({ answer, workspace }) => [(JSON.parse(text(answer)) as { id: string }).id, workspace]),
    );
    const read = async (key: Key, path: string): Promise<Response> =>
      fetch(`${at.url}/v1/messages/batches${path}`, { headers: withKey(key) });
    expect(owned.size).toBeGreaterThan(5);
    for (const id of batches) {
      const own = players.map(async ({ key, workspace }) => [workspace, (await read(key, `/${id}`)).status] as const);
      const sees = new Set(
        (await Promise.all(own)).filter(([, status]) => status === 200).map(([workspace]) => workspace),
      );
      expect(sees.size).toBeLessThanOrEqual(1);
      const owner = owned.get(id);
      if (owner !== undefined) expect([id, [...sees]]).toEqual([id, [owner]]);
      for (const key of strangers) expect((await read(key, `/${id}`)).status).toBe(404);
    }
    expect(((await (await read(strangers[0] as Key, "")).json()) as { data: unknown[] }).data).toEqual([]);

    await pause(Math.max(0, restartedAt + LOAN_EXPIRES_MS + 5_000 - Date.now()));
    let paid = 0;
    let reported = 0;
    for (const { key } of players) {
      const { budget, left } = await at.settled(key);
      expect([budget?.reserved_micro_usd, left.concurrent_requests?.running]).toEqual([0, 0]);
      const answered = played
        .filter((one) => one.key === key && one.answer.end === "clean")
        .map(({ answer }) => String(answer.headers["x-sluice-request-id"]));
      const all = await until(async () => {
        const lines = (await (await at.admin(`audit.ndjson?key=${key.id}`)).text())
          .split("\n")
          .filter((line) => line !== "");
        const rows = lines.map((line) => JSON.parse(line) as AuditRow);
        const cost = rows.reduce((sum, row) => sum + Number(row.cost_micro_usd), 0);
        return cost === budget?.spent_micro_usd ? rows : undefined;
      }, "the rows to come to what the ledger says");
      const rows = all.filter((row) => row.outcome !== "unreported");
      const ids = rows.map((row) => String(row.request_id));
      expect(new Set(ids).size).toBe(ids.length);
      expect(answered.filter((id) => settledIds.has(id) && !ids.includes(id))).toEqual([]);
      const unreported = all
        .filter((row) => row.outcome === "unreported")
        .reduce((sum, row) => sum + Number(row.requests), 0);
      expect(answered.filter((id) => !ids.includes(id)).length).toBeLessThanOrEqual(unreported);
      paid += Number((await at.usage(`key=${key.id}`)).cost_micro_usd);
      for (const row of rows) {
        if (row.replayed || row.cache === "hit") expect([row.cost_micro_usd, row.attempts]).toEqual([0, 0]);
        if (row.outcome === "complete") reported += Number(row.cost_micro_usd);
      }
    }
    expect(paid).toBeGreaterThanOrEqual(delivered.size * COST);
    const answers = [...madeFor.values()].reduce((sum, count) => sum + count, 0);
    expect(reported).toBeLessThanOrEqual(answers * COST);
    const keys = [...players.map(({ key }) => key), ...strangers];
    const told = await toldOf(at);
    await at.stop();
    expectNoSecrets({ ...told, logs: logs.join("\n"), rows: rowsIn(stateDir) }, keys);
  } finally {
    await at.stop();
    await claude.stop();
  }
}, 120_000);

it("F-14, F-29, I-02, C-08: two hundred at once, and one upstream of three dies: nobody hangs, and nobody gets a 5xx", async () => {
  const madeFor = new Map<string, number>();
  const batches = new Set<string>();
  const claudes = await Promise.all([1, 2, 3].map(() => startScriptedUpstream()));
  const stateDir = join(folder, "crowd");
  const at = await startGateway(claudes[0]?.url ?? "", {
    bindings: { LEDGER_DEADLINE_MS: "5000", CONNECT_TIMEOUT_MS: "5000" },
    stateDir,
  });
  try {
    for (const [n, claude] of claudes.entries()) {
      claude.script = mixed(() => random(400), madeFor, batches);
      const made = await at.admin("upstreams", {
        json: { name: `c${n}`, base_url: claude.url, api_key: `${STORED_CANARY}-${n}` },
      });
      expect(made.status).toBe(201);
    }
    const players = await makePlayers(at);
    // What an upstream has answered is what it may take over from another one.
    for (let n = 0; n < 4; n++) await Promise.all(Array.from({ length: 60 }, () => play(at, players, false)));
    const dying = claudes[2] as ScriptedUpstream;
    const crowd = Array.from({ length: 200 }, async () => {
      const calls: Played[] = [];
      for (let n = 0; n < 3; n++) calls.push(await play(at, players, false));
      return calls;
    });
    await pause(600);
    dying.script = (response) => void response.destroy();
    await dying.stop();
    const played = (await Promise.all(crowd)).flat();
    for (const one of played) {
      expectHonest(one);
      const { kind, answer } = one;
      // A batch that may have been made is not made again elsewhere.
      const unknown = kind === "batch" && answer.status === 502;
      const told = answer.status === 200 || unknown ? "" : text(answer);
      expect([kind, answer.end, unknown ? 200 : answer.status, told]).toEqual([kind, "clean", 200, ""]);
    }
    expectNoSecrets(
      await toldOf(at),
      players.map(({ key }) => key),
    );
  } finally {
    await at.stop();
    for (const claude of claudes) await claude.stop();
  }
  expectNoSecrets({ rows: rowsIn(stateDir) }, []);
}, 60_000);
