/** `npm run simulator`: the simulated Claude alone, on PORT or 8788. */
import { build } from "./build.ts";
import { freePort, startLocalWorker, untilStopped } from "./local-runtime.ts";

const DEFAULT_PORT = 8788;

await untilStopped(async (started) => {
  const port = await freePort(process.env.PORT ?? "", DEFAULT_PORT);
  build();
  const simulator = await startLocalWorker({ config: "simulator/wrangler.toml", bundle: "dist/simulator", port });
  started(simulator);
  console.log(`
The simulated Claude is running at ${simulator.url}. Any key that begins with sk-ant- will do.

  curl ${simulator.url}/v1/messages -H 'x-api-key: sk-ant-simulated' -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' -d '{"model":"claude-opus-5-5","max_tokens":200,"messages":[{"role":"user","content":"Hello!"}]}'

What it understands and which faults it can be asked for: docs/simulator.md. Ctrl-C stops it.
`);
});
