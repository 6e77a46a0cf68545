/**
 * `npm run size`: what of the gateway the runtime loads at start, what when it is asked for, and all that is uploaded, each
 * gzipped; and what the start costs. Fails where the first is over its limit.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import type { Metafile } from "esbuild";
import { build } from "./build.ts";
import { ROOT } from "./local-runtime.ts";
import { startMs } from "./start-time.ts";

/** Design §10. */
const LIMIT_KIB = 250;
const ENTRY = "dist/gateway/index.js";

build();
const { outputs } = JSON.parse(readFileSync(join(ROOT, "dist/gateway.json"), "utf8")) as Metafile;
const atStart = [...reached(ENTRY, new Set())];
const all = Object.keys(outputs).filter((name) => name.endsWith(".js"));
const gzipped = kib(atStart);
console.log(`at start: ${gzipped.toFixed(1)} KiB gzipped, ${atStart.length} modules (limit ${LIMIT_KIB})`);
const onDemand = all.filter((name) => outputs[name]?.entryPoint !== undefined && name !== ENTRY);
for (const name of onDemand) {
  const more = [...reached(name, new Set(atStart))].filter((one) => !atStart.includes(one));
  console.log(`  with ${outputs[name]?.entryPoint}: ${kib(more).toFixed(1)} KiB more`);
}
console.log(`all that is uploaded: ${kib(all).toFixed(1)} KiB, ${all.length} modules`);
console.log(`start: ${(await startMs("wrangler.toml", "dist/gateway")).toFixed(0)} ms, beside the runtime's own`);
if (gzipped > LIMIT_KIB) process.exit(1);

/** A module with all that it imports, and all that these import. */
function reached(name: string, known: Set<string>): Set<string> {
  known.add(name);
  for (const { kind, path, external } of outputs[name]?.imports ?? []) {
    if (kind === "import-statement" && !external && !known.has(path)) reached(path, known);
  }
  return known;
}

/** Together, as wrangler tells it. */
function kib(names: readonly string[]): number {
  return gzipSync(Buffer.concat(names.map((name) => readFileSync(join(ROOT, name))))).length / 1024;
}
