/**
 * `npm run dev`: `wrangler dev` with reload (the console's files too), the simulated Claude behind it. Local state is wrangler's own
 * (.wrangler/state), so it neither sees nor disturbs what `npm start` keeps.
 */
import { spawn, spawnSync } from "node:child_process";
import { join } from "node:path";
import { build, watchConsole } from "./build.ts";
import { ROOT, startLocalWorker } from "./local-runtime.ts";

const port = process.env.PORT || "8787";
const adminToken = process.env.ADMIN_TOKEN || "sluice-development-admin";
const wrangler = join(ROOT, "node_modules/wrangler/bin/wrangler.js");
const env = { ...process.env, CI: "1", WRANGLER_SEND_METRICS: "false" };

build();
await watchConsole();
const migrate = ["d1", "migrations", "apply", "DB", "--local"];
const migrated = spawnSync(process.execPath, [wrangler, ...migrate], {
  cwd: ROOT,
  env,
  stdio: ["ignore", "ignore", "inherit"],
});
if (migrated.status !== 0) process.exit(migrated.status ?? 1);
const simulator = process.env.ANTHROPIC_API_KEY
  ? undefined
  : await startLocalWorker({ config: "simulator/wrangler.toml", bundle: "dist/simulator" });
const vars = {
  UPSTREAM_URL: process.env.UPSTREAM_URL || simulator?.url || "https://api.anthropic.com",
  ANTHROPIC_API_KEY: process.env.ANTHROPIC_API_KEY || "sk-ant-simulated",
  ADMIN_TOKEN: adminToken,
  KEY_TAG_SECRET: process.env.KEY_TAG_SECRET || "a-tag-secret-for-development-only",
  MASTER_KEY: process.env.MASTER_KEY || Buffer.from("a-master-key-for-developing-only").toString("base64"),
  ALLOW_LOCAL_UPSTREAMS: process.env.ALLOW_LOCAL_UPSTREAMS || "true",
};
const flags = Object.entries(vars).flatMap(([name, value]) => ["--var", `${name}:${value}`]);
const dev = spawn(
  process.execPath,
  [wrangler, "dev", "--ip", "127.0.0.1", "--port", port, "--inspector-port", "0", ...flags],
  {
    cwd: ROOT,
    env: { ...process.env, WRANGLER_SEND_METRICS: "false" },
    stdio: "inherit",
  },
);
console.log(`The console: http://127.0.0.1:${port}/console/`);
console.log(
  `Make a key: curl -X POST http://127.0.0.1:${port}/admin/keys -H 'authorization: Bearer ${adminToken}' -H 'content-type: application/json' -d '{"name":"dev"}'`,
);
// Ctrl-C reaches wrangler by itself; this process goes when wrangler has gone.
process.on("SIGINT", () => {});
process.on("SIGTERM", () => dev.kill("SIGTERM"));
dev.on("exit", async (code) => {
  await simulator?.stop();
  process.exit(code ?? 0);
});
