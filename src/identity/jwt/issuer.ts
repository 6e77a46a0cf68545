/**
 * Foreign issuers: whose tokens are believed beside our own, and as which key each of them acts. A mapping narrows the
 * rights of its key and never widens them. Pure.
 */

import { sha256Hex } from "../../digest.ts";
import { matches } from "../../patterns.ts";
import { err, ok, type Result } from "../../result.ts";
import type { Sealed } from "../../upstream/upstream.ts";
import type { Patterns } from "../patterns.ts";
import type { Scope } from "../scopes.ts";
import { isObject, type Json, type JsonObject } from "./form.ts";
import { ALGORITHMS } from "./keys.ts";
import type { Claims, Expected, Refusal } from "./verify.ts";

export const ISSUER_STATES = ["active", "disabled"] as const;
export const ADMIN_RIGHTS = ["read", "write"] as const;
/** A day: Cloudflare Access' sessions unless they are set otherwise; the other providers' tokens live for less. */
export const DEFAULT_LIFETIME_SECONDS = 86_400;
/** `typ` of a token whose issuer is not configured for another: `JWT`, or none at all (RFC 7519 §5.1). */
const USUAL_TYPES = ["jwt", null];

/** 64 bits: it tells versions of one record apart. */
const MARK_CHARS = 16;

/** Exact, or a prefix that ends in `*`; of a list one must match. */
export type Condition = string | readonly string[];

export type Mapping = {
  /** By dotted path of a claim. All must hold; none at all always do. */
  readonly when: Readonly<Record<string, Condition>>;
  /** The key that the caller acts as: `key_…`. */
  readonly key: string;
  /** What of the key's scopes, and of its models, is left to him. Absent: all. */
  readonly scopes?: readonly Scope[];
  readonly models?: readonly string[];
  /** Whether he may use the control plane, too. */
  readonly admin?: (typeof ADMIN_RIGHTS)[number];
};

/** As it is stored. Times are milliseconds since the epoch. */
export type IssuerRecord = {
  /** `iss_…`. */
  readonly id: string;
  readonly name: string;
  /** The claim `iss`, to the letter. No two issuers have the same. */
  readonly issuer: string;
  readonly audiences: readonly string[];
  /** Where its public keys are. Null: it has a secret in common with us, and takes nothing but HS256. */
  readonly jwks_url: string | null;
  readonly sealed_secret: Sealed | null;
  readonly typ: string | null;
  readonly max_lifetime_seconds: number;
  /** The first one that holds decides. */
  readonly mappings: readonly Mapping[];
  /** Values of `sub` that are refused whatever the mappings say. */
  readonly blocked_subjects: readonly string[];
  readonly state: (typeof ISSUER_STATES)[number];
  readonly created_at: number;
  readonly updated_at: number;
  /** Grows by one with every change. */
  readonly version: number;
};

/** Whom a token acts as, and what is left of that key's rights. */
export type Actor = {
  readonly key: string;
  /** Null: all of the key's. */
  readonly scopes: readonly Scope[] | null;
  readonly models: Patterns;
  readonly admin: (typeof ADMIN_RIGHTS)[number] | null;
  /** Which of the mappings says so. */
  readonly nth: number;
};

/** What its tokens must be. */
export function expectedOf(issuer: IssuerRecord): Expected {
  return {
    issuer: issuer.issuer,
    audiences: issuer.audiences,
    types: issuer.typ === null ? USUAL_TYPES : [issuer.typ.toLowerCase()],
    algorithms: issuer.jwks_url === null ? ["HS256"] : ALGORITHMS,
    maxLifetimeSeconds: issuer.max_lifetime_seconds,
  };
}

/** Whom these claims act as. They must be verified, and of this issuer. */
export function mapClaims(issuer: IssuerRecord, { subject, all }: Claims): Result<Actor, Refusal> {
  if (subject !== null && issuer.blocked_subjects.includes(subject)) return err("subject");
  const nth = issuer.mappings.findIndex(({ when }) =>
    Object.entries(when).every(([path, condition]) => holds(condition, claimAt(all, path))),
  );
  const mapping = issuer.mappings[nth];
  if (!mapping) return err("mapping");
  const { key, scopes = null, models = null, admin = null } = mapping;
  return ok({ key, scopes, models, admin, nth });
}

/** Marks of issuers as they were read, by mapping. */
const marks = new WeakMap<IssuerRecord, Map<number, string>>();

/**
 * Tells whether the nth mapping would still decide of the very same claims, and they would still be believed: it changes
 * with that mapping, with any before it, and with how the issuer's tokens are verified.
 */
export async function markOf(issuer: IssuerRecord, nth: number): Promise<string> {
  const known = marks.get(issuer) ?? new Map<number, string>();
  marks.set(issuer, known);
  const { id, audiences, jwks_url, sealed_secret, typ, mappings } = issuer;
  const decides = [id, audiences, jwks_url, sealed_secret?.data, typ, mappings.slice(0, nth + 1)];
  const mark = known.get(nth) ?? `${nth}.${(await sha256Hex(JSON.stringify(decides))).slice(0, MARK_CHARS)}`;
  known.set(nth, mark);
  return mark;
}

/** Whether a mark is one of this issuer's as it is now. */
export async function isMarkOf(issuer: IssuerRecord, mark: string): Promise<boolean> {
  return (await markOf(issuer, Number.parseInt(mark, 10))) === mark;
}

/**
 * The claim at a dotted path. Names may hold dots themselves, as URLs do: every way to read the path is tried, and if more
 * than one leads to a claim, none counts, so that nobody who may set one claim can hide another.
 */
export function claimAt(claims: JsonObject, path: string): Json | undefined {
  const found: Json[] = [];
  collect(claims, path, found);
  return found.length === 1 ? found[0] : undefined;
}

/** Comes to each object of the claims once at the most: what is left of the path depends on the way there alone. */
function collect(claims: JsonObject, path: string, found: Json[]): void {
  const whole = Object.hasOwn(claims, path) ? claims[path] : undefined;
  if (whole !== undefined) found.push(whole);
  for (let dot = path.indexOf("."); dot !== -1; dot = path.indexOf(".", dot + 1)) {
    const name = path.slice(0, dot);
    const inner = Object.hasOwn(claims, name) ? claims[name] : undefined;
    if (isObject(inner)) collect(inner, path.slice(dot + 1), found);
  }
}

function holds(condition: Condition, claim: Json | undefined): boolean {
  const texts = isList(claim) ? claim.flatMap(textOf) : textOf(claim);
  const patterns = typeof condition === "string" ? [condition] : condition;
  return texts.some((text) => patterns.some((pattern) => matches(pattern, text)));
}

function isList(claim: Json | undefined): claim is readonly Json[] {
  return Array.isArray(claim);
}

/** Numbers and booleans as JSON writes them. Nothing for what is no single value. */
function textOf(claim: Json | undefined): readonly string[] {
  if (typeof claim === "string") return [claim];
  return typeof claim === "number" || typeof claim === "boolean" ? [String(claim)] : [];
}
