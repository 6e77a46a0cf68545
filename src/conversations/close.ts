/** The end of a WebSocket, from our side. */
import { utf8Bytes } from "./frames.ts";

/** RFC 6455 §5.5: 125 bytes less the code's 2. */
const MAX_REASON_BYTES = 123;

/**
 * Closes a socket, whatever its state. Codes that no frame may carry (RFC 6455 §7.4.1: 1005, 1006, 1015, and 1004, which
 * means nothing) become 1000, and a reason is cut to what fits into a control frame. It still throws where the other side
 * has broken off, where it is closed already, or where the client's own code is one that the runtime does not send:
 * nobody is left to be told.
 */
export function closeQuietly(socket: WebSocket, code: number, reason: string): void {
  const unsendable = code === 1004 || code === 1005 || code === 1006 || code === 1015;
  try {
    socket.close(unsendable ? 1000 : code, shortened(reason));
  } catch {
    // See above.
  }
}

function shortened(reason: string): string {
  let short = reason.slice(0, MAX_REASON_BYTES);
  while (utf8Bytes(short) > MAX_REASON_BYTES) short = short.slice(0, -1);
  return short;
}
