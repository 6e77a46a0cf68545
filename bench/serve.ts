/**
 * One subject of the benchmark in a process tree of its own, so that its CPU and memory are nobody else's:
 * `node serve.ts pass-through|sluice UPSTREAM_URL`. Prints one line of JSON when it is ready: its port, and a key.
 */
import { startLocalWorker } from "../scripts/local-runtime.ts";

/** High enough never to refuse, low enough to be a real bucket. */
const REQUESTS_PER_MINUTE = 1_000_000;

const [, , subject, upstreamUrl = ""] = process.argv;
const adminToken = "admin-token-of-the-benchmark";
const worker = await startLocalWorker({
  config: subject === "sluice" ? "wrangler.toml" : "bench/pass-through/wrangler.toml",
  bundle: subject === "sluice" ? "dist/gateway" : "bench/pass-through",
  bindings: {
    UPSTREAM_URL: upstreamUrl,
    ANTHROPIC_API_KEY: "sk-ant-benchmark",
    ADMIN_TOKEN: adminToken,
    KEY_TAG_SECRET: "tag-secret-of-the-benchmark",
  },
  // The log line of each request is made and read; only the screen is spared.
  onLog: () => {},
});
let key = "sk-ant-benchmark";
if (subject === "sluice") {
  const response = await fetch(`${worker.url}/admin/keys`, {
    method: "POST",
    headers: { authorization: `Bearer ${adminToken}`, "content-type": "application/json" },
    body: JSON.stringify({ name: "benchmark", limits: { requests_per_minute: REQUESTS_PER_MINUTE } }),
  });
  key = ((await response.json()) as { key: string }).key;
}
console.log(JSON.stringify({ port: worker.port, key }));
process.on("SIGTERM", () => void worker.stop().then(() => process.exit(0)));
