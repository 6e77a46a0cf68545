/**
 * One subject of the benchmark in a process tree of its own, so that its CPU and memory are nobody else's:
 * `node serve.ts pass-through|sluice UPSTREAM_URL`. Prints one line of JSON when it is ready.
 */
import { startLocalWorker } from "../scripts/local-runtime.ts";

/** What the line says. `adminToken` is null where there is no control plane. */
export type Ready = { readonly port: number; readonly key: string; readonly adminToken: string | null };

/** High enough never to refuse, and a real bucket all the same. */
const REQUESTS_PER_MINUTE = 1_000_000;
const ADMIN_TOKEN = "admin-token-of-the-benchmark";
const UPSTREAM_KEY = "sk-ant-benchmark";

const [, , subject, upstreamUrl = ""] = process.argv;
const isGateway = subject === "sluice";
const worker = await startLocalWorker({
  config: isGateway ? "wrangler.toml" : "bench/pass-through/wrangler.toml",
  bundle: isGateway ? "dist/gateway" : "bench/pass-through",
  bindings: {
    UPSTREAM_URL: upstreamUrl,
    ANTHROPIC_API_KEY: UPSTREAM_KEY,
    ADMIN_TOKEN,
    KEY_TAG_SECRET: "tag-secret-of-the-benchmark",
  },
  // The line of each request is made, sent and read; only the screen is spared.
  onLog: () => {},
});
const ready: Ready = isGateway
  ? { port: worker.port, key: await makeKey(worker.url), adminToken: ADMIN_TOKEN }
  : { port: worker.port, key: UPSTREAM_KEY, adminToken: null };
console.log(JSON.stringify(ready));
process.on("SIGTERM", () => void worker.stop().then(() => process.exit(0)));

async function makeKey(url: string): Promise<string> {
  const response = await fetch(`${url}/admin/keys`, {
    method: "POST",
    headers: { authorization: `Bearer ${ADMIN_TOKEN}`, "content-type": "application/json" },
    body: JSON.stringify({ name: "benchmark", limits: { requests_per_minute: REQUESTS_PER_MINUTE } }),
  });
  const answer = (await response.json()) as { key?: string };
  if (!answer.key) throw new Error(`the gateway made no key: ${response.status} ${JSON.stringify(answer)}`);
  return answer.key;
}
