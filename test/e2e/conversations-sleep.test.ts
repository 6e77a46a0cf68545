/**
 * Hibernation by waiting: with sockets open and heartbeats coming, the object of an idle conversation leaves the memory,
 * and whoever is connected does not notice.
 */
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { BEGUN_LINE, writeWatched } from "../../bench/watched.ts";
import { ROOT } from "../../scripts/local-runtime.ts";
import { type Talk, talk } from "../support/conversations.ts";
import { type Gateway, startGateway, until } from "../support/gateway.ts";
import { pause } from "../support/scripted-upstream.ts";
import { eventsIn, type Viewer } from "../support/socket.ts";
import { startTellingClaude, type TellingClaude } from "../support/telling-claude.ts";

/** The runtime lets an object sleep after ten seconds without work; its last call may be given account of before that. */
const SLEEP_MS = 20_000;

let claude: TellingClaude;
let gateway: Gateway;
let mine: Talk;

beforeAll(async () => {
  claude = await startTellingClaude();
  gateway = await startGateway(claude.url, { bundle: writeWatched(join(ROOT, "dist/watched-gateway")) });
  mine = talk(gateway.url, await gateway.makeKey());
});
afterAll(async () => {
  await gateway?.stop();
  await claude?.stop();
});

/** How often the runtime has made the object of a conversation. */
const begun = (id: string): number =>
  gateway
    .log()
    .split("\n")
    .filter((line) => line.startsWith(BEGUN_LINE) && line.includes(id)).length;

describe("an idle conversation", () => {
  it("sleeps while its viewers send heartbeats, and goes on with each from its own number (W-08)", async () => {
    const { id } = await mine.create();
    const viewers: Viewer[] = await Promise.all([mine.socket(id), mine.socket(id), mine.socket(id)]);
    const [speaker, windowed, behind] = viewers as [Viewer, Viewer, Viewer];
    windowed.send({ type: "flow", window: 1_000_000 });
    behind.send({ type: "flow", window: 1 });
    await Promise.all([windowed.ping(), behind.ping()]);
    await speaker.say("before", "c1");
    const [head, held] = [speaker.last, behind.last];
    expect(held).toBeLessThan(head);
    await until(() => begun(id) > 0 || undefined, "the line of the first time");
    const before = begun(id);
    for (const end = Date.now() + SLEEP_MS; Date.now() < end; await pause(2_000)) {
      for (const viewer of viewers) await viewer.ping();
    }
    // Nothing has woken it so far.
    expect(begun(id)).toBe(before);
    behind.send({ type: "ack", seq: held });
    await behind.frame((frame) => "seq" in frame && frame.type !== "ready" && frame.seq === held + 1);
    await until(() => begun(id) === before + 1 || undefined, "the line of the second time");
    behind.send({ type: "flow", window: 10_000_000 });
    await speaker.say("after", "c2");
    await behind.ended({ from: behind.frames.findLastIndex((frame) => "seq" in frame && frame.seq === held + 1) });
    await behind.frame((frame) => "seq" in frame && frame.type !== "ready" && frame.seq === speaker.last);
    for (const viewer of viewers) {
      viewer.check();
      expect(viewer.frames.slice(1)).toEqual(speaker.frames.slice(1));
    }
    expect(eventsIn(speaker.frames)).toEqual(claude.told.flatMap(({ events }) => events));
    for (const viewer of viewers) expect((await viewer.close()).code).toBe(1000);
  }, 60_000);
});
