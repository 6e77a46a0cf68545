/** Short names for long texts. */
const encoder = new TextEncoder();

/** SHA-256 of a text's UTF-8, or of bytes, in lower-case hex. */
export async function sha256Hex(what: string | Uint8Array): Promise<string> {
  const bytes = typeof what === "string" ? encoder.encode(what) : what;
  return hexOf(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)));
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

/** Bytes in lower-case hex. */
function hexOf(bytes: Uint8Array): string {
  let hex = "";
  for (const byte of bytes) hex += HEX[byte];
  return hex;
}

/** FNV-1a over UTF-16 units, 32 bits: even enough for spreading, the same for ever, and no secret's. */
export function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}
