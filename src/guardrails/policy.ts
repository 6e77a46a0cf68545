/**
 * What a key's or a workspace's guardrails ask for (`Guardrails`, as an administrator writes them), and what holds for a
 * request after both have been laid together (`Policy`): of each item the stricter wins.
 *
 * A policy is a normal form: lists are sorted and hold nothing that another entry covers, so that laying a policy over
 * itself, or two of them in either order, is the same to the letter.
 */
import { matches, matchesHost } from "../patterns.ts";
import type { DetectedType } from "./detect/finding.ts";

/** From doing nothing to refusing. */
export const MODES = ["off", "audit", "mask", "block"] as const;
export type Mode = (typeof MODES)[number];
export type OwnPattern = { readonly name: string; readonly pattern: string; readonly mode?: Mode };

/** As it is written. Each field may be left out, and then says nothing. */
export type Guardrails = {
  /** Nothing below does more than this. Left out: each item does what it says. */
  readonly mode?: Mode;
  /** Types that are masked. */
  readonly redact?: readonly DetectedType[];
  /** What is done about keys and secrets. */
  readonly secrets?: Mode;
  /** Types for which a request is refused. */
  readonly block?: readonly DetectedType[];
  readonly patterns?: readonly OwnPattern[];
  readonly max_input_chars?: number;
  readonly allow_tools?: readonly string[];
  readonly allow_url_sources?: boolean | readonly string[];
  readonly betas?: readonly string[];
  /** Whether values are put back into the answer. */
  readonly unmask?: boolean;
  readonly output?: { readonly redact?: readonly DetectedType[]; readonly secrets?: Mode };
};

/** What a request may hold beside its texts. Null: anything. */
export type Limits = {
  readonly maxInputChars: number | null;
  readonly tools: readonly string[] | null;
  /** Empty: from nowhere. */
  readonly urlHosts: readonly string[] | null;
  readonly betas: readonly string[] | null;
};

/** What is done about a finding. */
export type Act = Exclude<Mode, "off">;
/** What is done about types that are looked for. */
export type Acts = Readonly<Record<string, Act>>;

export type Policy = {
  /** What is done about each type that is looked for in a request. */
  readonly input: Acts;
  /** The same for an answer. */
  readonly output: Acts;
  /** Own patterns; two of the same name may differ. */
  readonly patterns: readonly { readonly name: string; readonly pattern: string }[];
  /** What a request is refused for, and what is only counted. */
  readonly enforced: Limits;
  readonly counted: Limits;
  /** Null: not said, which is no. */
  readonly unmask: boolean | null;
};

const NO_LIMITS: Limits = { maxInputChars: null, tools: null, urlHosts: null, betas: null };

/** What holds for a request of a key in a workspace. Null: nothing is asked for. */
export function stricter(key: Guardrails | null, workspace: Guardrails | null): Policy | null {
  const policies = [key, workspace].filter((given) => given !== null).map(policyOf);
  const [first, second] = policies;
  const policy = first && second ? both(first, second) : (first ?? null);
  return policy === null || asksForNothing(policy) ? null : policy;
}

/** What guardrails as they are written come to. */
export function policyOf(given: Guardrails): Policy {
  const bound = given.mode ?? "block";
  const input = new Map<string, Mode>();
  const output = new Map<string, Mode>();
  const set = (acts: Map<string, Mode>, type: string, mode: Mode) => {
    acts.set(type, higher(acts.get(type) ?? "off", lower(mode, bound)));
  };
  for (const type of given.redact ?? []) set(input, type, "mask");
  for (const type of given.block ?? []) set(input, type, "block");
  if (given.secrets) set(input, "SECRET", given.secrets);
  for (const { name, mode = "mask" } of given.patterns ?? []) set(input, name, mode);
  for (const type of given.output?.redact ?? []) set(output, type, "mask");
  if (given.output?.secrets) set(output, "SECRET", given.output.secrets);

  const limits: Limits = {
    maxInputChars: given.max_input_chars ?? null,
    tools: given.allow_tools ? withoutCovered(given.allow_tools, matches) : null,
    urlHosts: hostsOf(given.allow_url_sources),
    betas: given.betas ? withoutCovered(given.betas, matches) : null,
  };
  const acts = actsOf(input);
  return {
    input: acts,
    output: actsOf(output),
    patterns: patternsOf(given.patterns ?? [], acts),
    enforced: bound === "mask" || bound === "block" ? limits : NO_LIMITS,
    counted: bound === "audit" ? limits : NO_LIMITS,
    unmask: given.unmask ?? null,
  };
}

