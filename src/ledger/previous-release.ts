/**
 * What release 0.2 stores and says, where it is still met: a ledger wakes up with the rules it had, and during a deploy
 * Workers and ledgers of both releases talk to each other. It knew no limits of time and no response cache: its rules
 * lack `timeouts` and `cache` of a key, and `cache_epoch` of a workspace, though D1 may have them already. Goes with the
 * release after this one; its two callers in the ledger go with it.
 */
import { completePolicy, type KeyPolicy, type Rules } from "../identity/key-record.ts";
import type { Answer, Ledger, Message } from "./protocol.ts";

/** Rules that 0.2 wrote or told: what it did not know is to be had from D1 alone. Those of nothing stored lack nothing. */
export function isOld(rules: Rules): boolean {
  if ("secrets" in rules) return !("timeouts" in rules);
  return rules.version > 0 && rules.cache_epoch === undefined;
}

/** A message to a ledger that may be of 0.2. Until the ledger is new, its key has the limits of time of the gateway. */
export async function exchange(ledger: Ledger, message: Message): Promise<Answer | null> {
  const answer = await ledger.exchange(message);
  if (!answer || !("secrets" in answer.policy) || !isOld(answer.policy)) return answer;
  return { ...answer, policy: completePolicy(answer.policy as KeyPolicy) };
}
