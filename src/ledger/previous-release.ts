/**
 * What earlier releases store and say, where they are still met: a ledger wakes up with the rules it had, and during a
 * deploy Workers and ledgers of both releases talk to each other. None knew guardrails, 0.2 and 0.3 no aliases, and 0.2 no
 * limits of time and no response cache: their rules lack `guardrails`, and `aliases`, `timeouts` and `cache` of a key or
 * `cache_epoch` of a workspace, though D1 may have them already. Goes with the release after this one; its two callers in
 * the ledger go with it.
 */
import { completePolicy, type KeyPolicy, type Rules } from "../identity/key-record.ts";
import type { Answer, Ledger, Message } from "./protocol.ts";

/** Rules that these wrote or told: what they did not know is to be had from D1 alone. Those of nothing stored lack nothing. */
export function isOld(rules: Rules): boolean {
  if ("secrets" in rules) return !("guardrails" in rules);
  return rules.version > 0 && rules.guardrails === undefined;
}

/** A message to a ledger that may be of an earlier release. Until it is new, its key has what a key has by default. */
export async function exchange(ledger: Ledger, message: Message): Promise<Answer | null> {
  const answer = await ledger.exchange(message);
  if (!answer || !("secrets" in answer.policy) || !isOld(answer.policy)) return answer;
  return { ...answer, policy: completePolicy(answer.policy as KeyPolicy) };
}
