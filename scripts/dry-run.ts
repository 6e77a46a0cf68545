/** `npm run deploy` up to the upload: fails where wrangler would not take every module that was built. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { modulesIn, ROOT } from "./local-runtime.ts";

const { scripts } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { scripts: { deploy: string } };
const [, ...args] = scripts.deploy.split(" ");
const wrangler = join(ROOT, "node_modules/wrangler/bin/wrangler.js");
const said = execFileSync(process.execPath, [wrangler, ...args, "--dry-run"], {
  cwd: ROOT,
  encoding: "utf8",
  env: { ...process.env, CI: "1", WRANGLER_SEND_METRICS: "false" },
});
const bundle = join(ROOT, "dist/gateway");
const [, ...chunks] = modulesIn(bundle).map(({ path }) => relative(bundle, path));
const missing = chunks.filter((name) => !said.includes(`│ ${name} `));
if (missing.length > 0) {
  console.error(`${said}\nNot uploaded: ${missing.join(", ")}`);
  process.exit(1);
}
