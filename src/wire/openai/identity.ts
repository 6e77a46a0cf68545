/** Who asks, as Claude is told: always the same name for the same user, and never the user's own. */
import { sha256Hex } from "../../digest.ts";

/** Sets these names apart from the digests of the same texts elsewhere. */
const PURPOSE = "messages user id:";
const ID_CHARS = 32;

/** Clients put mail addresses there, which must not leave: what leaves is a digest. */
export async function userIdOf(user: string): Promise<string> {
  return `user_${(await sha256Hex(PURPOSE + user)).slice(0, ID_CHARS)}`;
}
