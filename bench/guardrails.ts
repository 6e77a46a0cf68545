/**
 * What guardrails cost: CPU of this process for requests that are looked through and masked, and for answers that are looked
 * through and get their values back, with every type there is; in turn, round after round. Beside them what each call is read
 * for anyway, and a link of the audit's chain. The code alone, without the runtime around it.
 */
import { link, rowOf } from "../src/audit/chain.ts";
import { DETECTED_TYPES } from "../src/guardrails/detect/finding.ts";
import { type Guardrails, stricter } from "../src/guardrails/policy.ts";
import { Rails } from "../src/guardrails/rails.ts";
import { PlaceholderTable } from "../src/guardrails/table.ts";
import { readRequestFacts } from "../src/wire/anthropic/request.ts";

const ROUNDS = 9;
/** Characters of a streamed delta. */
const DELTA = 20;

const PROSE =
  "Yesterday's deployment of order-service 4.12.3 took 37 minutes; it ran from 10:41 to 11:18 and moved 1,204,118 rows. " +
  "Two customers wrote that their invoices (no. 2024-118 and 2024-119) were late.\n";
const CODE =
  "export function total(items: readonly Item[]): number {\n  return items.reduce((sum, item) => sum + item.price, 0);\n}\n" +
  '{"id":"01JD3V7Q2K8Z","status":"ok","latency_ms":182,"path":"/v1/items/42?limit=20&after=c2l0ZQ"}\n';
const CHINESE = "昨天的部署花了三十七分钟,一共移动了1204118行数据。客户说发票晚到了,我们答复周一寄出。\n";
const PERSONAL = "Write to jane.doe@example.com or +49 30 901820; card 4111 1111 1111 1111, host 203.0.113.7.\n";
const NUMBERS = "12 345 6789 0123-4567 89.01 ";

const encoder = new TextEncoder();
const filled = (text: string, bytes: number): string => text.repeat(Math.ceil(bytes / encoder.encode(text).length));
const json = (value: object): Uint8Array => encoder.encode(JSON.stringify(value));
const asked = (messages: readonly object[]): Uint8Array =>
  json({ model: "claude-opus-5", max_tokens: 1_024, messages });
const asking = (text: string, bytes: number): Uint8Array => asked([{ role: "user", content: filled(text, bytes) }]);

/** As agents send them: a call and its result in turn. */
const transcript = Array.from({ length: 500 }, (_, n) =>
  n % 2
    ? {
        role: "assistant",
        content: [{ type: "tool_use", id: `toolu_${n}`, name: "read", input: { path: `a${n}.ts` } }],
      }
    : { role: "user", content: [{ type: "tool_result", tool_use_id: `toolu_${n}`, content: filled(CODE, 600) }] },
);

const railsOf = (given: Guardrails): Rails => {
  const policy = stricter(given, null);
  if (policy === null) throw new Error("nothing is asked for");
  return new Rails(policy);
};
const both = railsOf({ redact: DETECTED_TYPES, unmask: true, output: { redact: DETECTED_TYPES } });
const unmasking = railsOf({ redact: DETECTED_TYPES, unmask: true });

const table = (): PlaceholderTable => {
  const made = new PlaceholderTable();
  for (let n = 0; n < 20; n++) made.placeholderFor("EMAIL", `jane${n}@example.com`);
  return made;
};
const said = filled(`${PROSE}Ask [EMAIL_3].\n`, 10_000);
const answer = json({ id: "msg_1", type: "message", role: "assistant", content: [{ type: "text", text: said }] });
const event = (name: string, data: object): Uint8Array =>
  encoder.encode(`event: ${name}\ndata: ${JSON.stringify({ type: name, ...data })}\n\n`);