/** Of each item the stricter of two. */
export function both(a: Policy, b: Policy): Policy {
  const input = higherOfEach(a.input, b.input);
  return {
    input,
    output: higherOfEach(a.output, b.output),
    patterns: patternsOf([...a.patterns, ...b.patterns], input),
    enforced: narrower(a.enforced, b.enforced),
    counted: narrower(a.counted, b.counted),
    unmask: a.unmask === null || b.unmask === null ? (a.unmask ?? b.unmask) : a.unmask && b.unmask,
  };
}

/** What only counts findings in answers, of these types. */
export function counting(acts: Acts): Policy {
  const output = Object.fromEntries(Object.keys(acts).map((type) => [type, "audit" as const]));
  return { input: {}, output, patterns: [], enforced: NO_LIMITS, counted: NO_LIMITS, unmask: null };
}

function asksForNothing({ input, output, enforced, counted }: Policy): boolean {
  const limits = [...Object.values(enforced), ...Object.values(counted)];
  return Object.keys(input).length + Object.keys(output).length === 0 && limits.every((limit) => limit === null);
}

const rank = (mode: Mode): number => MODES.indexOf(mode);
const lower = (a: Mode, b: Mode): Mode => (rank(a) <= rank(b) ? a : b);
const higher = (a: Mode, b: Mode): Mode => (rank(a) >= rank(b) ? a : b);

function actsOf(modes: ReadonlyMap<string, Mode>): Acts {
  const acts: [string, Act][] = [];
  for (const [type, mode] of modes) if (mode !== "off") acts.push([type, mode]);
  return Object.fromEntries(acts.toSorted(([a], [b]) => compare(a, b)));
}

function higherOfEach(a: Acts, b: Acts): Acts {
  const modes = new Map<string, Mode>(Object.entries(a));
  for (const [type, mode] of Object.entries(b)) modes.set(type, higher(modes.get(type) ?? "off", mode));
  return actsOf(modes);
}

/** Patterns that something is done about, each once. */
function patternsOf(patterns: readonly OwnPattern[], acts: Acts): Policy["patterns"] {
  const each = new Map<string, { name: string; pattern: string }>();
  for (const { name, pattern } of patterns) {
    if (Object.hasOwn(acts, name)) each.set(`${name}\n${pattern}`, { name, pattern });
  }
  return [...each].toSorted(([a], [b]) => compare(a, b)).map(([, pattern]) => pattern);
}

function narrower(a: Limits, b: Limits): Limits {
  return {
    maxInputChars: either(a.maxInputChars, b.maxInputChars, Math.min),
    tools: either(a.tools, b.tools, (x, y) => common(x, y, matches)),
    urlHosts: either(a.urlHosts, b.urlHosts, (x, y) => common(x, y, matchesHost)),
    betas: either(a.betas, b.betas, (x, y) => common(x, y, matches)),
  };
}

function either<T>(a: T | null, b: T | null, choose: (a: T, b: T) => T): T | null {
  return a === null || b === null ? (a ?? b) : choose(a, b);
}

type Covers = (pattern: string, other: string) => boolean;

/** What both lists allow. */
function common(a: readonly string[], b: readonly string[], covers: Covers): readonly string[] {
  const inBoth = [
    ...a.filter((name) => b.some((other) => covers(other, name))),
    ...b.filter((name) => a.some((other) => covers(other, name))),
  ];
  return withoutCovered(inBoth, covers);
}

function withoutCovered(list: readonly string[], covers: Covers): readonly string[] {
  const each = [...new Set(list)];
  return each.filter((name) => !each.some((other) => other !== name && covers(other, name))).toSorted(compare);
}

function hostsOf(given: boolean | readonly string[] | undefined): readonly string[] | null {
  if (given === undefined || given === true) return null;
  return given === false ? [] : withoutCovered(given, matchesHost);
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
