/** What a conversation keeps beside its log, in the Workers runtime: branches, cuts, turns, pages, sums. */
import { evictDurableObject } from "cloudflare:test";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Content, Message } from "../../clients/typescript/protocol.ts";
import { type History, PAGE_BYTES } from "../../src/conversations/history.ts";
import type { Sender, Spec } from "../../src/conversations/protocol.ts";
import type { StoredCut, StoredMessage } from "../../src/conversations/tree.ts";
import type { StoredTurn } from "../../src/conversations/turns.ts";
import { NO_USAGE, usageOf } from "../../src/conversations/usage.ts";
import { turnView } from "../../src/conversations/views.ts";
import { PIECE_BYTES } from "../../src/pieces.ts";
import { emptyObject, inside, inVain, opened, rowsOf } from "./stored.ts";

const NOW = Date.parse("2026-11-21T12:00:00Z");
const MB = 1024 * 1024;
const SPEC: Spec = {
  id: "conv_1",
  model: "claude-opus-5",
  system: "Be brief.",
  maxTokens: 1_000,
  tools: [{ name: "look" }],
  options: { temperature: 0 },
  context: { strategy: "summarize", max_input_tokens: null, keep_turns: 4, summary_model: null },
  ttlSeconds: 3_600,
  onBusy: "queue",
  metadata: { app: "test" },
};
const SENDER: Sender = {
  keyId: "key_1",
  secretSha256: "00",
  workspace: "ws_1",
  requestId: "req_1",
  traceId: "t",
  client: null,
};
const IDLE = { seq: 7, state: "idle", turn: null, turnSeq: null, awaiting: [] } as const;

const message = (id: string, parent: string | null, changes: Partial<StoredMessage> = {}): StoredMessage => ({
  id,
  role: "user",
  content: `says ${id}`,
  turn: `turn of ${id}`,
  parent,
  createdAt: NOW,
  model: null,
  stopReason: null,
  incomplete: false,
  organization: null,
  tokensThrough: null,
  ...changes,
});
const answer = (id: string, parent: string, changes: Partial<StoredMessage> = {}): StoredMessage =>
  message(id, parent, {
    role: "assistant",
    content: [{ type: "text", text: `says ${id}` }],
    model: "claude-opus-5",
    stopReason: "end_turn",
    organization: "org-1",
    tokensThrough: 12,
    ...changes,
  });
const cutAt = (id: string, through: string, summary: string | null = `sum of ${through}`): StoredCut => ({
  id,
  through,
  turn: "turn_1",
  summary,
  createdAt: NOW,
  cut: {
    strategy: summary === null ? "truncate" : "summarize",
    reason: "max_input_tokens",
    messages: 1,
    through,
    tokens_before: 10,
    tokens_after: 5,
    summary: summary === null ? null : id,
  },
});
const turn = (id: string, changes: Partial<StoredTurn> = {}, content: Content | null = "hi"): StoredTurn => ({
  id,
  state: "processing",
  incoming: { clientId: null, content, options: {}, onBusy: null, edit: null, regenerate: null },
  sender: SENDER,
  message: null,
  createdAt: NOW,
  startedAt: null,
  endedAt: null,
  restarts: 0,
  model: "claude-opus-5",
  stopReason: null,
  usage: NO_USAGE,
  microUsd: 0,
  cut: null,
  error: null,
  answer: null,
  ...changes,
});

const run = (act: (history: History, storage: DurableObjectStorage) => void): Promise<void> =>
  inside(emptyObject(), (storage) => {
    const { history } = opened(storage);
    history.create(SPEC, NOW);
    act(history, storage);
  });
const idsOf = (list: readonly { readonly id: string }[]): string[] => list.map(({ id }) => id);
const jsonBytes = (value: unknown): number => new TextEncoder().encode(JSON.stringify(value)).byteLength;
const piecesOf = (storage: DurableObjectStorage, owner: string): number =>
  Number(rowsOf(storage, `SELECT count(*) AS n FROM piece WHERE owner = '${owner}'`)[0]?.n);
