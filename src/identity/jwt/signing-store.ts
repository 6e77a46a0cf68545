/**
 * Our signing keys in D1: made, opened, retired, deleted. Every value is bound. Each key has the number after the last
 * one's, and numbers are unique: of all who make the next key at the same moment, one does.
 */

import { type MasterKey, open, seal } from "../../upstream/sealing.ts";
import type { Sealed } from "../../upstream/upstream.ts";
import { readSealed } from "../../upstream/upstream-store.ts";
import { newId } from "../../wire/ids.ts";
import { parseJson } from "../../wire/json.ts";
import type { Json } from "./form.ts";
import { ALGORITHMS, IMPORTED, type PublicAlgorithm, readPublicKey, type VerificationKey } from "./keys.ts";
import { MAX_LIFETIME_SECONDS, type SigningKey } from "./own-token.ts";
import { LEEWAY_SECONDS } from "./verify.ts";

/**
 * How old an isolate's set of keys may be for it to sign by it: older than it ever is while D1 answers, and what it is at
 * most while D1 does not.
 */
export const MAX_SIGNING_AGE_MS = 10 * 60_000;
/** What our isolates' clocks may be apart. */
const CLOCKS_MS = 60_000;
/** From the moment the next key signs until nothing the one before has signed is in force. */
export const KEPT_AFTER_RETIRING_MS = MAX_SIGNING_AGE_MS + (MAX_LIFETIME_SECONDS + LEEWAY_SECONDS) * 1_000 + CLOCKS_MS;

/** Times are milliseconds since the epoch. */
export type SigningKeyRecord = {
  readonly seq: number;
  readonly kid: string;
  readonly alg: PublicAlgorithm;
  /** As it is published: public members, `kid`, `alg` and `use`. */
  readonly public_jwk: PublishedKey;
  readonly sealed_private: Sealed;
  readonly created_at: number;
  readonly signs_from: number;
};

export type PublishedKey = Readonly<Record<string, string>>;
/** Nothing else is ever published, whatever a row may hold. */
const PUBLISHED = ["kty", "crv", "x", "y", "n", "e", "kid", "alg", "use"];

export type OwnVerificationKey = VerificationKey & { readonly kid: string };

const placeOf = (kid: string): string => `signing_keys/${kid}/private_jwk`;

type Row = {
  seq: number;
  kid: string;
  alg: string;
  public_jwk: string;
  sealed_private: string;
  created_at: number;
  signs_from: number;
};

/** All of them, the oldest first. A row that somebody has spoilt by hand is as good as none, but keeps its number. */
export async function loadSigningKeys(db: D1Database): Promise<SigningKeyRecord[]> {
  const { results } = await db
    .prepare("SELECT seq, kid, alg, public_jwk, sealed_private, created_at, signs_from FROM signing_keys ORDER BY seq")
    .all<Row>();
  return results.map((row) => ({
    ...row,
    alg: ALGORITHMS.find((alg) => alg === row.alg) ?? "ES256",
    public_jwk: published(parseJson(row.public_jwk)),
    sealed_private: readSealed(parseJson(row.sealed_private)),
  }));
}

function published(value: unknown): PublishedKey {
  if (typeof value !== "object" || value === null) return {};
  return Object.fromEntries(
    PUBLISHED.flatMap((name) => {
      const member: unknown = Object.hasOwn(value, name) ? Reflect.get(value, name) : undefined;
      return typeof member === "string" ? [[name, member]] : [];
    }),
  );
}

/** A new key, with its private part sealed for its row. Not stored yet. */
export async function makeSigningKey(
  alg: PublicAlgorithm,
  master: MasterKey,
  seq: number,
  now: number,
  signsFrom: number,
): Promise<SigningKeyRecord> {
  const algorithm =
    alg === "RS256"
      ? { ...IMPORTED.RS256, modulusLength: 2_048, publicExponent: new Uint8Array([1, 0, 1]) }
      : IMPORTED.ES256;
  const pair = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  if (!("privateKey" in pair)) throw new Error("a key without its other half");
  const kid = newId("sig", now);
  const shown = published(await crypto.subtle.exportKey("jwk", pair.publicKey));
  const whole = JSON.stringify(await crypto.subtle.exportKey("jwk", pair.privateKey));
  return {
    ...{ seq, kid, alg, created_at: now, signs_from: signsFrom },
    public_jwk: { ...shown, kid, alg, use: "sig" },
    sealed_private: await seal(master, whole, placeOf(kid)),
  };
}

/** Marks every key that has a later one as retired from the moment that one signs. */
const RETIRE = `UPDATE signing_keys SET
  retired_at = (SELECT min(later.signs_from) FROM signing_keys later WHERE later.seq > signing_keys.seq),
  delete_after = ?1 + (SELECT min(later.signs_from) FROM signing_keys later WHERE later.seq > signing_keys.seq)
  WHERE retired_at IS NULL AND seq < (SELECT max(seq) FROM signing_keys)`;

/** Stores the next key, and retires the ones before; false when somebody else was faster. */
export async function insertSigningKey(db: D1Database, key: SigningKeyRecord): Promise<boolean> {
  const insert = db
    .prepare(
      `INSERT INTO signing_keys (seq, kid, alg, public_jwk, sealed_private, created_at, signs_from)
       VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (seq) DO NOTHING`,
    )
    .bind(
      ...[key.seq, key.kid, key.alg, JSON.stringify(key.public_jwk), JSON.stringify(key.sealed_private)],
      ...[key.created_at, key.signs_from],
    );
  const [inserted] = await db.batch([insert, db.prepare(RETIRE).bind(KEPT_AFTER_RETIRING_MS)]);
  return (inserted?.meta.changes ?? 0) > 0;
}

/** Deletes keys of which no token is left; how many there were. The last one is never retired, and so never deleted. */
export async function deleteEndedKeys(db: D1Database, now: number): Promise<number> {
  const { meta } = await db.prepare("DELETE FROM signing_keys WHERE delete_after <= ?").bind(now).run();
  return meta.changes;
}

/** The private part under another master key, unless it has been changed meanwhile. */
export async function resealSigningKey(
  db: D1Database,
  key: SigningKeyRecord,
  [first, ...others]: readonly MasterKey[],
): Promise<boolean> {
  if (!first) return false;
  const place = placeOf(key.kid);
  const whole = await open([first, ...others], key.sealed_private, place);
  if (!whole.ok) return false;
  await db
    .prepare("UPDATE signing_keys SET sealed_private = ? WHERE kid = ? AND sealed_private = ?")
    .bind(JSON.stringify(await seal(first, whole.value, place)), key.kid, JSON.stringify(key.sealed_private))
    .run();
  return true;
}

/** The key to sign with; null if none of the master keys opens it. */
export async function openSigningKey(
  { kid, alg, sealed_private }: SigningKeyRecord,
  masterKeys: readonly MasterKey[],
): Promise<SigningKey | null> {
  const whole = await open(masterKeys, sealed_private, placeOf(kid));
  if (!whole.ok) return null;
  try {
    const jwk: JsonWebKey = JSON.parse(whole.value);
    return { kid, alg, privateKey: await crypto.subtle.importKey("jwk", jwk, IMPORTED[alg], false, ["sign"]) };
  } catch {
    // What was sealed is no key: as good as closed.
    return null;
  }
}

/** The key to verify with; null if the row does not hold one. */
export async function readVerificationKey(record: SigningKeyRecord): Promise<OwnVerificationKey | null> {
  const jwk: Json = record.public_jwk;
  const key = await readPublicKey(jwk);
  return key?.kid === record.kid && key.alg === record.alg ? key : null;
}
