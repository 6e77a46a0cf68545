/** What a detector says about a text: where, of which type, by which rule. Never what stands there. */

export const DETECTED_TYPES = ["EMAIL", "PHONE", "CREDIT_CARD", "IBAN", "US_SSN", "CN_ID", "IP", "SECRET"] as const;
export type DetectedType = (typeof DETECTED_TYPES)[number];

/** Offsets are UTF-16 units of the text that was given; `end` is exclusive. `type` is a DetectedType or the name of an own pattern. */
export type Finding = {
  readonly start: number;
  readonly end: number;
  readonly type: string;
  /** For a secret: the rule that knew it. */
  readonly rule?: string;
};

/** How sure a candidate's shape alone makes it: decides between two that overlap. */
export const Certainty = {
  /** A bare number with a telling word beside it, or a value assigned to a telling name. */
  byContext: 1,
  /** A shape that little else has. */
  byShape: 2,
  /** A check digit, a vendor's prefix, or the workspace's own wish. */
  byCheck: 3,
} as const;

export type Candidate = Finding & { readonly certainty: 1 | 2 | 3 };

export type Report = (candidate: Candidate) => void;

/**
 * Picks from overlapping candidates the surer, then the longer, then the earlier one. What comes back is in order and does not overlap.
 * Work: a sort, and each offset of a cluster at most once per candidate that covers it.
 */
export function settle(candidates: readonly Candidate[]): Finding[] {
  const sorted = [...candidates].sort((a, b) => a.start - b.start || b.end - a.end);
  const settled: Candidate[] = [];
  for (let from = 0; from < sorted.length; ) {
    let reach = sorted[from]?.end ?? 0;
    let to = from + 1;
    for (let next = sorted[to]; next !== undefined && next.start < reach; next = sorted[++to])
      reach = Math.max(reach, next.end);
    settleCluster(sorted.slice(from, to), reach, settled);
    from = to;
  }
  return settled.map(({ start, end, type, rule }) =>
    rule === undefined ? { start, end, type } : { start, end, type, rule },
  );
}

/** Adds what is picked from candidates of which each overlaps one before it. */
function settleCluster(cluster: Candidate[], reach: number, settled: Candidate[]): void {
  const first = cluster[0];
  if (first === undefined) return;
  if (cluster.length === 1) {
    settled.push(first);
    return;
  }
  const base = first.start;
  const taken = new Uint8Array(reach - base);
  const kept: Candidate[] = [];
  cluster.sort((a, b) => b.certainty - a.certainty || b.end - b.start - (a.end - a.start) || a.start - b.start);
  for (const candidate of cluster) {
    if (taken.subarray(candidate.start - base, candidate.end - base).includes(1)) continue;
    taken.fill(1, candidate.start - base, candidate.end - base);
    kept.push(candidate);
  }
  kept.sort((a, b) => a.start - b.start);
  for (const candidate of kept) settled.push(candidate);
}
