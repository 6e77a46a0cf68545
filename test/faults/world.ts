/**
 * A gateway before upstreams that break. Upstreams come in lanes: a lane is a model that only its own upstreams serve, so
 * that what one case does to its upstreams (cooling, breakers) is nothing to another.
 */
import {
  ADMIN_TOKEN,
  type AuditRow,
  type Gateway,
  type Key,
  startGateway,
  until,
  withKey,
} from "../support/gateway.ts";
import { pause } from "../support/scripted-upstream.ts";
import { type Answer, call, type Manners } from "./client.ts";
import { canariesIn, type Played, type Rules } from "./oracle.ts";
import { MODEL, type Script } from "./script.ts";
import { CALL_HEADER, type Director, type FaultyUpstreams, startFaultyUpstreams } from "./upstream.ts";

/** Of the F-rows (with MAX_ATTEMPTS: two retries). */
export const LIMITS = { firstByteMs: 500, silenceMs: 300, totalMs: 5_000, connectMs: 200 } as const;
export const RULES: Rules = { maxAttempts: 3, shortestLimitMs: LIMITS.connectMs };
export const MAX_TOKENS = 100;
/** How a call is found in the audit: its agent's id is this and its number. */
const AGENT = "call-";
/** As many calls that work earn the retries of any row. */
const HEALING_CALLS = 8;
export const UPSTREAM_CANARY = "UPKEY-CANARY";
export const PROMPT_CANARY = "PROMPT-CANARY-7c1";

/** For a crowd: short, and long enough for a machine that has much to do. */
export const CROWDED = {
  FIRST_BYTE_TIMEOUT_MS: "2000",
  SILENCE_TIMEOUT_MS: "1500",
  TOTAL_TIMEOUT_MS: "8000",
  CONNECT_TIMEOUT_MS: "1500",
} as const;

/** For what is not about time: a busy machine is no fault of an upstream. */
export const PATIENT = {
  FIRST_BYTE_TIMEOUT_MS: "10000",
  SILENCE_TIMEOUT_MS: "10000",
  TOTAL_TIMEOUT_MS: "15000",
  CONNECT_TIMEOUT_MS: "10000",
} as const;

export const BINDINGS = {
  FIRST_BYTE_TIMEOUT_MS: String(LIMITS.firstByteMs),
  SILENCE_TIMEOUT_MS: String(LIMITS.silenceMs),
  TOTAL_TIMEOUT_MS: String(LIMITS.totalMs),
  CONNECT_TIMEOUT_MS: String(LIMITS.connectMs),
  MAX_ATTEMPTS: String(RULES.maxAttempts),
  ALLOW_LOCAL_UPSTREAMS: "true",
  MASTER_KEY: `1:${Buffer.alloc(32, 7).toString("base64")}`,
  // A busy machine is no fault of an upstream.
  LEDGER_DEADLINE_MS: "5000",
};

export type Lane = {
  readonly model: string;
  readonly key: Key;
  readonly upstreams: readonly LaneUpstream[];
};
export type LaneUpstream = { readonly id: string; readonly credential: string };

/** Scripts of a call: for its attempts in their order (the last one repeats), or for each upstream of its lane. */
export type Plan = { readonly order: readonly Script[] } | { readonly each: readonly Script[] };

export type CallOptions = {
  readonly session?: string;
  readonly manners?: Manners;
  readonly headers?: Record<string, string>;
  /** More fields of the body. */
  readonly body?: object;
};

export type World = {
  readonly gateway: Gateway;
  readonly upstreams: FaultyUpstreams;
  readonly lanes: readonly Lane[];
  play(lane: Lane, stream: boolean, plan: Plan, options?: CallOptions): Promise<Played>;
  /** All rows of a lane by the numbers of their calls, once there is one for each of these. */
  rowsOf(lane: Lane, calls: readonly Played[]): Promise<ReadonlyMap<number, AuditRow[]>>;
  /** Calls until each of a lane's upstreams has answered, so that none is taken for broken. */
  heal(lane: Lane): Promise<void>;
  stop(): Promise<void>;
};

export type NewUpstream = { base_url: string; api_key: string } & Record<string, unknown>;

/** Stores an upstream; its id. */
export async function addUpstream(gateway: Gateway, fields: NewUpstream): Promise<string> {
  const response = await gateway.admin("upstreams", { json: { name: "test", ...fields } });
  if (response.status !== 201) throw new Error(`no upstream: ${response.status} ${await response.text()}`);
  return ((await response.json()) as { id: string }).id;
}

