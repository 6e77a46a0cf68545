/**
 * Whose call it is. Batches, files, threads, prompt caches, rate limits and thinking belong to an organization. Every key
 * is an organization of its own, except that `sk-ant-org-NAME-…` are all keys of the one organization NAME, so that a
 * test can change a key without changing the account.
 */
import { Digest } from "./digest.ts";

export type Organization = {
  /** A UUID: the value of `anthropic-organization-id`. */
  readonly id: string;
  /** Each has one: the value of `anthropic-workspace-id`. */
  readonly workspace: string;
};

/** What is told to a caller whom nobody knows. */
export const NOBODY = "00000000-0000-4000-8000-000000000000";

const SHARED = /^sk-ant-org-([A-Za-z0-9]+)-./;

/** The organization of a key, always the same one. */
export function organizationOf(key: string): Organization {
  const name = SHARED.exec(key)?.[1];
  const owner = name === undefined ? `key ${key}` : `organization ${name}`;
  const [high, low] = ["high", "low"].map((half) => {
    const digest = new Digest();
    digest.update(half);
    digest.update(owner);
    return digest.hex;
  }) as [string, string];
  return {
    id: `${high.slice(0, 8)}-${high.slice(8, 12)}-4${high.slice(13)}-8${low.slice(1, 4)}-${low.slice(4)}`,
    workspace: `wrkspc_01sim${low}${high.slice(0, 8)}`,
  };
}
