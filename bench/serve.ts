/**
 * One subject of the benchmark in a process tree of its own, so that its CPU and memory are nobody else's:
 * `node serve.ts pass-through|bare-object|sluice UPSTREAM_URL [OPTIONS]`. Prints one line of JSON when it is ready; then, of what the
 * Worker logs, the lines that are the benchmark's own.
 */
import { startLocalWorker } from "../scripts/local-runtime.ts";
import { BENCH_LINE } from "./watched.ts";

/** What the line says. `adminToken` is null where there is no control plane. */
export type Ready = {
  readonly port: number;
  readonly key: string;
  readonly adminToken: string | null;
  /** What is enforced for the key, in words. */
  readonly features: string;
};

/** What the third argument may say, as JSON. */
export type ServeOptions = {
  readonly bundle?: string;
  readonly port?: number;
  readonly stateDir?: string;
};
/** Every limit there is, high enough never to refuse, and real buckets, slots and money all the same. */
const KEYS = [
  {
    features: "limits of requests, input and output tokens, and concurrency, and a monthly budget in USD",
    fields: {
      limits: {
        requests_per_minute: 1_000_000,
        input_tokens_per_minute: 1_000_000_000,
        output_tokens_per_minute: 1_000_000_000,
        concurrent_requests: 100_000,
      },
      budget: { usd: 1_000_000, period: "month", mode: "soft" },
    },
  },
  { features: "a limit of requests per minute", fields: { limits: { requests_per_minute: 1_000_000 } } },
] as const;
const ADMIN_TOKEN = "admin-token-of-the-benchmark";
const UPSTREAM_KEY = "sk-ant-benchmark";

const [, , subject, upstreamUrl = "", optionsText = "{}"] = process.argv;
const options = JSON.parse(optionsText) as ServeOptions;
/** Objects of an earlier life may begin before all else is ready; they are told of afterwards. */
let isReady = false;
const waiting: string[] = [];
const isGateway = subject === "sluice";
const worker = await startLocalWorker({
  config: isGateway ? "wrangler.toml" : `bench/${subject}/wrangler.toml`,
  bundle: options.bundle ?? (isGateway ? "dist/gateway" : `bench/${subject}`),
  ...(options.port === undefined ? {} : { port: options.port }),
  ...(options.stateDir === undefined ? {} : { stateDir: options.stateDir }),
  bindings: {
    UPSTREAM_URL: upstreamUrl,
    ANTHROPIC_API_KEY: UPSTREAM_KEY,
    ADMIN_TOKEN,
    KEY_TAG_SECRET: "tag-secret-of-the-benchmark",
  },
  // The line of each request is made, sent and read; only the screen is spared.
  onLog: (text) => {
    for (const line of text.split("\n")) if (line.startsWith(BENCH_LINE)) say(line);
  },
});
const ready: Ready = isGateway
  ? { port: worker.port, adminToken: ADMIN_TOKEN, ...(await makeKey(worker.url)) }
  : { port: worker.port, adminToken: null, key: UPSTREAM_KEY, features: "" };
for (const line of [JSON.stringify(ready), ...waiting.splice(0)]) console.log(line);
isReady = true;
process.on("SIGTERM", () => void worker.stop().then(() => process.exit(0)));

function say(line: string): void {
  if (isReady) console.log(line);
  else waiting.push(line);
}

/** A key with as much on it as this gateway knows. */
async function makeKey(url: string): Promise<Pick<Ready, "key" | "features">> {
  let refusal = "";
  for (const { features, fields } of KEYS) {
    const response = await fetch(`${url}/admin/keys`, {
      method: "POST",
      headers: { authorization: `Bearer ${ADMIN_TOKEN}`, "content-type": "application/json" },
      body: JSON.stringify({ name: "benchmark", ...fields }),
    });
    const answer = (await response.json()) as { key?: string };
    if (answer.key) return { key: answer.key, features };
    refusal = `${response.status} ${JSON.stringify(answer)}`;
  }
  throw new Error(`the gateway made no key: ${refusal}`);
}
