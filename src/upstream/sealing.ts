/**
 * Secrets at rest: AES-256-GCM under a master key that has a version, bound to the place they are stored at. A
 * ciphertext that was changed, or moved to another row or column, does not open. Pure, with WebCrypto.
 *
 * Master keys are exchanged while serving: the new one comes first and seals, the old ones stay behind it and open,
 * until everything is sealed anew.
 */
import { err, ok, type Result } from "../result.ts";
import type { Sealed } from "./upstream.ts";

export type MasterKey = { readonly version: string; readonly bytes: Uint8Array<ArrayBuffer> };

/** Why a sealed secret stays closed: nobody has that master key, or these are not the bytes that were sealed here. */
export type CannotOpen = { readonly kind: "unknown_master"; readonly master: string } | { readonly kind: "tampered" };

/** AES-256. */
const KEY_BYTES = 32;
/** NIST SP 800-38D §8.2.2: random ones of 96 bits are good for 2³² seals under one key. */
const IV_BYTES = 12;
const TAG_BYTES = 16;
/** The version of a key that is given without one. */
const ONLY_VERSION = "1";
const VERSION = /^[A-Za-z0-9_.-]{1,32}$/;

const encoder = new TextEncoder();
const decoder = new TextDecoder();
/** Raw keys are imported once; what is forgotten elsewhere goes from here too. */
const imported = new WeakMap<MasterKey, Promise<CryptoKey>>();

/**
 * `version:base64`, several separated by commas: the first one seals, all of them open. A bare base64 is version 1.
 * Nothing at all is no key. The error is a sentence about `MASTER_KEY` that holds nothing of its value.
 */
export function readMasterKeys(text: string): Result<readonly MasterKey[], string> {
  if (text.trim() === "") return ok([]);
  const keys: MasterKey[] = [];
  for (const [i, entry] of text.split(",").entries()) {
    const at = `The secret MASTER_KEY is malformed: its key number ${i + 1}`;
    const parts = entry.trim().split(":");
    const [version, base64] = parts.length === 1 ? [ONLY_VERSION, parts[0]] : parts;
    if (parts.length > 2 || !VERSION.test(version ?? "")) return err(`${at} is not written as version:base64.`);
    const bytes = fromBase64(base64 ?? "");
    if (bytes?.length !== KEY_BYTES) return err(`${at} is not base64 of exactly ${KEY_BYTES} bytes.`);
    if (keys.some((key) => key.version === version)) return err(`${at} has the version of another one.`);
    keys.push({ version: version ?? "", bytes });
  }
  return ok(keys);
}

/**
 * Seals a text under a master key, bound to `place` (such as `upstreams/<id>/api_key`): only `open` with the same place
 * gives it back.
 */
export async function seal(key: MasterKey, secret: string, place: string): Promise<Sealed> {
  const iv = crypto.getRandomValues(new Uint8Array(IV_BYTES));
  const algorithm = { name: "AES-GCM", iv, additionalData: boundTo(place, key.version) };
  const data = await crypto.subtle.encrypt(algorithm, await importOnce(key), encoder.encode(secret));
  return { master: key.version, iv: toBase64(iv), data: toBase64(new Uint8Array(data)) };
}

/** The text that was sealed for this place, under whichever of the master keys it names. */
export async function open(
  keys: readonly MasterKey[],
  sealed: Sealed,
  place: string,
): Promise<Result<string, CannotOpen>> {
  const key = keys.find(({ version }) => version === sealed.master);
  if (!key) return err({ kind: "unknown_master", master: sealed.master });
  const iv = fromBase64(sealed.iv);
  const data = fromBase64(sealed.data);
  if (iv?.length !== IV_BYTES || !data || data.length < TAG_BYTES) return err({ kind: "tampered" });
  try {
    const algorithm = { name: "AES-GCM", iv, additionalData: boundTo(place, key.version) };
    return ok(decoder.decode(await crypto.subtle.decrypt(algorithm, await importOnce(key), data)));
  } catch {
    // The one reason for which a decryption fails: the tag does not fit.
    return err({ kind: "tampered" });
  }
}

/** A version has no line break, so no two pairs make the same bytes. */
function boundTo(place: string, version: string): Uint8Array {
  return encoder.encode(`${version}\n${place}`);
}

function importOnce(key: MasterKey): Promise<CryptoKey> {
  let made = imported.get(key);
  if (!made) {
    made = crypto.subtle.importKey("raw", key.bytes, "AES-GCM", false, ["encrypt", "decrypt"]);
    imported.set(key, made);
  }
  return made;
}

function toBase64(bytes: Uint8Array<ArrayBuffer>): string {
  return btoa(String.fromCharCode(...bytes));
}

/** Null unless it is exactly what `toBase64` writes: the one spelling of its bytes. */
function fromBase64(text: string): Uint8Array<ArrayBuffer> | null {
  try {
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    return toBase64(bytes) === text ? bytes : null;
  } catch {
    return null;
  }
}
