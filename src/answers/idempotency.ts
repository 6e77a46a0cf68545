/**
 * `Idempotency-Key`: the second call with the same key and the same request gets the first one's answer. Each gateway
 * key has its own; answers are kept for a day.
 */
import { sha256Hex } from "../digest.ts";
import type { Forwarding } from "../hotpath/forward.ts";
import type { CallRecord } from "../hotpath/settle.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import type { Wish } from "./turn.ts";
import { uploadBy } from "./upload.ts";

const KEEP_MS = 24 * 3_600_000;
/** As long as Stripe's and the IETF draft's examples; printable ASCII, so that logs and proxies agree on what it is. */
const IDEMPOTENCY_KEY = /^[\x20-\x7e]{1,255}$/;
/** Forwarded headers that change what the upstream answers. */
const TELLING = ["anthropic-version", "anthropic-beta", "anthropic-workspace-id", "anthropic-user-profile-id"];

/** What a client has sent: for most calls just what is forwarded. */
export type Sent = Pick<Forwarding, "method" | "path" | "body">;

/** What a call's idempotency key asks for; null if it has none, or makes nothing. */
export async function idempotencyOf(
  headers: ReadonlyMap<string, string>,
  keyId: string,
  requestId: string,
  { method, path, body }: Sent,
): Promise<Result<Wish | null, Failure>> {
  const key = headers.get("idempotency-key");
  if (key === undefined || method !== "POST") return ok(null);
  if (!IDEMPOTENCY_KEY.test(key)) {
    return err({ kind: "invalid_request", message: "idempotency-key: must be 1 to 255 printable ASCII characters" });
  }
  const upload = body instanceof ReadableStream ? uploadBy(headers) : undefined;
  if (upload === null) {
    return err({
      kind: "invalid_request",
      message: "idempotency-key: an upload under one needs a content-length and a boundary in its content-type",
    });
  }
  const [keyHash, bodyHash] = await Promise.all([
    sha256Hex(key),
    body instanceof ReadableStream ? null : sha256Hex(body ?? ""),
  ]);
  const telling = TELLING.map((name) => headers.get(name) ?? null);
  const fingerprint = await sha256Hex(JSON.stringify([method, path, bodyHash, ...telling]));
  return ok({
    name: `${keyId}:${keyHash}`,
    claim: { token: requestId, fingerprint },
    keep: { ms: KEEP_MS, clientErrors: true },
    upload,
    replayed,
  });
}

function replayed(response: Response, record: CallRecord): void {
  response.headers.set("idempotent-replayed", "true");
  response.headers.delete("age");
  record.replayed = true;
}
