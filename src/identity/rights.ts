/** What of its key's rights a caller has who shows a token: never more than the key has at that moment. Pure. */
import type { KeyPolicy } from "./key-record.ts";
import { intersect, type Patterns } from "./patterns.ts";
import { holds, SCOPES, type Scope } from "./scopes.ts";

/** For whom another issuer's token speaks. */
export type Speaker = {
  readonly issuer: string;
  readonly subject: string | null;
  /** Of what the issuer's record says of him (`markOf`): another one by now, and he has to show a token again. */
  readonly mark: string;
};

/** Plain data: it travels, and lies beside sockets that sleep. */
export type Rights = {
  readonly scopes: readonly Scope[];
  readonly models: Patterns;
  /** The only conversation that there is for it. Null: any of the workspace's. */
  readonly conversation: string | null;
  /** Milliseconds since the epoch: no right is left then. */
  readonly expiresAt: number;
  /** For whom another issuer has made the token. Null: it is one of ours. */
  readonly speaker: Speaker | null;
};

/** A key's policy as far as these rights reach. */
export function narrowed(policy: KeyPolicy, { scopes, models }: Pick<Rights, "scopes" | "models">): KeyPolicy {
  return {
    ...policy,
    scopes: SCOPES.filter((scope) => holds(policy.scopes, scope) && holds(scopes, scope)),
    models: intersect(policy.models, models),
  };
}

/** Longest text that is told of a speaker: what issuers write there has no bound of its own. */
const MAX_SPEAKER_CHARS = 300;

/** How log and audit name whom a foreign token speaks for; null: no token was shown, or one of ours. */
export function speakerName(rights: Rights | null): string | null {
  if (!rights?.speaker) return null;
  const { issuer, subject } = rights.speaker;
  return (subject === null ? issuer : `${issuer} ${subject}`).slice(0, MAX_SPEAKER_CHARS);
}
