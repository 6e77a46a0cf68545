/** Reading bodies with a limit: never more bytes than allowed, whatever `content-length` says or does not say. */
import { joined } from "./pieces.ts";
import { err, ok, type Result } from "./result.ts";
import type { Failure } from "./wire/errors.ts";
import { readJson } from "./wire/json-scan.ts";

/** Read in pieces of this size; so much may arrive past a limit before it is noticed. */
const PIECE_BYTES = 64 * 1024;
/** A refused body is taken in up to the largest one that could have been accepted, and a piece. */
const MAX_DISCARDED_BYTES = 32 * 1024 * 1024 + PIECE_BYTES;

/**
 * The whole of a body whose `content-length` is `declared`, if it has one. "too large" as soon as the limit is passed;
 * throws what the stream throws.
 */
export async function readCapped(
  message: Request | Response,
  declared: string | null | undefined,
  limitBytes: number,
): Promise<Uint8Array | "too large"> {
  // With a declared length the runtime itself holds the sender to it, and reads without waking us for each piece.
  if (declared != null) {
    return Number(declared) > limitBytes ? "too large" : await message.bytes();
  }
  const { body } = message;
  if (!body) return new Uint8Array(0);
  const reader = body.getReader({ mode: "byob" });
  const pieces: Uint8Array[] = [];
  let total = 0;
  for (;;) {
    const { done, value } = await reader.readAtLeast(PIECE_BYTES, new Uint8Array(PIECE_BYTES));
    if (value && value.length > 0) {
      total += value.length;
      if (total > limitBytes) {
        await reader.cancel();
        return "too large";
      }
      pieces.push(value);
    }
    // Less than was asked for: the stream has ended.
    if (done || !value || value.length < PIECE_BYTES) break;
  }
  return joined(pieces);
}

/**
 * Takes in a body nobody wants, up to a bound: clients that send all of it before they read would otherwise meet a
 * closed connection instead of the answer that says what was wrong.
 */
export async function discard({ body }: Request): Promise<void> {
  if (!body || body.locked) return;
  const reader = body.getReader({ mode: "byob" });
  let buffer = new Uint8Array(PIECE_BYTES);
  for (let read = 0; read < MAX_DISCARDED_BYTES; ) {
    const { done, value } = await reader.read(buffer);
    if (done || !value) return;
    read += value.length;
    buffer = new Uint8Array(value.buffer);
  }
  await reader.cancel();
}

/** A JSON request body as bytes: the right media type, not compressed, within the limit. */
export async function readJsonBytes(
  request: Request,
  headers: ReadonlyMap<string, string>,
  limitBytes: number,
): Promise<Result<Uint8Array, Failure>> {
  const type = headers.get("content-type") ?? "";
  if (!/^application\/(?:[\w.-]+\+)?json\s*(?:;\s*charset\s*=\s*"?utf-8"?\s*)?$/i.test(type)) {
    return err({
      kind: "unsupported_media_type",
      message: "The request body must be sent as `content-type: application/json` in UTF-8.",
    });
  }
  const encoding = headers.get("content-encoding");
  if (encoding !== undefined && encoding.toLowerCase() !== "identity") {
    return err({ kind: "unsupported_media_type", message: "Compressed request bodies are not accepted." });
  }
  try {
    const bytes = await readCapped(request, headers.get("content-length"), limitBytes);
    if (bytes !== "too large") return ok(bytes);
    await discard(request);
    return err({ kind: "request_too_large", limitBytes });
  } catch {
    return err({ kind: "invalid_request", message: "The request body ended before it was complete." });
  }
}

/** The same as a value. */
export async function readJsonBody(
  request: Request,
  headers: ReadonlyMap<string, string>,
  limitBytes: number,
): Promise<Result<unknown, Failure>> {
  const bytes = await readJsonBytes(request, headers, limitBytes);
  return bytes.ok ? readJson(bytes.value) : bytes;
}

/** Whether there is a body, where one may be left out. */
export function hasBody(request: Request, headers: ReadonlyMap<string, string>): boolean {
  return request.body !== null && headers.get("content-length") !== "0";
}
