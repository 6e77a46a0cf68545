/** Signing keys rotate under load: three isolates, a cron that comes each hour, and clients that trade and use tokens. */
import { env } from "cloudflare:workers";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { parseToken } from "../../src/identity/jwt/form.ts";
import { loadSigningKeys } from "../../src/identity/jwt/signing-store.ts";
import { makeKey } from "../admin/control-plane.ts";
import { type Isolate, startIsolates } from "./isolates.ts";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const START = Date.parse("2027-03-01T12:00:00Z");
/** As the cron comes, after each full hour. */
const CRON_AT = 17 * MINUTE;
/** The tests' own, and the one after it. */
const FIRST = "1:bWFzdGVyLWtleS1vZi10aGUtdGVzdHMtMDEyMzQ1Njc=";
const SECOND = `2:${btoa("second-master-key-of-the-tests-0")}`;
/** Moments of a day at which much is asked: around each change of keys, and while the old one's last tokens end. */
const BUSY = [
  ...[-30 * MINUTE, -1, 1_000, 61_000, 10 * MINUTE - 1, 10 * MINUTE, 10 * MINUTE + 1, 12 * MINUTE, 40 * MINUTE],
  ...[HOUR + 9 * MINUTE, HOUR + 11 * MINUTE + 29_000, HOUR + 20 * MINUTE, 2 * HOUR + 1],
].map((after) => CRON_AT + after);

/** Day by day: the other algorithm and back, and a master key in place of another, as docs/upstreams.md has it. */
const DEPLOYED: readonly Settings[] = [
  { TOKEN_ALG: "RS256", MASTER_KEY: `${FIRST},${SECOND}` },
  { TOKEN_ALG: "RS256", MASTER_KEY: `${SECOND},${FIRST}` },
  { TOKEN_ALG: "ES256", MASTER_KEY: SECOND },
];

type Settings = Readonly<Record<string, string>>;
type Row = { readonly kid: string; readonly delete_after: number | null };
type Live = { readonly token: string; readonly kid: string; readonly expiresAt: number };

let isolates: readonly Isolate[];
let key: string;

beforeAll(async () => {
  for (const level of ["log", "error"] as const) vi.spyOn(console, level).mockImplementation(() => {});
  await env.DB.prepare("DELETE FROM signing_keys").run();
  ({ key } = await makeKey());
  isolates = await startIsolates(3);
});
afterAll(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

const at = (ms: number) => vi.useFakeTimers({ toFake: ["Date"], now: ms });

async function trade(isolate: Isolate): Promise<Live> {
  const response = await isolate.ask("/v1/token", { as: key, json: { expires_in_seconds: 3_600 } });
  const told = await response.json<{ token: string; expires_at: string }>();
  expect([response.status, told]).toEqual([201, expect.objectContaining({ token_type: "Bearer" })]);
  return { token: told.token, kid: parseToken(told.token)?.kid ?? "", expiresAt: Date.parse(told.expires_at) };
}

/** Somebody who verifies our tokens, and keeps the key set for as long as it says. */
class Verifier {
  #kids: ReadonlySet<string> = new Set();
  #until = 0;
  async knows(isolate: Isolate, kid: string): Promise<boolean> {
    if (Date.now() >= this.#until) {
      const response = await isolate.ask("/.well-known/jwks.json");
      const { keys } = await response.json<{ keys: { kid: string }[] }>();
      const [, seconds] = /max-age=(\d+)/.exec(response.headers.get("cache-control") ?? "") ?? [];
      this.#until = Date.now() + Number(seconds) * 1_000;
      this.#kids = new Set(keys.map(({ kid: name }) => name));
    }
    return this.#kids.has(kid);
  }
}

it("fails no token that has not ended, and keeps no key longer than its last one", { timeout: 60_000 }, async () => {
  const verifiers = isolates.map(() => new Verifier());
  const algs = new Set<string>();
  let live: Live[] = [];
  let used = 0;
  const sample = async () => {
    const now = Date.now();
    live = live.filter(({ expiresAt }) => expiresAt > now);
    const made = await Promise.all(isolates.map(trade));
    // Of each key the last few.
    live = [...live, ...made].filter(
      ({ kid }, i, all) => all.slice(i + 1).filter((later) => later.kid === kid).length < 5,
    );
    const answers = live.flatMap((one) =>
      isolates.map(async (isolate, nth) => {
        const { status } = await isolate.ask("/v1/key", { as: one.token });
        return [status, await verifiers[nth]?.knows(isolate, one.kid)];
      }),
    );
    for (const answer of await Promise.all(answers))
      expect([new Date(now), ...answer]).toEqual([new Date(now), 200, true]);
    used += answers.length;
    for (const { token } of made) algs.add(parseToken(token)?.alg ?? "");
  };
  at(START);
  await sample();
  const kids = new Set<string>();
  for (let day = 1; day <= 3; day++) {
    const midnight = Date.UTC(2027, 2, 1 + day);
    const deploy = async (isolate: Isolate) => {
      isolate.settings = DEPLOYED[day - 1] ?? {};
      await sample();
    };
    const moments = [
      // In one isolate after another, with a cron in between.
      ...isolates.map((isolate, nth) => ({ ms: nth * 15 * MINUTE - 12 * HOUR, act: () => deploy(isolate) })),
      ...Array.from({ length: 15 }, (_, hour) => ({
        ms: (hour - 12) * HOUR + CRON_AT,
        act: async () => isolates[hour % 3]?.cron(),
      })),
      ...BUSY.map((ms) => ({ ms, act: sample })),
    ];
    for (const { ms, act } of moments.sort((a, b) => a.ms - b.ms)) {
      const now = midnight + ms;
      at(now);
      await act();
      const { results } = await env.DB.prepare("SELECT kid, delete_after FROM signing_keys").all<Row>();
      for (const { kid, expiresAt } of live) {
        kids.add(kid);
        // Whatever a token names is there, and of what none names any more nothing is left after the next cron.
        if (expiresAt > now) expect(results.map((row) => row.kid)).toContain(kid);
      }
      for (const row of results) expect(now - (row.delete_after ?? now)).toBeLessThan(HOUR);
    }
    expect(await loadSigningKeys(env.DB)).toHaveLength(1);
  }
  expect(algs).toEqual(new Set(["ES256", "RS256"]));
  expect(kids.size).toBeGreaterThanOrEqual(4);
  expect((await loadSigningKeys(env.DB))[0]).toMatchObject({ alg: "ES256", sealed_private: { master: "2" } });
  expect(used).toBeGreaterThan(800);
});
