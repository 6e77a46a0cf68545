/**
 * The detectors' door: which personal data and which secrets stand in a text, and where.
 *
 * Pure and total: it never throws, keeps nothing of the text, and takes time linear in its length. What is personal in a text is a matter of
 * judgement; what this finds, what it does not, and how sure that is, stands in the documentation.
 */
import { findEmails } from "./email.ts";
import { type Candidate, Certainty, type Finding, settle } from "./finding.ts";
import { fold } from "./fold.ts";
import { findIbans } from "./iban.ts";
import { findIpv6 } from "./ip.ts";
import { findNumbers } from "./numbers.ts";
import { findMatches, type Pattern } from "./pattern.ts";
import { findSecrets } from "./secrets.ts";

export { DETECTED_TYPES, type Finding } from "./finding.ts";
export { fold } from "./fold.ts";
export { type Pattern, parsePattern } from "./pattern.ts";

/** A pattern of a workspace's own; findings carry its name as their type. */
export type OwnPattern = { readonly name: string; readonly pattern: Pattern };

const OF_DIGITS = ["CN_ID", "CREDIT_CARD", "US_SSN", "IP", "PHONE"];

/**
 * Finds what is of the given types (others than DETECTED_TYPES are ignored), and what the given patterns match. Findings are in order and do
 * not overlap; their offsets are UTF-16 units of `text` itself, whatever was folded to find them.
 */
export function detect(text: string, types: Iterable<string>, own: readonly OwnPattern[] = []): readonly Finding[] {
  const wanted = new Set(types);
  const folded = fold(text);
  const candidates: Candidate[] = [];
  // A copy as long as its text has nothing in another place.
  const isMoved = folded.text.length !== text.length;
  const report = (candidate: Candidate): void => {
    candidates.push(
      isMoved ? { ...candidate, start: folded.start(candidate.start), end: folded.end(candidate.end) } : candidate,
    );
  };
  if (wanted.has("EMAIL")) findEmails(folded.text, report);
  if (wanted.has("IBAN")) findIbans(folded.text, report);
  if (wanted.has("IP")) findIpv6(folded.text, report);
  if (OF_DIGITS.some((type) => wanted.has(type))) findNumbers(folded.text, wanted, report);
  if (wanted.has("SECRET")) findSecrets(folded.text, report);
  for (const { name, pattern } of own) {
    findMatches(pattern, folded.text, (start, end) => report({ start, end, type: name, certainty: Certainty.byCheck }));
  }
  return settle(candidates);
}