const pageOf = (history: History, after: string | null, limit: number, leaf: string | null = null) => {
  const page = history.page({ after, limit, leaf });
  if (!page.ok) throw new Error(JSON.stringify(page.error));
  return page.value;
};
/** All pages of a branch. */
function paged(history: History, after: string | null, limit: number, leaf: string | null = null): Message[] {
  const page = pageOf(history, after, limit, leaf);
  return page.has_more ? [...page.data, ...paged(history, page.next_cursor, limit, leaf)] : [...page.data];
}

describe("a conversation's settings", () => {
  it("X-01 leave an object alone in which there is none", () =>
    inside(emptyObject(), (storage) => {
      const { history } = opened(storage);
      expect([history.spec, history.leaf, history.bytes, history.turns]).toEqual([null, null, 0, 0]);
      expect([history.message("m"), history.turn("t"), history.turnByClientId("c")]).toEqual(Array(3).fill(undefined));
      expect([history.openTurns(), history.heldResults, history.path(null), history.path("m")]).toEqual([
        [],
        [],
        { messages: [], cut: null },
        { messages: [], cut: null },
      ]);
      for (const act of [() => history.touch(NOW), () => history.setLeaf(null), () => history.change({}, NOW)]) act();
      expect(rowsOf(storage, "SELECT name FROM sqlite_master")).toEqual([]);
    }));

  it("are seen from outside, and survive changes and evictions", async () => {
    const stub = emptyObject();
    await inside(stub, (storage) => opened(storage).history.create(SPEC, NOW));
    await evictDurableObject(stub);
    await inside(stub, (storage) => {
      const { history } = opened(storage);
      expect(history.spec).toEqual({ ...SPEC, createdAt: NOW, updatedAt: NOW });
      history.addMessage(message("m1", null));
      history.change({ model: "claude-haiku-5-5", metadata: {}, ttlSeconds: 60, leaf: "m1" }, NOW + 1_000);
      history.putTurn(turn("t1", { state: "queued" }));
    });
    await evictDurableObject(stub);
    await inside(stub, (storage) => {
      const { history } = opened(storage);
      const live = { seq: 7, state: "processing", turn: "t0", turnSeq: 6, awaiting: ["toolu_1"] } as const;
      expect(history.view(live)).toEqual({
        id: "conv_1",
        type: "conversation",
        state: "processing",
        model: "claude-haiku-5-5",
        system: "Be brief.",
        max_tokens: 1_000,
        tools: [{ name: "look" }],
        options: { temperature: 0 },
        context: SPEC.context,
        ttl_seconds: 60,
        on_busy: "queue",
        metadata: {},
        created_at: "2026-11-21T12:00:00.000Z",
        updated_at: "2026-11-21T12:00:01.000Z",
        expires_at: "2026-11-21T12:01:01.000Z",
        seq: 7,
        turn: "t0",
        turn_seq: 6,
        queued: ["t1"],
        awaiting_tool_results: ["toolu_1"],
        leaf: "m1",
        turns: 1,
        usage: NO_USAGE,
        cost_micro_usd: 0,
      });
      history.touch(NOW + 5_000);
      expect(history.view(IDLE).expires_at).toBe("2026-11-21T12:01:05.000Z");
    });
  });

  it("may be as large as a body, and nothing of them is left when they are dropped", () =>
    run((history, storage) => {
      const system = "é".repeat(4 * MB);
      history.change({ system }, NOW);
      const { tables, history: again, log } = opened(storage);
      expect(again.spec?.system === system).toBe(true);
      expect(piecesOf(storage, "spec")).toBe(9);
      tables.drop();
      expect([tables.made, again.spec, again.bytes, log.lastSeq]).toEqual([false, null, 0, 0]);
      expect(rowsOf(storage, "SELECT name FROM sqlite_master")).toEqual([]);
    }));

  it("are taken back with their transaction", () =>
    inside(emptyObject(), (storage) => {
      const { tables, history } = opened(storage);
      inVain(tables, () => history.create(SPEC, NOW));
      expect([tables.made, history.spec]).toEqual([false, null]);
      history.create(SPEC, NOW);
      inVain(tables, () => {
        history.addMessage(message("m1", null));
        history.putTurn(turn("t1", { microUsd: 5 }));
        history.change({ model: "other", leaf: "m1" }, NOW + 1);
        history.holdResults([{ id: "toolu_1", block: "{}" }]);
      });
      expect([history.leaf, history.bytes, history.turns, history.heldResults, history.openTurns()]).toEqual([
        null,
        0,
        0,
        [],
        [],
      ]);
      expect(history.spec).toEqual({ ...SPEC, createdAt: NOW, updatedAt: NOW });
      expect(history.view(IDLE).cost_micro_usd).toBe(0);
    }));
});

