/**
 * The gateway's bundle with a window in it: each time the runtime makes the object of a conversation a line is written, and
 * a path aborts one, as a failing machine would. What is between is the bundle as it is deployed.
 */
import { cpSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { ROOT } from "../scripts/local-runtime.ts";

/** Begins the lines that a Worker writes for the benchmark. */
export const BENCH_LINE = '{"bench":';
export const BEGUN_LINE = `${BENCH_LINE}"begun"`;
/** Followed by a conversation's id. */
export const ABORT_PATH = "/bench/abort/";

const SOURCE = `import gateway, { Conversation as Original } from "./gateway/index.js";
export * from "./gateway/index.js";
const names = new Map();
export class Conversation extends Original {
  constructor(ctx, env) {
    super(ctx, env);
    const name = ctx.id.name ?? "";
    names.set(name.split(" ").at(-1), name);
    console.log('${BEGUN_LINE},"name":' + JSON.stringify(name) + "}");
  }
  benchAbort() {
    this.ctx.abort("ended by the benchmark");
  }
}
export default {
  ...gateway,
  async fetch(request, env, ctx) {
    const { pathname } = new URL(request.url);
    if (!pathname.startsWith("${ABORT_PATH}")) return gateway.fetch(request, env, ctx);
    const name = names.get(pathname.slice(${ABORT_PATH.length}));
    if (name === undefined) return new Response(null, { status: 404 });
    await env.CONVERSATION.getByName(name).benchAbort().catch(() => {});
    return new Response(null, { status: 204 });
  },
};
`;

/** Writes it into a folder of the repository; returns the path for `startLocalWorker`. */
export function writeWatched(folder: string): string {
  rmSync(folder, { recursive: true, force: true });
  cpSync(join(ROOT, "dist/gateway"), join(folder, "gateway"), { recursive: true });
  writeFileSync(join(folder, "index.js"), SOURCE);
  return relative(ROOT, folder);
}