const stream = [
  event("content_block_start", { index: 0, content_block: { type: "text", text: "" } }),
  ...Array.from({ length: Math.ceil(said.length / DELTA) }, (_, n) =>
    event("content_block_delta", {
      index: 0,
      delta: { type: "text_delta", text: said.slice(n * DELTA, n * DELTA + DELTA) },
    }),
  ),
  event("message_stop", {}),
];

let sink = 0;
const guard = (bytes: Uint8Array): void => {
  sink += both.request({ bytes, betas: null }, new PlaceholderTable()).bytes.length;
};
const pass = (rails: Rails): void => {
  const rewriter = rails.stream(table());
  for (const piece of stream) sink += rewriter.push(piece).length;
  sink += rewriter.end().length;
};

type Subject = { readonly what: string; readonly times: number; readonly bytes: number; readonly run: () => unknown };
const request = (what: string, bytes: Uint8Array): Subject => ({
  what: `request: ${what}`,
  times: Math.max(1, Math.round(1_000_000 / bytes.length)),
  bytes: bytes.length,
  run: () => guard(bytes),
});
const prose = asking(PROSE, 10_000);
const subjects: readonly Subject[] = [
  {
    what: "off: the scan of each request",
    times: 100,
    bytes: prose.length,
    run: () => {
      sink += Number(readRequestFacts(prose).ok);
    },
  },
  request("prose, 10 kB", prose),
  request("code, 10 kB", asking(CODE, 10_000)),
  request("Chinese, 10 kB", asking(CHINESE, 10_000)),
  request("a value in each 2 kB, 10 kB", asking(filled(PROSE, 2_000) + PERSONAL, 10_000)),
  request("nothing but values, 10 kB", asking(PERSONAL, 10_000)),
  request("nothing but numbers, 10 kB", asking(NUMBERS, 10_000)),
  request("an agent's 500 messages", asked(transcript)),
  request("prose and code, 200 kB", asking(PROSE + CODE, 200_000)),
  request("prose and code, 2 MB", asking(PROSE + CODE, 2_000_000)),
  request("prose and code, 8 MB", asking(PROSE + CODE, 8_000_000)),
  {
    what: "answer: values put back",
    times: 50,
    bytes: said.length,
    run: () => {
      sink += unmasking.message(answer, table()).bytes.length;
    },
  },
  {
    what: "answer: looked through, too",
    times: 50,
    bytes: said.length,
    run: () => {
      sink += both.message(answer, table()).bytes.length;
    },
  },
  { what: "stream: values put back", times: 20, bytes: said.length, run: () => pass(unmasking) },
  { what: "stream: looked through, too", times: 20, bytes: said.length, run: () => pass(both) },
];

const cpuMs = async (times: number, run: () => unknown): Promise<number> => {
  const before = process.cpuUsage();
  for (let n = 0; n < times; n++) await run();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1_000 / times;
};
const ROWS = 500;
const rows = Array.from({ length: ROWS }, (_, n) => ({ request_id: `req_${n}`, key_id: "key_1", at: n, status: 200 }));
const linked = { what: "off: a link of the audit's chain", times: 1, run: () => link(rows.map(rowOf), {}, new Map()) };

const measured = new Map<string, number[]>();
for (let round = 0; round < ROUNDS; round++) {
  for (const { what, times, run } of [...subjects, linked]) {
    measured.set(what, [...(measured.get(what) ?? []), await cpuMs(times, run)]);
  }
}
const median = (what: string): number =>
  (measured.get(what) ?? []).toSorted((a, b) => a - b)[ROUNDS >> 1] ?? Number.NaN;
for (const { what, bytes } of subjects) {
  const ms = median(what);
  const per = `${((ms / bytes) * 10_000).toFixed(3)} ms for 10 kB`;
  console.log(`${what.padEnd(40)} ${ms.toFixed(3).padStart(9)} ms  ${per}`);
}
console.log(`${linked.what.padEnd(40)} ${(median(linked.what) / ROWS).toFixed(3).padStart(9)} ms  a call`);
if (sink === 0) throw new Error("nothing was done");
