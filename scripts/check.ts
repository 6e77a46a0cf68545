/** `npm run check`: everything that can be known without running the tests. Stops at the first thing that is wrong. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { ROOT } from "./local-runtime.ts";

const bin = (path: string): string => join(ROOT, "node_modules", path);
const STEPS: readonly (readonly [name: string, script: string, ...args: string[]])[] = [
  ["format and lint", bin("@biomejs/biome/bin/biome"), "check", "--error-on-warnings", "."],
  ["types of the Worker's bindings", bin("wrangler/bin/wrangler.js"), "types", "--strict-vars=false", "--check"],
  ["types: gateway", bin("typescript/bin/tsc"), "-p", "."],
  ["types: simulator", bin("typescript/bin/tsc"), "-p", "simulator"],
  ["types: client", bin("typescript/bin/tsc"), "-p", "clients/typescript", "--noEmit"],
  ["types: console", bin("typescript/bin/tsc"), "-p", "src/console"],
  ["types: console's tests", bin("typescript/bin/tsc"), "-p", "test/e2e"],
  ["types: scripts, tests, benchmark", bin("typescript/bin/tsc"), "-p", "tsconfig.tools.json"],
  ["nothing unused", bin("knip/bin/knip.js")],
  ["the bundle is built", join(ROOT, "scripts/build.ts"), "--force"],
  ["the bundle deploys, with all of its modules", join(ROOT, "scripts/dry-run.ts")],
  ["size of the bundle", join(ROOT, "scripts/size.ts")],
];

for (const [name, script, ...args] of STEPS) {
  const started = Date.now();
  const run = spawnSync(process.execPath, [script, ...args], {
    cwd: ROOT,
    encoding: "utf8",
    env: { ...process.env, CI: "1", WRANGLER_SEND_METRICS: "false" },
  });
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  if (run.status !== 0) {
    console.error(`${run.stdout}${run.stderr}\n✗ ${name} (${seconds} s)`);
    process.exit(1);
  }
  console.log(`✓ ${name} (${seconds} s)${script.endsWith("size.ts") ? `\n${run.stdout.trimEnd()}` : ""}`);
}
