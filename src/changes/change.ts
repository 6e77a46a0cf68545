/**
 * What the change log holds of a write of the control plane: who did what to which record, and how that was before and
 * after. Records stand in it as their routes answer them, so what may not be shown is not here either: no hash of a
 * secret, and of a credential its fingerprint alone.
 */

/** Sorts of records that are written about. */
export type Kind = "key" | "workspace" | "upstream" | "prices" | "issuer" | "template" | "session";

/** Who changes something, and in which call; null: in none. */
export type Author = { readonly actor: string; readonly requestId: string | null };

/** What the gateway does by itself. */
export const SYSTEM: Author = { actor: "system", requestId: null };

export type Change = {
  readonly author: Author;
  /** Milliseconds since the epoch. */
  readonly at: number;
  readonly action: `${Kind}.${string}`;
  /** The record's id or name. */
  readonly target: string;
  /** The record as it may be shown; null: there was, or is, none. */
  readonly before: object | null;
  readonly after: object | null;
};
