/** The bench itself: that its upstreams do what scripts say, and that its oracle sees what is wrong. */
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { type Answer, call } from "./client.ts";
import { endingOf, judge, type Played } from "./oracle.ts";
import { PLACES, type Script } from "./script.ts";
import { CALL_HEADER, type FaultyUpstreams, startFaultyUpstreams } from "./upstream.ts";

const RULES = { maxAttempts: 3, shortestLimitMs: 200 };

let upstreams: FaultyUpstreams;
beforeAll(async () => {
  upstreams = await startFaultyUpstreams(2);
});
afterAll(() => upstreams?.stop());
beforeEach(() => upstreams.forget());

async function play(script: Script, stream = true, manners = {}): Promise<Played> {
  upstreams.direct = () => script;
  const body = JSON.stringify({ stream, model: "m", max_tokens: 100 });
  const url = `${upstreams.urls[0]}/v1/messages`;
  const answer = await call(url, { [CALL_HEADER]: "1", "x-api-key": "one" }, body, { deadlineMs: 300, ...manners });
  return { call: 1, stream, maxTokens: 100, answer, attempts: upstreams.of(1) };
}
const kind = async (script: Script, stream = true): Promise<string> => endingOf(await play(script, stream)).kind;

describe.each([true, false])("scripted upstreams, stream: %s", (stream) => {
  it("answer whole where nothing is scripted", async () => {
    const { answer, attempts } = await play([], stream);
    expect([answer.status, answer.end]).toEqual([200, "clean"]);
    expect(attempts[0]).toMatchObject({ whole: true, credential: "one", target: "/v1/messages", goneAt: null });
    expect(await kind([], stream)).toBe("whole");
  });

  it.each(PLACES)("break after %s", async (after) => {
    const expected = after === "connect" ? "wrong" : "cut";
    expect(await kind([{ after, do: { reset: true } }], stream)).toBe(expected);
    upstreams.forget();
    expect(await kind([{ after, do: { fin: true } }], stream)).toBe(expected);
    upstreams.forget();
    expect(endingOf(await play([{ after, do: { hang: true } }], stream))).toEqual({ kind: "wrong", why: "hung" });
    await vi.waitFor(() => expect(upstreams.of(1)[0]?.goneAt).not.toBeNull());
  });

  it("answer with any status and headers", async () => {
    const headers = [["retry-after", "2"]] as const;
    const { answer } = await play([{ after: "connect", do: { status: 429, headers } }], stream);
    expect([answer.status, answer.headers["retry-after"], answer.end]).toEqual([429, "2", "clean"]);
  });

  it("stop reading a body", async () => {
    upstreams.direct = () => [{ after: "connect", do: { stall: 65_536 } }];
    const body = Buffer.alloc(30_000_000, " ");
    const answer = await call(`${upstreams.urls[0]}/`, { [CALL_HEADER]: "1" }, body, { deadlineMs: 300 });
    expect(answer.end).toBe("hung");
  });
});

describe("the oracle", () => {
  const answer = (body: string, end: Answer["end"] = "clean"): Answer => ({
    status: 200,
    headers: {},
    body: Buffer.from(body),
    end,
    ms: 1,
    startedAt: 0,
    leftAt: null,
  });
  const ERROR = 'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"m"}}\n\n';

  it("knows a cut answer that ends cleanly, a torn one and one with foreign bytes", async () => {
    const played = await play([{ after: "mid", do: { fin: true } }]);
    const got = played.answer.body.toString();
    const with_ = (other: Answer): string => endingOf({ ...played, answer: other }).kind;
    expect(with_(answer(got))).toBe("wrong");
    expect(with_(answer(got + ERROR))).toBe("cut");
    expect(with_(answer(`${got.slice(0, -20)}\nevent: ping\n\n${ERROR}`))).toBe("cut");
    expect(with_(answer(`x${got}${ERROR}`))).toBe("wrong");
    expect(with_(answer(got.slice(0, 9), "broken"))).toBe("cut");
    expect(with_(answer(got, "hung"))).toBe("wrong");
  });

  it("knows a whole answer that broke, a charge for nothing, a double charge and attempts that nobody booked", async () => {
    const played = await play([]);
    const [attempt] = played.attempts;
    const cost = (attempt?.tokens.input ?? 0) * 4 + (attempt?.tokens.output ?? 0) * 20;
    const row = { attempts: 1, status: 200, outcome: "complete", estimated: false, cost_micro_usd: cost };
    expect(judge(played, [row], RULES)).toEqual([]);
    expect(judge(played, [], RULES)).toEqual(["0 audit rows"]);
    expect(judge(played, [row, row], RULES)).toEqual(["2 audit rows"]);
    expect(judge(played, [{ ...row, attempts: 2 }], RULES)).toHaveLength(1);
    expect(judge(played, [{ ...row, cost_micro_usd: 2 * cost }], RULES)).toHaveLength(1);
    expect(judge(played, null, { ...RULES, maxAttempts: 0 })).toEqual(["1 attempts"]);
    const broken = { ...played, answer: { ...played.answer, end: "broken" as const } };
    expect(judge(broken, null, RULES)).toHaveLength(1);
    const refused = await play([{ after: "connect", do: { status: 500 } }]);
    const charged = { ...row, attempts: 2, status: 500, outcome: "error", cost_micro_usd: 1 };
    expect(judge(refused, [charged], RULES)).toEqual(["nothing delivered, and 1 µUSD in the audit"]);
  });

  it("knows an upstream that is asked for nobody", async () => {
    const played = await play([]);
    const left = { ...played.answer, end: "left" as const, leftAt: Date.now() - 5_000 };
    expect(judge({ ...played, answer: left }, null, RULES)).toEqual(["asked 1 times after the client had left"]);
  });
});