describe("messages", () => {
  it("are given back as they are, also from outside", () =>
    run((history) => {
      const stored = [message("m1", null), answer("m2", "m1"), answer("m3", "m1", { incomplete: true, model: null })];
      for (const one of stored) history.addMessage(one);
      for (const one of stored) expect(history.message(one.id)).toMatchObject({ ...one });
      const base = { type: "message", created_at: "2026-11-21T12:00:00.000Z" };
      expect(stored.map((one) => history.messageView(one))).toEqual([
        { ...base, id: "m1", role: "user", content: "says m1", turn: "turn of m1", parent: null, siblings: ["m1"] },
        {
          ...base,
          id: "m2",
          role: "assistant",
          content: [{ type: "text", text: "says m2" }],
          turn: "turn of m2",
          parent: "m1",
          siblings: ["m2", "m3"],
          model: "claude-opus-5",
          stop_reason: "end_turn",
        },
        {
          ...base,
          id: "m3",
          role: "assistant",
          content: [{ type: "text", text: "says m3" }],
          turn: "turn of m3",
          parent: "m1",
          siblings: ["m2", "m3"],
          stop_reason: "end_turn",
          incomplete: true,
        },
      ]);
    }));

  it.each([PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 16 * MB])(
    "hold contents of %i bytes, whole characters across the cuts",
    (bytes) =>
      run((history, storage) => {
        for (let shift = 0; shift < 4; shift++) {
          const before = "x".repeat(shift);
          const content = before + "\u{1f600}".repeat((bytes - 2 - shift) / 4);
          const padded = content + "y".repeat(bytes - jsonBytes(content));
          history.addMessage(message(`m${shift}`, null, { content: padded }));
          expect(history.message(`m${shift}`)?.content === padded).toBe(true);
          expect(piecesOf(storage, `message m${shift}`)).toBe(Math.ceil(bytes / PIECE_BYTES));
        }
        expect(history.bytes).toBe(4 * bytes);
        const [largest] = rowsOf(storage, "SELECT max(length(bytes)) AS bytes FROM piece");
        expect(largest?.bytes).toBe(Math.min(bytes, PIECE_BYTES));
      }),
  );

  it("are taken back where nothing goes on from them", () =>
    run((history, storage) => {
      for (const one of [message("m1", null), answer("m2", "m1"), message("m3", "m2")]) history.addMessage(one);
      const path = history.path("m3");
      const before = history.bytes;
      expect([history.removeMessage("m2"), history.removeMessage("m9"), history.removeMessage("m3")]).toEqual([
        false,
        false,
        true,
      ]);
      expect([history.message("m3"), history.bytes]).toEqual([undefined, before - jsonBytes("says m3")]);
      expect([piecesOf(storage, "message m3"), path.messages[2]?.content]).toEqual([0, ""]);
    }));

  it("show the newest cut of their own branch, and its summary behind what it is about", () =>
    run((history) => {
      for (const one of [message("m1", null), answer("m2", "m1"), message("m3", "m2"), message("n3", "m2")]) {
        history.addMessage(one);
      }
      history.setLeaf("m3");
      expect(history.path("m3").cut).toBeNull();
      history.addCut(cutAt("s1", "m2"));
      history.addCut(cutAt("s2", "m3", null));
      history.addCut(cutAt("s3", "n3"));
      expect([history.path("m3").cut, history.path("n3").cut, history.path("m2").cut, history.path("m1").cut]).toEqual([
        cutAt("s2", "m3", null),
        cutAt("s3", "n3"),
        cutAt("s1", "m2"),
        null,
      ]);
      expect(idsOf(pageOf(history, null, 100).data)).toEqual(["m1", "m2", "s1", "m3"]);
      expect(idsOf(pageOf(history, "s1", 100, "n3").data)).toEqual(["n3", "s3"]);
      expect(idsOf(history.branch("n3"))).toEqual(["m1", "m2", "s1", "n3", "s3"]);
      expect(pageOf(history, "m2", 1)).toEqual({
        data: [
          {
            id: "s1",
            type: "summary",
            role: "user",
            content: "sum of m2",
            turn: "turn_1",
            parent: "m2",
            siblings: ["s1"],
            created_at: "2026-11-21T12:00:00.000Z",
          },
        ],
        has_more: true,
        next_cursor: "s1",
      });
    }));

  it("come in pages that name what they don't know", () =>
    run((history) => {
      history.addMessage(message("m1", null));
      history.addMessage(message("n1", null));
      history.setLeaf("m1");
      const refusal = (after: string | null, leaf: string | null) => history.page({ after, leaf, limit: 5 });
      const because = (text: string) => ({
        ok: false,
        error: { kind: "invalid_request", message: expect.stringMatching(text) },
      });
      expect(refusal("n1", null)).toEqual(because("^after: "));
      expect(refusal("m9", "n1")).toEqual(because("^after: "));
      expect(refusal(null, "m9")).toEqual(because("^leaf: "));
      expect(pageOf(history, "m1", 5)).toEqual({ data: [], has_more: false, next_cursor: null });
    }));

  it("come in pages that fit into one call; a larger message comes alone", () =>
    run((history) => {
      const sizes = [PAGE_BYTES / 2, PAGE_BYTES / 2, 10, PAGE_BYTES + 1, 10];
      for (const [i, bytes] of sizes.entries()) {
        const content = "x".repeat(bytes - 2);
        history.addMessage(message(`m${i}`, i === 0 ? null : `m${i - 1}`, { content }));
      }
      history.setLeaf("m4");
      const pages: string[][] = [];
      for (let after: string | null = null; ; ) {
        const page = pageOf(history, after, 100);
        pages.push(idsOf(page.data));
        after = page.next_cursor;
        if (after === null) break;
      }
      expect(pages).toEqual([["m0", "m1"], ["m2"], ["m3"], ["m4"]]);
    }));
});

