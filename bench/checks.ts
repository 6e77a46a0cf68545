/** What must hold before and after measuring, or the figures mean nothing: right answers, and a complete audit. */
import { type Subject, SubjectFailed } from "./load.ts";
import { BODIES, type BodyName, CHAT_PATH, OUTPUT_TOKENS } from "./scenarios.ts";
import type { Ready } from "./serve.ts";

/** D1 has the last records a second or two after their calls; this is far more. */
const AUDIT_DEADLINE_MS = 20_000;
/** Ledgers tell the metrics every ten seconds at least. */
const METRICS_DEADLINE_MS = 30_000;

/** How many calls of each body every subject has been sent. */
export class Sent {
  readonly #counts = new Map<string, Map<BodyName, number>>();

  add(subject: Subject, counts: Partial<Record<BodyName, number>>): void {
    const own = this.#counts.get(subject.name) ?? new Map<BodyName, number>();
    for (const [name, count] of Object.entries(counts)) {
      own.set(name as BodyName, (own.get(name as BodyName) ?? 0) + count);
    }
    this.#counts.set(subject.name, own);
  }

  /** Calls through the gateway. */
  get calls(): number {
    return [...this.#gateway()].reduce((sum, [, count]) => sum + count, 0);
  }

  /** Output tokens that the upstream reported for them. */
  get outputTokens(): number {
    return [...this.#gateway()].reduce((sum, [name, count]) => sum + OUTPUT_TOKENS[name] * count, 0);
  }

  #gateway(): ReadonlyMap<BodyName, number> {
    return this.#counts.get("sluice") ?? new Map();
  }
}

/** One call of each kind, looked at: a subject that answers wrongly is not measured. Returns what was sent. */
export async function check(subject: Subject): Promise<Partial<Record<BodyName, number>>> {
  const ask = async (body: BodyName, path = "/v1/messages"): Promise<string> => {
    const response = await fetch(`http://127.0.0.1:${subject.port}${path}`, {
      method: "POST",
      headers: {
        "x-api-key": subject.key,
        "anthropic-version": "2023-06-01",
        "content-type": "application/json",
      },
      body: BODIES[body],
    });
    const text = await response.text();
    const limited =
      response.headers.has("x-sluice-request-id") && response.headers.has("anthropic-ratelimit-requests-limit");
    if (response.status !== 200 || (subject.name === "sluice" && !limited)) {
      throw new SubjectFailed(`${subject.name} answered ${response.status}: ${text.slice(0, 300)}`);
    }
    return text;
  };
  const judge = (answer: string, stream: string): void => {
    if (!answer.includes("quick brown fox")) throw new SubjectFailed(`${subject.name}: not the answer`);
    const events = stream.match(/@@\d{16}@@/g)?.length;
    if (events !== 64) throw new SubjectFailed(`${subject.name}: ${events ?? 0} of 64 events`);
  };
  judge(await ask("small"), await ask("stream"));
  if (subject.name !== "sluice") return { small: 1, stream: 1 };
  const told = await ask("chatStream", CHAT_PATH);
  judge(await ask("chat", CHAT_PATH), told);
  if (!told.endsWith("data: [DONE]\n\n")) throw new SubjectFailed(`${subject.name}: a Chat stream without an end`);
  return { small: 1, stream: 1, chat: 1, chatStream: 1 };
}

/** The proof that metering and audit were on: every call is in D1, with the tokens that the upstream reported. */
export async function checkAudit(gateway: Ready, sent: Sent): Promise<void> {
  const deadline = performance.now() + AUDIT_DEADLINE_MS;
  for (;;) {
    const response = await fetch(`http://127.0.0.1:${gateway.port}/admin/usage?group_by=key`, {
      headers: { authorization: `Bearer ${gateway.adminToken}` },
    });
    const text = await response.text();
    const [row] =
      (JSON.parse(text) as { data?: { requests: number; errors: number; output_tokens: number }[] }).data ?? [];
    if (row?.requests === sent.calls && row.errors === 0 && row.output_tokens === sent.outputTokens) return;
    if (performance.now() > deadline) {
      throw new SubjectFailed(
        `sluice was sent ${sent.calls} calls with ${sent.outputTokens} output tokens; its audit says ${text}`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

export type Counted = { readonly calls: number; readonly requests: number };

/** What `GET /metrics` has counted when it knows of all calls that were sent; null where there are no metrics. */
export async function readCounted(gateway: Ready, sent: Sent): Promise<Counted | null> {
  const deadline = performance.now() + METRICS_DEADLINE_MS;
  for (;;) {
    const response = await fetch(`http://127.0.0.1:${gateway.port}/metrics`, {
      headers: { authorization: `Bearer ${gateway.adminToken}` },
    });
    const text = await response.text();
    if (response.status === 404) return null;
    const sumOf = (name: string): number =>
      [...text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, "gm"))].reduce(
        (sum, [, value]) => sum + Number(value),
        0,
      );
    const requests = sumOf("sluice_requests_total");
    if (requests === sent.calls) return { calls: sumOf("sluice_ledger_calls_total"), requests };
    if (performance.now() > deadline) {
      throw new SubjectFailed(`sluice was sent ${sent.calls} calls; its metrics count ${requests}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}
