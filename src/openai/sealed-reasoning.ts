/**
 * Thinking that a client keeps for us (OpenAI notes §5, `encrypted_content`): AES-256-GCM under a key that follows from
 * KEY_TAG_SECRET and the id of the gateway key, so what was sealed for one key opens for no other, and goes on opening
 * while the secret is exchanged (the new one seals, all of them open).
 *
 * The nonce follows from what is sealed (HMAC of it), so the same answer is told in the same bytes when it is replayed.
 * Equal thinking of one key thereby shows as equal, and nothing else does. Two different texts share a nonce with a chance
 * as small as two random ones would.
 *
 * Whatever does not open (damaged, foreign, another key's, sealed by a secret that is gone) is dropped: the call goes on
 * without that thinking.
 */
import { asFields, asText } from "../wire/anthropic/usage.ts";
import { parseJson } from "../wire/json.ts";
import { SEALED } from "../wire/openai/blocks.ts";
import type { Block, Draft } from "../wire/openai/draft.ts";
import type { Seal } from "../wire/openai/responses-answer.ts";
import { isSameModel } from "../wire/openai/thinking.ts";

/** Tells ours from other people's at a glance, and this form from later ones. */
const PREFIX = "slc1.";
/** NIST SP 800-38D §5.2.1.1. */
const IV_BYTES = 12;
const TAG_BYTES = 16;
const KEY_BITS = 256;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** What one gateway key seals and opens with. */
export type ReasoningSealer = {
  /** What `seal` is for thinking that was signed in this organization's account. */
  readonly sealOf: (organization: string | null) => Seal;
  /** What was sealed, or null for what can't be opened. Never throws. */
  readonly open: (sealed: string) => Promise<Thinking | null>;
};

/** Thinking, and the model and the organization that it is of: no other takes it back. */
type Thinking = { readonly model: string; readonly organization: string | null; readonly blocks: readonly Block[] };

type Keys = { readonly cipher: CryptoKey; readonly nonce: CryptoKey };

/** `secrets`: the first one seals, all of them open. Keys are made when they are first needed. */
export function reasoningSealer(secrets: readonly string[], keyId: string): ReasoningSealer {
  const made = new Map<string, Promise<Keys>>();
  const keysOf = (secret: string): Promise<Keys> => {
    const keys = made.get(secret) ?? deriveKeys(secret, keyId);
    made.set(secret, keys);
    return keys;
  };
  return {
    sealOf: (organization) => async (model, blocks) => {
      const { cipher, nonce } = await keysOf(secrets[0] ?? "");
      const text = encoder.encode(JSON.stringify({ model, organization, blocks } satisfies Thinking));
      const iv = new Uint8Array(await crypto.subtle.sign("HMAC", nonce, text)).subarray(0, IV_BYTES);
      const data = new Uint8Array(await crypto.subtle.encrypt({ name: "AES-GCM", iv }, cipher, text));
      const whole = new Uint8Array(IV_BYTES + data.length);
      whole.set(iv);
      whole.set(data, IV_BYTES);
      return PREFIX + whole.toBase64();
    },
    open: async (sealed) => {
      const bytes = sealed.startsWith(PREFIX) ? fromBase64(sealed.slice(PREFIX.length)) : null;
      if (!bytes || bytes.length <= IV_BYTES + TAG_BYTES) return null;
      for (const secret of secrets) {
        const text = await decrypt((await keysOf(secret)).cipher, bytes);
        if (text !== null) return thinkingOf(text);
      }
      return null;
    },
  };
}

/**
 * Puts the blocks of sealed thinking in the place of what a client sent back. What does not open is taken away, and so is
 * thinking of another model than the one that is asked now.
 */
export async function unseal(draft: Draft, { open }: ReasoningSealer, modelId: string): Promise<void> {
  for (const turn of draft.turns) {
    const opened = async (block: Block): Promise<readonly Block[]> => {
      if (!isSealed(block)) return [block];
      const thinking = await open(asText(block.data) ?? "");
      if (!thinking || !isSameModel(thinking.model, modelId)) return [];
      if (thinking.organization !== null) turn.organization = thinking.organization;
      return thinking.blocks;
    };
    if (turn.content.some(isSealed)) turn.content = (await Promise.all(turn.content.map(opened))).flat();
  }
  draft.turns = draft.turns.filter(({ content }) => content.length > 0);
}

function isSealed({ type }: Block): boolean {
  return type === SEALED;
}

async function deriveKeys(secret: string, keyId: string): Promise<Keys> {
  const root = await crypto.subtle.importKey("raw", encoder.encode(secret), "HKDF", false, ["deriveBits"]);
  const derive = (purpose: string): Promise<ArrayBuffer> => {
    const info = encoder.encode(`sluice/sealed-reasoning/${purpose}/${keyId}`);
    return crypto.subtle.deriveBits({ name: "HKDF", hash: "SHA-256", salt: new Uint8Array(0), info }, root, KEY_BITS);
  };
  const [cipher, nonce] = await Promise.all([derive("cipher"), derive("nonce")]);
  const hmac = { name: "HMAC", hash: "SHA-256" };
  return {
    cipher: await crypto.subtle.importKey("raw", cipher, "AES-GCM", false, ["encrypt", "decrypt"]),
    nonce: await crypto.subtle.importKey("raw", nonce, hmac, false, ["sign"]),
  };
}

async function decrypt(cipher: CryptoKey, bytes: Uint8Array<ArrayBuffer>): Promise<string | null> {
  try {
    const algorithm = { name: "AES-GCM", iv: bytes.subarray(0, IV_BYTES) };
    return decoder.decode(await crypto.subtle.decrypt(algorithm, cipher, bytes.subarray(IV_BYTES)));
  } catch {
    // The one reason for which a decryption fails: the tag does not fit.
    return null;
  }
}

/** Thinking alone can have been sealed. */
function thinkingOf(text: string): Thinking | null {
  const { model, organization, blocks } = asFields(parseJson(text)) ?? {};
  if (typeof model !== "string" || !Array.isArray(blocks) || !blocks.every(isThinking)) return null;
  return { model, organization: asText(organization), blocks };
}

function isThinking(value: unknown): value is Block {
  const type = asFields(value)?.type;
  return type === "thinking" || type === "redacted_thinking";
}

function fromBase64(text: string): Uint8Array<ArrayBuffer> | null {
  try {
    return Uint8Array.fromBase64(text);
  } catch {
    return null;
  }
}
