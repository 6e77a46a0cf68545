/** `npm run size`: the gateway's bundle as it is uploaded, gzipped, and how long the runtime takes to start it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "./build.ts";
import { ROOT, startLocalWorker } from "./local-runtime.ts";

/** Design §10. */
const LIMIT_KIB = 250;

build();
const bundle = readFileSync(join(ROOT, "dist/gateway/index.js"));
const gzipped = gzipSync(bundle).length / 1024;
const options = {
  config: "wrangler.toml",
  bundle: "dist/gateway",
  bindings: { ANTHROPIC_API_KEY: "x", ADMIN_TOKEN: "x", KEY_TAG_SECRET: "0123456789abcdef" },
  onLog: () => {},
};
const started = performance.now();
const worker = await startLocalWorker(options);
await fetch(`${worker.url}/api/hello`);
const ready = performance.now() - started;
const first = performance.now();
await fetch(`${worker.url}/api/hello`);
const again = performance.now() - first;
await worker.stop();
console.log(`bundle: ${(bundle.length / 1024).toFixed(1)} KiB, ${gzipped.toFixed(1)} KiB gzipped (limit ${LIMIT_KIB})`);
console.log(
  `start: ${ready.toFixed(0)} ms from nothing to the first answer, runtime included; the next one ${again.toFixed(1)} ms`,
);
if (gzipped > LIMIT_KIB) process.exit(1);
