/** Nobody grants what they do not hold: what a key with admin rights may give to others. Pure. */
import { type Guardrails, stricter } from "../guardrails/policy.ts";
import { BURSTS, type Budget, type KeyLimits, type KeyPolicy } from "./key-record.ts";
import { covers } from "./patterns.ts";
import { holds, type Scope } from "./scopes.ts";

/** What is to be given; what is left out is not given anew. */
export type Grant = {
  readonly workspace?: string;
  readonly scopes?: readonly Scope[];
  readonly models?: readonly string[] | null;
  readonly limits?: KeyLimits;
  readonly budget?: Budget | null;
  readonly expires_at?: number | null;
  readonly guardrails?: Guardrails | null;
  readonly fail_open?: boolean;
  readonly on_revoke?: KeyPolicy["on_revoke"];
};
/** Of whose rights a grant is a part: a key's, or those of a record before it is changed. */
export type Grantor = Required<Grant>;

/** Where a grant goes beyond its grantor's own rights, a sentence's part for each field. Empty: nowhere. */
export function beyondGrantor(grantor: Grantor, grant: Grant): readonly string[] {
  return [
    ...scopesBeyond(grantor, grant.scopes ?? []),
    ...(grant.workspace === undefined || grant.workspace === grantor.workspace
      ? []
      : [`workspace: yours is ${grantor.workspace}`]),
    ...(grant.models === undefined || covers(grantor.models, grant.models)
      ? []
      : [`models: yours are ${grantor.models?.join(", ")}`]),
    ...(grant.limits === undefined ? [] : limitsBeyond(grantor.limits, grant.limits)),
    ...(grant.budget === undefined || isWithin(grantor.budget, grant.budget)
      ? []
      : [`budget: yours is ${(grantor.budget?.micro_usd ?? 0) / 1_000_000} USD a ${grantor.budget?.period}`]),
    ...(grant.expires_at === undefined || endsBefore(grantor.expires_at, grant.expires_at)
      ? []
      : ["expires_at: yours is earlier"]),
    ...(grant.guardrails === undefined || isAsStrict(grantor.guardrails, grant.guardrails)
      ? []
      : ["guardrails: yours are stricter"]),
    ...(grant.fail_open === true && !grantor.fail_open ? ["fail_open: yours is false"] : []),
    ...(grant.on_revoke === "finish" && grantor.on_revoke === "cut" ? ["on_revoke: yours is cut"] : []),
  ];
}

/**
 * Where a change goes beyond the rights of who makes it. It may take away, in one's own workspace; and change in any what
 * is no right. Who gives anything must be able to give all that is there then: what a scope is worth is said by the models,
 * limits and time beside it, so a field for itself says little.
 */
export function beyondChange(own: Grantor, before: Grantor, after: Grantor): readonly string[] {
  const gives = beyondGrantor(before, after).length > 0;
  const takes = beyondGrantor(after, before).length > 0;
  return gives || (takes && own.workspace !== after.workspace) ? beyondGrantor(own, after) : [];
}

function scopesBeyond({ scopes: own }: Grantor, scopes: readonly Scope[]): string[] {
  const beyond = scopes.filter((scope) => !holds(own, scope));
  return beyond.length === 0 ? [] : [`scopes: yours lack ${beyond.join(", ")}`];
}

/** A burst that is beyond is told of where it is not the minute's limit that is. */
function limitsBeyond(own: KeyLimits, given: KeyLimits): string[] {
  const [most, asked] = [withBursts(own), withBursts(given)];
  const isBeyond = (name: keyof KeyLimits): boolean =>
    most[name] !== undefined && (asked[name] ?? Number.POSITIVE_INFINITY) > most[name];
  return (Object.keys(most) as (keyof KeyLimits)[])
    .filter((name) => isBeyond(name) && !BURSTS.some(([burst, perMinute]) => burst === name && isBeyond(perMinute)))
    .map((name) => `limits.${name}: yours is ${most[name]}`);
}

/** A bucket holds a minute's worth where nobody says how much, and that is a limit too. */
function withBursts(limits: KeyLimits): KeyLimits {
  const usual = BURSTS.flatMap(([burst, perMinute]) => {
    const worth = limits[perMinute];
    return worth === undefined ? [] : [[burst, worth]];
  });
  return { ...Object.fromEntries(usual), ...limits };
}

/** Budgets of different periods can't be compared, but for one that never ends. A soft one is looser than a strict one. */
function isWithin(own: Budget | null, given: Budget | null): boolean {
  if (own === null) return true;
  if (given === null || given.micro_usd > own.micro_usd) return false;
  if (own.mode === "strict" && given.mode === "soft") return false;
  return given.period === own.period || given.period === "total";
}

function endsBefore(own: number | null, given: number | null): boolean {
  return own === null || (given !== null && given <= own);
}

/** Whether laying one's own over what is given would change nothing. Policies are a normal form, to the letter. */
function isAsStrict(own: Guardrails | null, given: Guardrails | null): boolean {
  return own === null || JSON.stringify(stricter(own, given)) === JSON.stringify(stricter(null, given));
}
