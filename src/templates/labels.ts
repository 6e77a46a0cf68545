/**
 * Labels: names for a version, or for several by weight. Who asks decides which of several it is, and stays with it: the
 * choice is a function of the tie and of nothing else, so every isolate makes the same. Pure.
 */
import { fnv1a } from "../digest.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";

export const LABEL = /^[a-z0-9][a-z0-9_-]{0,63}$/;
/** What a call means that names neither a label nor a version; the first version of a template gets it. */
export const DEFAULT_LABEL = "production";
/** A pointer is read at every call, and these are most of it. */
export const MAX_LABELS = 20;
const MAX_WEIGHTED = 10;
const MAX_WEIGHT = 1_000_000;

export type Weighted = { readonly version: number; readonly weight: number };
export type Label = number | readonly Weighted[];
export type Labels = Readonly<Record<string, Label>>;

/** What ties the choices of one caller together: a conversation, a session, or else the key. */
export function tieOf(template: string, label: string, who: string): string {
  return `${template}\n${label}\n${who}`;
}

/**
 * The version that a label means for a tie. Weighted rendezvous (Thaler and Ravishankar 1998): every version draws a lot
 * from the tie, and the best lot for its weight wins. So nobody moves from one version to another unless the other has
 * grown beside it; with two versions that is exactly the share that was moved.
 */
export function choose(label: Label, tie: string): number {
  if (typeof label === "number") return label;
  const seed = fnv1a(tie);
  let best = 0;
  let bestScore = Number.POSITIVE_INFINITY;
  for (const { version, weight } of label) {
    const score = -Math.log(lot(seed, version)) / weight;
    if (score < bestScore) {
      best = version;
      bestScore = score;
    }
  }
  return best;
}

const HALF = 0.5;
const UNITS = 2 ** 32;

/** Between 0 and 1, neither of them: MurmurHash3's finalizer, since FNV's last bits say little. */
function lot(seed: number, version: number): number {
  let hash = seed ^ Math.imul(version, 0x9e3779b1);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (((hash ^ (hash >>> 16)) >>> 0) + HALF) / UNITS;
}

/** Labels as they were sent: names and weights well formed, versions among 1 … `newest`. All that is wrong at once. */
export function parseLabels(value: unknown, newest: number): Result<Labels, Failure> {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    return invalid(["labels: must be an object"]);
  const given = Object.entries(value);
  const problems: string[] = [];
  if (given.length > MAX_LABELS) problems.push(`labels: must not be more than ${MAX_LABELS}`);
  const labels: [string, Label][] = [];
  for (const [name, to] of given) {
    const path = `labels.${name.slice(0, 64)}`;
    if (!LABEL.test(name)) problems.push(`${path}: must be a name of a-z, 0-9, _ and -`);
    const label = parseLabel(to, newest, path, problems);
    if (label !== null) labels.push([name, label]);
  }
  if (problems.length > 0) return invalid(problems);
  return ok(Object.fromEntries(labels.sort(([a], [b]) => (a < b ? -1 : 1))));
}

function parseLabel(value: unknown, newest: number, path: string, problems: string[]): Label | null {
  if (!Array.isArray(value)) return isVersion(value, newest, path, problems) ? value : null;
  if (value.length === 0 || value.length > MAX_WEIGHTED) {
    problems.push(`${path}: must be 1 to ${MAX_WEIGHTED} versions with their weights`);
    return null;
  }
  const weighted = value.flatMap((each, i) => parseWeighted(each, newest, `${path}.${i}`, problems));
  if (new Set(weighted.map(({ version }) => version)).size < weighted.length) {
    problems.push(`${path}: names a version twice`);
  }
  return weighted;
}

function parseWeighted(value: unknown, newest: number, path: string, problems: string[]): Weighted[] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    problems.push(`${path}: must be {version, weight}`);
    return [];
  }
  for (const name of Object.keys(value)) {
    if (name !== "version" && name !== "weight") problems.push(`${path}.${name.slice(0, 64)}: unknown field`);
  }
  const version: unknown = Reflect.get(value, "version");
  const weight: unknown = Reflect.get(value, "weight");
  if (!isWhole(weight, MAX_WEIGHT)) problems.push(`${path}.weight: must be a whole number from 1 to ${MAX_WEIGHT}`);
  if (!isVersion(version, newest, `${path}.version`, problems) || !isWhole(weight, MAX_WEIGHT)) return [];
  return [{ version, weight }];
}

function isVersion(value: unknown, newest: number, path: string, problems: string[]): value is number {
  const is = isWhole(value, newest);
  if (!is)
    problems.push(newest === 0 ? `${path}: there is no version yet` : `${path}: must be a version from 1 to ${newest}`);
  return is;
}

function isWhole(value: unknown, most: number): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= most;
}

function invalid(problems: readonly string[]): Result<never, Failure> {
  return err({ kind: "invalid_request", message: problems.join("; ") });
}
