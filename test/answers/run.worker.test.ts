/** One answer's bytes, in an object's own SQLite: every reader gets all of them, at its own pace. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { PIECE_BYTES, PIECES_TABLE, Run } from "../../src/answers/run.ts";

let objects = 0;
/** Runs in a fresh object, with its table made. */
const inObject = <T>(test: (sql: SqlStorage) => Promise<T>): Promise<T> =>
  runInDurableObject(env.ANSWER.getByName(`run ${++objects}`), (_, { storage }) => {
    storage.sql.exec(PIECES_TABLE);
    return test(storage.sql);
  });
const prepare = (): void => {};

const HEAD = { status: 200, headers: [], hasBody: true };

function bytesOf(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 31 + (i >> 8) * 7) & 255;
  return bytes;
}

/** A source that gives its bytes in pieces of these sizes, over and over, and tells how far it has got. */
function source(whole: Uint8Array, sizes: readonly number[], breaksAt = Number.POSITIVE_INFINITY) {
  const state = { at: 0 };
  let nth = 0;
  const body = new ReadableStream(
    {
      type: "bytes",
      pull(controller) {
        if (state.at >= breaksAt) return controller.error(new Error("cut"));
        if (state.at === whole.length) {
          controller.close();
          controller.byobRequest?.respond(0);
          return;
        }
        const end = Math.min(whole.length, state.at + (sizes[nth++ % sizes.length] ?? 1));
        controller.enqueue(whole.slice(state.at, end));
        state.at = end;
      },
    },
    { highWaterMark: 0 },
  );
  return { body, state };
}

const sameBytes = (a: Uint8Array, b: Uint8Array): boolean =>
  a.length === b.length && a.every((byte, i) => byte === b[i]);

async function all(stream: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  return new Response(stream).bytes();
}

const rows = (sql: SqlStorage) =>
  sql
    .exec<{ n: number; bytes: number }>("SELECT count(*) AS n, coalesce(sum(length(bytes)), 0) AS bytes FROM pieces")
    .one();

describe("a run", () => {
  it("gives the same bytes to readers that come before, in the middle and after, whatever the pieces are", async () => {
    for (const sizes of [
      [1],
      [PIECE_BYTES],
      [PIECE_BYTES - 1, 1, PIECE_BYTES + 1],
      [3 * PIECE_BYTES + 7],
      [10, 0, 5_000],
    ]) {
      const length = sizes[0] === 1 ? 300 : 5 * PIECE_BYTES + 13;
      const whole = bytesOf(length);
      await inObject(async (sql) => {
        const run = new Run("r", sql, prepare);
        run.begin(HEAD);
        const { body, state } = source(
          whole,
          sizes.map((size) => Math.max(1, size)),
        );
        const early = all(run.stream(run.join()));
        const taken = run.take(body);
        while (state.at < length / 2) await scheduler.wait(0);
        const middle = all(run.stream(run.join()));
        expect(await taken).toBe(true);
        run.save();
        run.finish();
        const late = all(run.stream(run.join()));
        for (const read of await Promise.all([early, middle, late])) expect(sameBytes(read, whole)).toBe(true);
        expect(run.hasReaders).toBe(false);
        expect(rows(sql).bytes).toBe(length);
        const again = Run.kept("r", sql, HEAD, length);
        expect(sameBytes(await all(again.stream(again.join())), whole)).toBe(true);
        again.drop();
        expect(rows(sql)).toEqual({ n: 0, bytes: 0 });
      });
    }
  });

  it("is written in pieces, not in events, and shown before it is written", async () => {
    await inObject(async (sql) => {
      const run = new Run("r", sql, prepare);
      run.begin(HEAD);
      let open = true;
      const body = new ReadableStream(
        {
          type: "bytes",
          async pull(controller) {
            await scheduler.wait(1);
            if (open) controller.enqueue(new Uint8Array([1, 2, 3]));
            else controller.close();
          },
        },
        { highWaterMark: 0 },
      );
      const reader = run.stream(run.join()).getReader();
      const taken = run.take(body);
      expect((await reader.read()).value).toEqual(new Uint8Array([1, 2, 3]));
      let events = 1;
      while (events < 100) events += ((await reader.read()).value?.length ?? 0) / 3;
      expect(rows(sql).n).toBe(0);
      open = false;
      await taken;
      run.save();
      run.finish();
      expect(rows(sql)).toEqual({ n: 1, bytes: run.bytes });
    });
  });

  it("waits for no reader, however slow, and keeps what they have not read out of memory", async () => {
    const whole = bytesOf(8 * 1024 * 1024);
    await inObject(async (sql) => {
      const run = new Run("r", sql, prepare);
      run.begin(HEAD);
      const slow = run.stream(run.join()).getReader();
      const fast = all(run.stream(run.join()));
      expect(await run.take(source(whole, [100_000]).body)).toBe(true);
      run.finish();
      expect(sameBytes(await fast, whole)).toBe(true);
      expect(rows(sql).bytes).toBeGreaterThan(whole.length - PIECE_BYTES);
      let read = 0;
      for (;;) {
        const { done, value } = await slow.read();
        if (done) break;
        expect(value.length).toBeLessThanOrEqual(PIECE_BYTES);
        expect(sameBytes(value, whole.subarray(read, read + value.length))).toBe(true);
        read += value.length;
      }
      expect(read).toBe(whole.length);
    });
  });

  it("that broke does not look as if it had ended", async () => {
    const whole = bytesOf(1_000);
    await inObject(async (sql) => {
      const run = new Run("r", sql, prepare);
      run.begin(HEAD);
      const reader = run.stream(run.join()).getReader();
      expect(await run.take(source(whole, [100], 500).body)).toBe(false);
      run.finish("broken");
      let read = 0;
      await expect(
        (async () => {
          for (;;) {
            const { done, value } = await reader.read();
            if (done) return "ended";
            read += value.length;
          }
        })(),
      ).rejects.toThrow("broke off");
      expect(read).toBe(500);
    });
  });
});

