/** What the shelf needs of a call. */
import type { AppContext } from "../context.ts";
import type { Shelves } from "./shelf.ts";

export function shelvesOf(c: AppContext): Shelves {
  return {
    kv: c.env.TEMPLATES,
    db: c.env.DB,
    now: Date.now,
    background: (work) => c.executionCtx.waitUntil(work),
  };
}