describe("turns", () => {
  it("are kept with everything, the open ones in order", () =>
    run((history, storage) => {
      const full = turn("t1", {
        state: "failed",
        message: "m1",
        startedAt: NOW + 1,
        endedAt: NOW + 2,
        restarts: 2,
        stopReason: "end_turn",
        usage: usageOf(
          { input_tokens: 1, output_tokens: 2, cache_read_input_tokens: 3, cache_creation_input_tokens: 0 },
          true,
        ),
        microUsd: 1_500_000,
        cut: cutAt("s1", "m1").cut,
        error: { type: "api_error", message: "no", retry_after_seconds: 3 },
        answer: "m2",
        incoming: {
          clientId: "c\u0000\u{1f600}",
          content: [{ type: "text", text: "hi" }],
          options: { temperature: 1 },
          onBusy: "reject",
          edit: "m0",
          regenerate: null,
        },
      });
      history.putTurn(full);
      history.putTurn(turn("t2"));
      history.putTurn(turn("t3", { state: "queued" }, null));
      history.putTurn(turn("t4", { state: "cancelling" }));
      history.putTurn(turn("t2", { state: "retrying" }));
      const again = opened(storage).history;
      expect(again.turn("t1")).toEqual(full);
      expect(again.turnByClientId("c\u0000\u{1f600}")?.id).toBe("t1");
      expect(idsOf(again.openTurns())).toEqual(["t2", "t3", "t4"]);
      expect(again.turn("t3")?.incoming.content).toBeNull();
      expect(again.turns).toBe(4);
      expect(turnView(full)).toEqual({
        id: "t1",
        type: "turn",
        state: "failed",
        client_id: "c\u0000\u{1f600}",
        key_id: "key_1",
        model: "claude-opus-5",
        created_at: "2026-11-21T12:00:00.000Z",
        started_at: "2026-11-21T12:00:00.001Z",
        ended_at: "2026-11-21T12:00:00.002Z",
        stop_reason: "end_turn",
        usage: { ...full.usage, cache_read_share: 0.75, estimated: true },
        cost_micro_usd: 1_500_000,
        cost_usd: 1.5,
        cut: full.cut,
        error: full.error,
      });
    }));

  it("of the same client id: the newest one is found", () =>
    run((history) => {
      const incoming = { ...turn("t").incoming, clientId: "c1" };
      history.putTurn(turn("t2", { incoming, state: "failed" }));
      history.putTurn(turn("t1", { incoming }));
      history.putTurn(turn("t2", { incoming, state: "failed", endedAt: NOW }));
      expect(history.turnByClientId("c1")?.id).toBe("t1");
      expect(history.turnByClientId("C1")).toBeUndefined();
    }));

  it("keep what was said until their message has it, and only then count it no more", () =>
    run((history, storage) => {
      const content = [{ type: "text", text: "\u{1f600}".repeat(4 * MB) }];
      const bytes = jsonBytes(content);
      history.putTurn(turn("t1", { state: "queued" }, content));
      expect([history.bytes, piecesOf(storage, "said t1")]).toEqual([bytes, 17]);
      const [waiting, seen] = [history.turn("t1"), history.openTurns()[0]];
      if (!waiting || !seen) throw new Error("not there");
      history.addMessage(message("m1", null, { content }));
      history.putTurn({ ...waiting, state: "processing", message: "m1" });
      expect([history.bytes, piecesOf(storage, "said t1")]).toEqual([bytes, 0]);
      expect(JSON.stringify(seen.incoming.content) === JSON.stringify(content)).toBe(true);
      expect(JSON.stringify(history.turn("t1")?.incoming.content) === JSON.stringify(content)).toBe(true);
      expect(history.removeMessage("m1")).toBe(true);
      expect([history.bytes, history.turn("t1")?.incoming.content]).toEqual([0, null]);
    }));

  it("keep it longer where the message says more", () =>
    run((history) => {
      history.addMessage(message("m1", null, { content: "results and hi" }));
      history.addMessage(message("m2", "m1", { content: "hi" }));
      history.putTurn(turn("t1", { message: "m1" }));
      history.putTurn(turn("t2", { message: "m2" }));
      expect(history.bytes).toBe(jsonBytes("results and hi") + 2 * jsonBytes("hi"));
      expect([history.turn("t1"), history.turn("t2")].map((one) => one?.incoming.content)).toEqual(["hi", "hi"]);
    }));

  it("are summed up, each as it was told last", () =>
    run((history, storage) => {
      const used = (output: number, estimated = false) =>
        usageOf(
          {
            input_tokens: 10,
            output_tokens: output,
            cache_read_input_tokens: 30,
            cache_creation_input_tokens: 20,
          },
          estimated,
        );
      history.putTurn(turn("t1", { usage: used(1, true), microUsd: 7 }));
      expect(history.view(IDLE).usage.estimated).toBe(true);
      history.putTurn(turn("t1", { usage: used(5), microUsd: 9 }));
      history.putTurn(turn("t2", { usage: used(2), microUsd: 1 }));
      const { usage, cost_micro_usd, turns } = opened(storage).history.view(IDLE);
      expect([usage, cost_micro_usd, turns]).toEqual([
        {
          input_tokens: 20,
          output_tokens: 7,
          cache_read_input_tokens: 60,
          cache_creation_input_tokens: 40,
          cache_read_share: 0.5,
        },
        10,
        2,
      ]);
    }));

  it("may have tool results waiting for them", () =>
    run((history, storage) => {
      const [small, large] = [
        { id: "toolu_1", block: '{"a":1}' },
        { id: "toolu_2", block: "x".repeat(3 * MB) },
      ];
      history.holdResults([small]);
      history.holdResults([large]);
      const again = opened(storage).history;
      expect(again.heldResults).toEqual([small, large]);
      expect(again.bytes).toBeGreaterThan(3 * MB);
      again.clearHeldResults();
      expect([again.heldResults, again.bytes, rowsOf(storage, "SELECT * FROM piece WHERE owner LIKE 'held%'")]).toEqual(
        [[], 0, []],
      );
    }));
});

