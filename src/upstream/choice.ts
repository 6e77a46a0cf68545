/**
 * Which upstream a conversation belongs to: weighted rendezvous hashing. Every isolate finds the same order without
 * asking anybody, and one upstream more or less moves only the conversations that it gains or loses.
 */

import { fnv1a } from "../digest.ts";

type Weighed = { readonly id: string; readonly weight: number };

/** The upstreams in the order in which this conversation prefers them. */
export function ranked<U extends Weighed>(affinity: string, upstreams: readonly U[]): readonly U[] {
  if (upstreams.length < 2) return upstreams;
  return upstreams
    .map((upstream) => ({ upstream, score: score(affinity, upstream) }))
    .sort((a, b) => b.score - a.score || (a.upstream.id < b.upstream.id ? -1 : 1))
    .map(({ upstream }) => upstream);
}

/** The greatest wins with a probability in proportion to its weight (Schindelhauer and Schomaker, 2005). */
function score(affinity: string, { id, weight }: Weighed): number {
  // From (0, 1): the logarithm of 0 is none, and that of 1 would win against every weight.
  const draw = (hash(`${id}\n${affinity}`) + 0.5) / 2 ** 32;
  return -weight / Math.log(draw);
}

/** FNV-1a, and MurmurHash3's last step, without which similar names get similar numbers. */
export function hash(text: string): number {
  let hash = fnv1a(text);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** Whether an upstream's list has a model: exact, or by a prefix that ends in `*`. Null has them all. */
export function hasModel(models: readonly string[] | null, model: string | null): boolean {
  if (models === null || model === null) return true;
  return models.some((listed) => (listed.endsWith("*") ? model.startsWith(listed.slice(0, -1)) : listed === model));
}
