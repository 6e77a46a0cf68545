/**
 * API keys: `sk-sluice-<id>-<secret><tag>`. The tag is a truncated HMAC of id and secret, so a forged or mistyped key
 * is refused here, with no Durable Object, KV or database asked. Only SHA-256 of the secret is ever stored.
 */
import { sha256Hex } from "../digest.ts";
import { base32, newId, randomBase32 } from "../wire/ids.ts";

const PREFIX = "sk-sluice-";
const ID_CHARS = 26;
/** 160 bits of chance. */
const SECRET_CHARS = 32;
/** 80 bits of tag: a guess is right once in 10²⁴ tries, and then still lacks the secret's hash. */
const TAG_CHARS = 16;
const KEY_PATTERN = /^sk-sluice-([0-9a-hjkmnp-tv-z]{26})-([0-9a-hjkmnp-tv-z]{32})([0-9a-hjkmnp-tv-z]{16})$/;
/** Length of every key: what is longer or shorter is refused before anything looks at it. */
export const KEY_LENGTH = PREFIX.length + ID_CHARS + 1 + SECRET_CHARS + TAG_CHARS;

const encoder = new TextEncoder();
const signers = new Map<string, CryptoKey>();

export type ParsedKey = { readonly id: string; readonly secretSha256: string };
export type MintedKey = {
  readonly id: string;
  readonly key: string;
  readonly secretSha256: string;
  readonly hint: string;
};

/** A new key for a new id, or a new secret for an id that exists. */
export async function mintKey(tagSecret: string, now: number, id = newId("key", now)): Promise<MintedKey> {
  const bare = id.slice("key_".length);
  const secret = randomBase32(SECRET_CHARS);
  const key = `${PREFIX}${bare}-${secret}${await tagOf(tagSecret, bare, secret)}`;
  return {
    id,
    key,
    secretSha256: await sha256Hex(secret),
    hint: `${key.slice(0, PREFIX.length + 6)}…${key.slice(-4)}`,
  };
}

/** Checks form and tag. Null for whatever is not a key that one of the secrets has tagged. */
export async function parseKey(tagSecrets: readonly string[], text: string): Promise<ParsedKey | null> {
  if (text.length !== KEY_LENGTH) return null;
  const match = KEY_PATTERN.exec(text);
  if (!match) return null;
  const [, id = "", secret = "", tag = ""] = match;
  for (const tagSecret of tagSecrets) {
    if (constantTimeEqual(await tagOf(tagSecret, id, secret), tag)) {
      return { id: `key_${id}`, secretSha256: await sha256Hex(secret) };
    }
  }
  return null;
}

/** Compares without telling by its duration where two texts differ. Texts of different lengths are simply unequal. */
export function constantTimeEqual(a: string, b: string): boolean {
  const left = encoder.encode(a);
  const right = encoder.encode(b);
  return left.length === right.length && crypto.subtle.timingSafeEqual(left, right);
}

function tagOf(tagSecret: string, id: string, secret: string): Promise<string> {
  return keyedTag(tagSecret, `${id}-${secret}`);
}

/** Tells that a text is of our making: HMAC-SHA-256 under a secret, 80 bits of it. Different kinds of text differ in form. */
export async function keyedTag(tagSecret: string, text: string): Promise<string> {
  let signer = signers.get(tagSecret);
  if (!signer) {
    const algorithm = { name: "HMAC", hash: "SHA-256" };
    signer = await crypto.subtle.importKey("raw", encoder.encode(tagSecret), algorithm, false, ["sign"]);
    signers.set(tagSecret, signer);
  }
  const mac = new Uint8Array(await crypto.subtle.sign("HMAC", signer, encoder.encode(text)));
  return base32(mac.subarray(0, TAG_CHARS));
}
