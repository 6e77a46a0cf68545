/** Viewers together: whatever they do, each gets the log after its number, in order, once, and within its window. */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { utf8Bytes } from "../../src/conversations/frames.ts";
import type { Viewers } from "../../src/conversations/viewers.ts";
import { Room } from "./viewers-room.ts";
import { completed, event, type FakeSocket, sender, started } from "./viewers-stand-ins.ts";

beforeAll(() => void vi.stubGlobal("WebSocketRequestResponsePair", class {}));
afterAll(() => void vi.unstubAllGlobals());

describe("any two viewers, whatever happens in between", () => {
  type Step =
    | { readonly do: "tell"; readonly sizes: readonly number[] }
    | { readonly do: "sleep" }
    | { readonly do: "compact" }
    | { readonly do: "ack"; readonly who: 0 | 1; readonly at: number }
    | { readonly do: "resume"; readonly who: 0 | 1; readonly at: number }
    | { readonly do: "flow"; readonly who: 0 | 1; readonly window: number };
  const who = fc.constantFrom(0 as const, 1 as const);
  const share = fc.nat(99).map((percent) => percent / 100);
  const step: fc.Arbitrary<Step> = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        do: fc.constant("tell" as const),
        sizes: fc.array(fc.nat(300), { minLength: 1, maxLength: 4 }),
      }),
    },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("sleep" as const) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant("compact" as const) }) },
    {
      weight: 4,
      arbitrary: fc.record({ do: fc.constant("ack" as const), who, at: share }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ do: fc.constant("resume" as const), who, at: share }),
    },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("flow" as const), who, window: fc.nat(1_500) }) },
  );

  /** What a viewer must have: kept beside it by somebody who trusts it in nothing. */
  class Witness {
    readonly socket: FakeSocket;
    window: number | null = null;
    acked = 0;
    last = 0;
    /** Numbers and bytes that it has and has not acknowledged. */
    onItsWay: { readonly seq: number; readonly bytes: number }[] = [];
    #seen = 0;

    constructor(socket: FakeSocket) {
      this.socket = socket;
    }

    /** Each number follows the one before, and no more is on its way than may be. */
    look(floor: number): void {
      for (const text of this.socket.got.slice(this.#seen)) {
        const frame = JSON.parse(text) as { type: string; seq: number };
        if (frame.type === "error") throw new Error(text);
        if (frame.type === "history") expect([frame.seq, this.last < floor]).toEqual([floor, true]);
        else expect(frame.seq).toBe(this.last + 1);
        this.last = frame.seq;
        if (this.window === null) continue;
        const before = this.onItsWay.reduce((bytes, one) => bytes + one.bytes, 0);
        if (before > 0) expect(before + utf8Bytes(text)).toBeLessThanOrEqual(this.window);
        this.onItsWay.push({ seq: frame.seq, bytes: utf8Bytes(text) });
      }
      this.#seen = this.socket.got.length;
    }
  }

  it("get the log after their number, in order, each once, and within their windows", async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(1_500), fc.array(step, { maxLength: 40 }), async (window, steps) => {
        const room = new Room();
        const { log } = room.conversation;
        const witnesses = [new Witness(room.join()), new Witness(room.join())] as const;
        witnesses[0].window = window;
        await room.say(witnesses[0].socket, { type: "flow", window });
        for (const one of steps) {
          room.now += 1_000;
          if (one.do === "tell") room.tell(...one.sizes.map((size) => event("x".repeat(size))));
          else if (one.do === "sleep") room.sleep();
          else if (one.do === "compact") log.floor = Math.max(log.floor, log.lastSeq - 3);
          else {
            const witness = witnesses[one.who];
            if (one.do === "flow") {
              if (witness.window === null) witness.acked = witness.last;
              witness.window = one.window;
              await room.say(witness.socket, { type: "flow", window: one.window });
            } else if (one.do === "ack") {
              const seq = witness.acked + Math.floor(one.at * (witness.last - witness.acked + 1));
              witness.acked = Math.min(seq, witness.last);
              witness.onItsWay = witness.onItsWay.filter((sent) => sent.seq > witness.acked);
              await room.say(witness.socket, { type: "ack", seq: witness.acked });
            } else {
              const after = Math.floor(one.at * log.lastSeq);
              Object.assign(witness, { last: after, acked: after, onItsWay: [] });
              await room.say(witness.socket, { type: "resume", after });
            }
          }
          for (const witness of witnesses) witness.look(log.floor);
        }
        // Whoever takes what it is given has everything in the end.
        for (const witness of witnesses) {
          for (let n = 0; witness.last < log.lastSeq && n < 200; n++) {
            room.now += 1_000;
            Object.assign(witness, { acked: witness.last, onItsWay: [] });
            await room.say(witness.socket, { type: "ack", seq: witness.last });
            witness.look(log.floor);
          }
          expect(witness.last).toBe(log.lastSeq);
          expect(witness.socket.closedWith).toBeNull();
        }
      }),
      { numRuns: 200 },
    );
  });
});