describe("an export", () => {
  it("has everything, branches and cuts included, and is never one text", () =>
    run((history) => {
      const content = "x".repeat(MB);
      history.addMessage(message("m0", null, { content }));
      for (let i = 1; i <= 250; i++) {
        history.addMessage(i % 2 ? answer(`m${i}`, `m${i - 1}`) : message(`m${i}`, `m${i - 1}`));
        history.putTurn(turn(`t${i}`));
      }
      history.addMessage(message("branch", "m5"));
      history.addCut(cutAt("s1", "m4"));
      history.addCut(cutAt("s2", "m4", null));
      history.setLeaf("m250");
      const view = history.view(IDLE);
      const pieces = [...history.export(view)];
      expect(Math.max(...pieces.map(({ length }) => length))).toBeLessThan(MB + 1_000);
      expect(pieces.length).toBeGreaterThan(500);
      const told = JSON.parse(pieces.join("")) as Record<"messages" | "turns" | "cuts", { id: string }[]>;
      expect(told).toMatchObject({ conversation: view });
      expect(idsOf(told.messages)).toEqual([...Array.from({ length: 251 }, (_, i) => `m${i}`), "branch"]);
      expect(told.messages[6]).toEqual(history.messageView(answer("", "m5", { ...message("m6", "m5") })));
      expect(told.messages[6]).toMatchObject({ siblings: ["m6", "branch"] });
      expect(idsOf(told.turns)).toEqual(Array.from({ length: 250 }, (_, i) => `t${i + 1}`));
      expect(told.cuts).toMatchObject([
        { id: "s1", through: "m4", summary: "sum of m4", strategy: "summarize" },
        { id: "s2", through: "m4", summary: null, strategy: "truncate" },
      ]);
      expect(JSON.parse([...history.export(view)].join(""))).toEqual(told);
    }));
});