/** `lanes`: how many upstreams each lane has, or what is special about each of them. */
export async function startWorld(
  lanes: readonly (number | readonly Readonly<Record<string, unknown>>[])[],
  options: { bindings?: Record<string, string>; keyOf?: (lane: number) => Record<string, unknown> } = {},
): Promise<World> {
  const upstreams = await startFaultyUpstreams(3);
  const gateway = await startGateway(upstreams.urls[0] ?? "", { bindings: { ...BINDINGS, ...options.bindings } });
  const made: Lane[] = [];
  for (const [n, lane] of lanes.entries()) {
    const model = `${MODEL}@lane${n}`;
    const own: LaneUpstream[] = [];
    const special = typeof lane === "number" ? Array.from({ length: lane }, () => ({})) : lane;
    for (const [k, fields] of special.entries()) {
      const credential = `sk-ant-${UPSTREAM_CANARY}-${n}-${k}`;
      const base_url = upstreams.urls[k % upstreams.urls.length] ?? "";
      const id = await addUpstream(gateway, {
        name: `${n}-${k}`,
        base_url,
        api_key: credential,
        models: [model],
        ...fields,
      });
      own.push({ id, credential });
    }
    const key = await gateway.makeKey({
      budget: { usd: 1_000, period: "total", mode: "strict" },
      ...options.keyOf?.(n),
    });
    made.push({ model, key, upstreams: own });
  }
  const plans = new Map<number, { readonly lane: Lane; readonly plan: Plan }>();
  const direct: Director = (attempt) => {
    const known = plans.get(attempt.call);
    if (!known) return [];
    const { plan, lane } = known;
    if ("order" in plan) return plan.order[Math.min(attempt.serial, plan.order.length - 1)] ?? [];
    // A lane without upstreams of its own is served by the one of the deployment.
    return (
      plan.each[
        Math.max(
          0,
          lane.upstreams.findIndex(({ credential }) => credential === attempt.credential),
        )
      ] ?? []
    );
  };
  upstreams.direct = direct;
  let calls = 0;
  const world: World = {
    gateway,
    upstreams,
    lanes: made,
    async play(lane, stream, plan, { session, manners, headers, body } = {}) {
      const number = ++calls;
      plans.set(number, { lane, plan });
      const sent = JSON.stringify({
        model: lane.model,
        max_tokens: MAX_TOKENS,
        stream,
        messages: [{ role: "user", content: PROMPT_CANARY }],
        ...body,
      });
      const all = withKey(lane.key, {
        [CALL_HEADER]: String(number),
        "x-claude-code-session-id": session ?? `session-${number}`,
        "x-claude-code-agent-id": `${AGENT}${number}`,
        ...headers,
      });
      const answer = await call(`${gateway.url}/v1/messages`, all, sent, manners);
      return { call: number, stream, maxTokens: MAX_TOKENS, answer, attempts: upstreams.of(number) };
    },
    async rowsOf(lane, calls) {
      const read = async (): Promise<Map<number, AuditRow[]>> => {
        const found = new Map<number, AuditRow[]>();
        const response = await gateway.admin(`audit.ndjson?key=${lane.key.id}`);
        for (const line of (await response.text()).split("\n")) {
          if (line === "") continue;
          const row = JSON.parse(line) as AuditRow;
          const number = Number(String(row.agent_id).slice(AGENT.length));
          found.set(number, [...(found.get(number) ?? []), row]);
        }
        return found;
      };
      const due = calls.filter(({ answer, attempts }) => answer.end !== "left" || attempts.length > 0);
      const all = async (): Promise<Map<number, AuditRow[]> | undefined> => {
        const found = await read();
        return due.every(({ call }) => found.has(call)) ? found : undefined;
      };
      // What is missing after all is for the oracle to say.
      return until(all, "audit rows", 15_000).catch(read);
    },
    async heal(lane) {
      const answered = new Set<string>();
      let healing = 0;
      const end = Date.now() + 70_000;
      while (answered.size < lane.upstreams.length || healing < HEALING_CALLS) {
        const { attempts, answer } = await world.play(lane, false, { order: [[]] });
        const last = attempts.at(-1);
        healing++;
        if (answer.status === 200 && last) answered.add(last.credential);
        // One that refuses our credential is left alone for ten seconds.
        if (answer.status !== 200 || healing > 2 * HEALING_CALLS) await pause(200);
        if (Date.now() > end) throw new Error(`waited in vain for all upstreams of ${lane.model} to answer`);
      }
    },
    async stop() {
      await gateway.stop();
      await upstreams.stop();
    },
  };
  return world;
}

/** Secrets and prompts where they must not be. */
export async function canariesOf({ gateway }: World, answers: readonly Answer[], audit: string): Promise<string[]> {
  const metrics = await fetch(`${gateway.url}/metrics`, { headers: { authorization: `Bearer ${ADMIN_TOKEN}` } });
  const listed = await gateway.admin("upstreams");
  return canariesIn(
    {
      answers: answers.map(({ headers, body }) => JSON.stringify(headers) + body.toString("latin1")).join("\n"),
      audit,
      metrics: await metrics.text(),
      log: gateway.log(),
      "the list of upstreams": await listed.text(),
    },
    [UPSTREAM_CANARY, PROMPT_CANARY],
  );
}
