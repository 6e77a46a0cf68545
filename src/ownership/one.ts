/** Calls about one batch or file that somebody made: whose it is, where it is, and that it is gone when it is. */
import type { AppContext } from "../context.ts";
import type { Caller } from "../hotpath/authenticate.ts";
import type { WholeAnswer } from "../hotpath/forward.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { isObjectId } from "./page.ts";
import { asked, find, forget, type Kind, type Owned } from "./store.ts";
import type { Where } from "./where.ts";

const NONE: Record<Kind, Failure> = {
  batches: { kind: "not_found", what: "There is no such message batch." },
  files: { kind: "not_found", what: "There is no such file." },
};

/** The one that the path names, if the caller's workspace has it; every other one is the same 404, and asks nobody. */
export async function ownedOne(c: AppContext, kind: Kind, { policy }: Caller): Promise<Result<Owned, Failure>> {
  const id = c.req.param("id") ?? "";
  if (!isObjectId(id)) return err({ kind: "invalid_request", message: "The id in the path is malformed." });
  const row = await asked(find(c.env.DB, kind, policy.workspace, id));
  if (!row.ok) return row;
  return row.value ? ok(row.value) : err(NONE[kind]);
}

/** What a call is about. `itself`: the path ends with its id. */
export type One = Pick<Owned, "seq" | "id"> & { readonly itself: boolean };

/**
 * What becomes of an answer about one: a 404 of its upstream means that it is gone, and so does the answer to a delete.
 * `show` rewrites the others. Below it a 404 may mean something else (the results of a batch that has not ended, or whose
 * results are archived) and is the client's to read.
 */
export function takeOne(
  { env, record }: Pick<Where, "env" | "record">,
  kind: Kind,
  { seq, id, itself }: One,
  show: (text: string, id: string) => string | null,
) {
  const { method, startedAt } = record.facts;
  return async ({ status, text }: WholeAnswer): Promise<Result<string | null, Failure>> => {
    const deleted = method === "DELETE" && status < 300;
    const gone = status === 404 && itself;
    if (gone || deleted) await asked(forget(env.DB, kind, [seq], startedAt));
    if (gone) return err(NONE[kind]);
    return ok(status === 200 && !deleted ? show(text, id) : null);
  };
}
