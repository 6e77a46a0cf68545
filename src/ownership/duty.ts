/** What a call owes to the tables of batches and files. */
import type { Prepared } from "../hotpath/relay.ts";
import { withResultsUrl } from "../wire/anthropic/batch.ts";
import { making } from "./making.ts";
import { type One, takeOne } from "./one.ts";
import type { Kind } from "./store.ts";
import type { Where } from "./where.ts";

/** Plain data: it travels with a call that runs in an object. */
export type Duty = {
  readonly kind: Kind;
  /** The one that the call is about; null: the call makes one. */
  readonly row: One | null;
  /** The address under which the client has reached the gateway. */
  readonly origin: string;
};

export type Hooks = Pick<Extract<Prepared, { path: string }>, "begin" | "take" | "unanswered" | "readOn">;

/** What has to be done about the call where it is carried out. */
export function hooksOf({ kind, row, origin }: Duty, where: Where): Hooks {
  const show = shownAt(kind, origin);
  if (row) return { take: takeOne(where, kind, row, show) };
  const { discard: _, ...hooks } = making(where, kind, show);
  return hooks;
}

/**
 * Rewrites what tells of one: a batch's results are for this client at the address under which it has reached the
 * gateway, whatever a header says.
 */
export function shownAt(kind: Kind, origin: string): (text: string, id: string) => string | null {
  if (kind === "files") return () => null;
  return (text, id) => withResultsUrl(text, `${origin}/v1/messages/batches/${id}/results`);
}