/** What people do to a conversation; numbers choose among the messages that are there. */
type Step =
  | { readonly do: "say" | "edit" | "regenerate" | "switch" | "cut" | "truncate"; readonly which: number }
  | { readonly do: "evict" }
  | { readonly do: "in vain" };
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({
        do: fc.constantFrom("say" as const, "say", "say", "edit", "regenerate", "switch", "cut", "truncate"),
        which: fc.nat(),
      }),
    },
    { weight: 1, arbitrary: fc.constantFrom<Step>({ do: "evict" }, { do: "in vain" }) },
  ),
  { minLength: 5, maxLength: 40 },
);
type Known = { readonly id: string; readonly parent: string | null; readonly role: "user" | "assistant" };

/** The same tree as a list. */
class Model {
  readonly all: Known[] = [];
  readonly cuts: StoredCut[] = [];
  leaf: string | null = null;

  pick(which: number, among: readonly Known[] = this.all): Known | undefined {
    return among[which % Math.max(among.length, 1)];
  }

  of(role: Known["role"]): Known[] {
    return this.all.filter((one) => one.role === role);
  }

  branch(leaf: string | null): Known[] {
    const found = this.all.find(({ id }) => id === leaf);
    return found ? [...this.branch(found.parent), found] : [];
  }

  /** Where going on from a message has led at last. */
  newestFrom(id: string): string {
    return this.all.findLast((one) => this.branch(one.id).some((above) => above.id === id))?.id ?? id;
  }