describe("an answer too large to be kept", () => {
  const LIMIT = 4 * PIECE_BYTES;
  const whole = bytesOf(6 * LIMIT + 5);

  it("at the limit is kept, one byte past it is not", async () => {
    for (const length of [LIMIT, LIMIT + 1]) {
      await inObject(async (sql) => {
        const run = new Run("r", sql, prepare, LIMIT);
        await run.take(source(whole.subarray(0, length), [10_000]).body);
        expect(run.keepable).toBe(length === LIMIT);
      });
    }
  });

  it("goes on to its readers, as far ahead of the slowest as the limit and no further, and leaves nothing behind", async () => {
    await inObject(async (sql) => {
      const run = new Run("r", sql, prepare, LIMIT);
      run.begin(HEAD);
      const { body, state } = source(whole, [10_000]);
      const slow = run.stream(run.join()).getReader();
      const fast = all(run.stream(run.join()));
      const taken = run.take(body);
      await scheduler.wait(100);
      expect(state.at).toBeGreaterThan(LIMIT);
      expect(state.at).toBeLessThanOrEqual(LIMIT + 2 * PIECE_BYTES);
      let read = 0;
      for (;;) {
        const { done, value } = await slow.read();
        if (done) break;
        expect(sameBytes(value, whole.subarray(read, read + value.length))).toBe(true);
        read += value.length;
        if (read === whole.length) {
          await taken;
          run.finish();
        }
      }
      expect(read).toBe(whole.length);
      expect(sameBytes(await fast, whole)).toBe(true);
      expect(rows(sql).bytes).toBeLessThanOrEqual(LIMIT + 2 * PIECE_BYTES);
    });
  });

  it("is read to its end for nobody", async () => {
    await inObject(async (sql) => {
      const run = new Run("r", sql, prepare, LIMIT);
      const reader = run.join();
      let deserted = 0;
      run.onDeserted = () => deserted++;
      reader.leave();
      reader.leave();
      expect(deserted).toBe(1);
      expect(await run.take(source(whole, [10_000]).body)).toBe(true);
      expect(run.bytes).toBe(whole.length);
      expect(rows(sql).bytes).toBeLessThanOrEqual(LIMIT + PIECE_BYTES);
    });
  });
});
