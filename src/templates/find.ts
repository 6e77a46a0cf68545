/** Which version a call means: what it names, whether its caller may, and what its label means for them. */
import { err, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import type { Wish } from "./call.ts";
import { TEMPLATE_NAME, type Version } from "./content.ts";
import { choose, tieOf } from "./labels.ts";
import type { Shelf, Shelves } from "./shelf.ts";

export type Asking = {
  /** Of the caller's key. */
  readonly workspace: string;
  /** What keeps a caller with one version: the conversation, a session, or else the key's id. */
  readonly who: string;
};

/**
 * `not_found` for what there is not, what is archived, and what belongs to others: nobody learns which names are taken.
 */
export async function findVersion(
  shelf: Shelf,
  shelves: Shelves,
  name: string,
  wish: Wish,
  { workspace, who }: Asking,
): Promise<Result<Version, Failure>> {
  if (!TEMPLATE_NAME.test(name)) return notFound("There is no such template.");
  const found = await shelf.pointer(shelves, name);
  if (!found.ok) return found;
  const { labels, state, workspaces } = found.value;
  if (state !== "active" || workspaces?.includes(workspace) === false) return notFound("There is no such template.");
  if ("version" in wish) return shelf.version(shelves, name, wish.version);
  const label = Object.hasOwn(labels, wish.label) ? labels[wish.label] : undefined;
  if (label === undefined) return notFound(`This template has no label ${wish.label}.`);
  return shelf.version(shelves, name, choose(label, tieOf(name, wish.label, who)));
}

function notFound(what: string): Result<never, Failure> {
  return err({ kind: "not_found", what });
}