describe("any two streams, whatever happens in between", () => {
  type Step =
    | { readonly do: "tell"; readonly sizes: readonly number[] }
    | { readonly do: "compact" }
    | { readonly do: "take"; readonly who: 0 | 1 };
  const step: fc.Arbitrary<Step> = fc.oneof(
    fc.record({
      do: fc.constant("tell" as const),
      sizes: fc.array(fc.constantFrom(1, 100, 40_000), { minLength: 1, maxLength: 4 }),
    }),
    fc.record({ do: fc.constant("take" as const), who: fc.constantFrom(0 as const, 1 as const) }),
    { weight: 1, arbitrary: fc.record({ do: fc.constant("compact" as const) }) },
  );

  /** Takes a piece when it is told to, and knows what it has had. */
  class Taker {
    text = "";
    over = false;
    #pending: Promise<void> | null = null;
    readonly #reader: ReadableStreamDefaultReader<Uint8Array>;

    constructor(response: ReturnType<Viewers["stream"]>) {
      if (!response.ok || !response.value.body) throw new Error("no body");
      this.#reader = response.value.body.getReader();
    }

    take(): Promise<void> {
      this.#pending ??= this.#reader.read().then(({ done, value }) => {
        this.#pending = null;
        this.over ||= done;
        this.text += new TextDecoder().decode(value);
      });
      return this.#pending;
    }

    get events(): { readonly id: number; readonly event: string }[] {
      return [...this.text.matchAll(/^id: (\d+)\nevent: (.*)$/gm)].map(([, id, event]) => ({
        id: Number(id),
        event: event ?? "",
      }));
    }
  }

  it("get the log after their number to the end of the turn, in order, each once", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 30 }), fc.nat(2), async (steps, after) => {
        const room = new Room();
        const { log } = room.conversation;
        room.conversation.turn = "turn_1";
        log.append(started(), event("a"));
        const who = sender();
        const { signal } = new AbortController();
        const takers = [
          new Taker(room.viewers.stream(after, null, who, signal)),
          new Taker(room.viewers.stream(0, "turn_1", who, signal)),
        ] as const;
        for (const one of steps) {
          if (one.do === "tell") room.tell(...one.sizes.map((size) => event("x".repeat(size))));
          else if (one.do === "compact") log.floor = Math.max(log.floor, log.lastSeq - 3);
          else void takers[one.who].take();
          await Promise.resolve();
        }
        room.conversation.turn = null;
        const last = log.lastSeq + 1;
        room.tell(completed(), started("turn_2"));
        for (const [at, taker] of takers.entries()) {
          while (!taker.over) await taker.take();
          let before = at === 0 ? after : 0;
          for (const { id, event: kind } of taker.events) {
            if (kind === "history") expect(id).toBeGreaterThan(before);
            else expect(id).toBe(before + 1);
            before = id;
          }
          expect(before).toBe(last);
        }
        expect(room.viewers.count).toBe(0);
      }),
      { numRuns: 200 },
    );
  });
});