  shown(leaf: string | null): string[] {
    return this.branch(leaf).flatMap(({ id }) => [
      id,
      ...idsOf(this.cuts.filter(({ through, summary }) => through === id && summary !== null)),
    ]);
  }
}

describe("whatever is said, edited and regenerated", () => {
  it("every branch is its path to the root, with its siblings, its newest cut, and all of it in pages from root to newest end", async () => {
    await fc.assert(
      fc.asyncProperty(steps, fc.integer({ min: 1, max: 7 }), (script, limit) =>
        inside(emptyObject(), (storage) => {
          let { tables, history } = opened(storage);
          history.create(SPEC, NOW);
          const model = new Model();
          const add = (role: Known["role"], parent: string | null): void => {
            const id = `m${model.all.length}`;
            history.addMessage((role === "user" ? message : answer)(id, parent ?? (null as never)));
            history.setLeaf(id);
            model.all.push({ id, parent, role });
            model.leaf = id;
          };
          for (const step of script) {
            if (step.do === "evict") ({ tables, history } = opened(storage));
            else if (step.do === "in vain") {
              inVain(tables, () => {
                history.addMessage(message("nobody's", model.leaf));
                history.addCut(cutAt("nobody's cut", "m0"));
                history.setLeaf("nobody's");
              });
            } else if (step.do === "say") {
              add("user", model.leaf);
              add("assistant", model.leaf);
            } else if (step.do === "edit" || step.do === "regenerate") {
              const role = step.do === "edit" ? "user" : "assistant";
              const target = model.pick(step.which, model.of(role));
              if (target) add(role, target.parent);
            } else {
              const target = model.pick(step.which);
              if (!target) continue;
              if (step.do === "switch") {
                model.leaf = target.id;
                history.setLeaf(target.id);
              } else {
                const cut = cutAt(`s${model.cuts.length}`, target.id, step.do === "cut" ? "so far" : null);
                model.cuts.push(cut);
                history.addCut(cut);
              }
            }
            expect(history.leaf).toBe(model.leaf);
          }
          for (const leaf of [null, ...idsOf(model.all)]) {
            const { messages, cut } = history.path(leaf);
            const expected = idsOf(model.branch(leaf));
            expect(idsOf(messages)).toEqual(expected);
            expect(cut).toEqual(model.cuts.findLast(({ through }) => expected.includes(through)) ?? null);
            const shown = model.shown(leaf === null ? model.leaf : model.newestFrom(leaf));
            expect(idsOf(paged(history, null, limit, leaf))).toEqual(shown);
            for (const [i, after] of shown.entries()) {
              expect(idsOf(pageOf(history, after, limit, leaf).data)).toEqual(shown.slice(i + 1, i + 1 + limit));
            }
          }
          for (const view of history.branch(model.leaf)) {
            if (view.type === "summary") continue;
            expect(view.siblings).toEqual(idsOf(model.all.filter(({ parent }) => parent === view.parent)));
          }
          const contents = model.all.reduce((sum, { id }) => sum + jsonBytes(history.message(id)?.content), 0);
          expect(history.bytes).toBe(contents + model.cuts.reduce((sum, cut) => sum + jsonBytes(cut), 0));
        }),
      ),
      { numRuns: 30 },
    );
  });
});
