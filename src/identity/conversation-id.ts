/**
 * Ids of conversations, and the cursors of their lists. Both carry a tag, a truncated HMAC under `KEY_TAG_SECRET` of what
 * they are, the workspace and the id, so that a guessed, edited or foreign one is told from a workspace's own without
 * anybody being asked.
 */

import type { Failure } from "../wire/errors.ts";
import { newId } from "../wire/ids.ts";
import { constantTimeEqual, keyedTag } from "./api-key.ts";

/** `conv_`, a ULID, 80 bits of tag. */
const CONVERSATION_ID = /^conv_([0-9a-hjkmnp-tv-z]{26})([0-9a-hjkmnp-tv-z]{16})$/;
const CURSOR = /^([0-9a-hjkmnp-tv-z]{26})([0-9a-hjkmnp-tv-z]{16})$/;
const PREFIX = "conv_";
const ULID_CHARS = 26;

/** One and the same for an id that is malformed, unknown, deleted, expired, or another workspace's. */
export const NO_SUCH_CONVERSATION = {
  kind: "not_found",
  what: "There is no such conversation.",
} as const satisfies Failure;

type Tagged = "conversation" | "conversations-cursor";

// The keys' own tags are made of texts without spaces (api-key.ts).
const tag = (secret: string, what: Tagged, workspace: string, ulid: string): Promise<string> =>
  keyedTag(secret, `${what} ${workspace} ${ulid}`);

/** A new id in a workspace. The first secret signs. */
export async function mintConversationId(secrets: readonly string[], workspace: string, now: number): Promise<string> {
  const bare = newId("conv", now);
  return bare + (await tag(secrets[0] ?? "", "conversation", workspace, bare.slice(PREFIX.length)));
}

/**
 * `own`: made for this workspace under one of the secrets. `untagged`: well formed, and either nobody's, another
 * workspace's, or of a secret that is no longer among them.
 */
export async function checkConversationId(
  secrets: readonly string[],
  workspace: string,
  id: string,
): Promise<"own" | "untagged" | "malformed"> {
  const match = CONVERSATION_ID.exec(id);
  if (!match) return "malformed";
  const [, ulid = "", shown = ""] = match;
  return (await isTagged(secrets, "conversation", workspace, ulid, shown)) ? "own" : "untagged";
}

/** A place in a workspace's list: behind this conversation. */
export async function cursorAfter(secrets: readonly string[], workspace: string, id: string): Promise<string> {
  const ulid = id.slice(PREFIX.length, PREFIX.length + ULID_CHARS);
  return ulid + (await tag(secrets[0] ?? "", "conversations-cursor", workspace, ulid));
}

/** Ids that sort before this come behind the cursor's place. Null: a cursor that was never given to this workspace. */
export async function readCursor(
  secrets: readonly string[],
  workspace: string,
  cursor: string,
): Promise<string | null> {
  const [, ulid = "", shown = ""] = CURSOR.exec(cursor) ?? [];
  const given = ulid !== "" && (await isTagged(secrets, "conversations-cursor", workspace, ulid, shown));
  // An id is longer than its first part, and so sorts behind it: its own conversation is not there again.
  return given ? PREFIX + ulid : null;
}

async function isTagged(
  secrets: readonly string[],
  what: Tagged,
  workspace: string,
  ulid: string,
  shown: string,
): Promise<boolean> {
  for (const secret of secrets) {
    if (constantTimeEqual(await tag(secret, what, workspace, ulid), shown)) return true;
  }
  return false;
}
