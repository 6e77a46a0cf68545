/** How an upstream does, in the words that people are told: what isolates have told each other of it, or why none uses it. */
import type { Settings } from "../env.ts";
import { openUpstream, type Unusable } from "./open-upstream.ts";
import type { Hint } from "./protocol.ts";
import type { UpstreamRecord } from "./upstream.ts";

export type Standing = {
  readonly state: Hint["kind"] | "unusable";
  /** Null for a healthy one. */
  readonly reason: Hint["reason"] | Exclude<Unusable["kind"], "removed"> | null;
  /** What was told; null where nothing was. */
  readonly hint: Hint | null;
};

/** `record`: null for the one of the environment, which is always usable. */
export async function standingOf(
  record: UpstreamRecord | null,
  hint: Hint | undefined,
  settings: Pick<Settings, "masterKeys" | "baseUrls">,
): Promise<Standing> {
  const opened = record && (await openUpstream(record, settings));
  if (opened && !opened.ok && opened.error.kind !== "removed") {
    return { state: "unusable", reason: opened.error.kind, hint: null };
  }
  if (!hint || hint.kind === "healthy") return { state: "healthy", reason: null, hint: null };
  return { state: hint.kind, reason: hint.reason, hint };
}
