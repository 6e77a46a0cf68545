/**
 * `npm run faults -- --scripts 10000 --seed 7 --at-once 50`: random scripts against the built gateway, and a summary.
 * `--from` begins at a later script of the seed: with `--scripts 1` it plays one again, alone.
 */
import { parseArgs } from "node:util";
import { crowdedKey, playCrowd } from "./crowd.ts";
import { CROWDED, startWorld } from "./world.ts";

const { values } = parseArgs({
  options: {
    scripts: { type: "string", default: "1000" },
    seed: { type: "string", default: String(Date.now() % 1_000_000) },
    "at-once": { type: "string", default: "50" },
    from: { type: "string", default: "0" },
  },
});
const calls = Number(values.scripts);
const seed = Number(values.seed);
const started = Date.now();
// As many upstreams as one gateway takes, in lanes of three.
const world = await startWorld(
  Array.from({ length: 33 }, () => 3),
  { bindings: CROWDED, keyOf: crowdedKey },
);
try {
  const summary = await playCrowd(world, { seed, calls, atOnce: Number(values["at-once"]), from: Number(values.from) });
  const { wrong, ...counted } = summary;
  console.log(JSON.stringify({ seed, ...counted, seconds: Math.round((Date.now() - started) / 1_000) }, null, 2));
  for (const line of wrong) console.log(line);
  console.log(wrong.length === 0 ? "every invariant held" : `${wrong.length} broken`);
  process.exitCode = wrong.length === 0 ? 0 : 1;
} finally {
  await world.stop();
}
