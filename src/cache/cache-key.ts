/**
 * Which calls may share an answer. Two calls have the same key only if everything that goes upstream is the same, but
 * for what is known not to change an answer; and a call whose answer depends on anything but what it sends has none.
 *
 * It is a closed list the other way round: what is not known is in the key. A new body field or `anthropic-*` header
 * splits entries the day it appears, and never lets one call have the answer to another.
 */

import { sha256Hex } from "../digest.ts";
import { err, ok, type Result } from "../result.ts";
import { asFields } from "../wire/anthropic/usage.ts";
import { canonicalJson } from "./canonical-json.ts";

/** A larger body is not looked at twice: text, value and canonical form of it stand in memory at once. */
export const MAX_CACHEABLE_BYTES = 4 * 1024 * 1024;

/** Grows with the form that is hashed: entries of before are not found any more. */
const FORM = "sluice-cache-1";

/**
 * Forwarded headers that are left out of the key, each because the API makes nothing of it but statistics. All others
 * are in it.
 * - `user-agent` and `x-stainless-*` name the client and its version, and count its attempts; an SDK's second attempt
 *   must find what the first one left. Named one by one: what that family brings next is in the key.
 * - `accept` is `application/json` for streams too: the body alone decides (wire notes §0.3).
 */
const LEFT_OUT = new Set([
  "user-agent",
  "accept",
  "x-stainless-arch",
  "x-stainless-async",
  "x-stainless-helper",
  "x-stainless-helper-method",
  "x-stainless-lang",
  "x-stainless-os",
  "x-stainless-package-version",
  "x-stainless-retry-count",
  "x-stainless-runtime",
  "x-stainless-runtime-version",
  "x-stainless-timeout",
]);

/**
 * Body fields with which an answer rests on state that the upstream holds, or the call does more than answer (wire notes
 * §5.1). `context_management` is none of them: it says what of this very body counts.
 */
const STATEFUL_FIELDS = [
  "container",
  "thread",
  "mcp_servers",
  "compaction",
  "fallbacks",
  "fallback_credit_token",
  "billing_policy",
  "diagnostics",
  "output_format",
];

/** Tools that the client runs: an answer only names them. Every other type runs upstream, and sees the world as it is. */
const CLIENT_TOOL = /^(?:custom|(?:bash|text_editor|computer|memory)_\d{8})$/;
/** Sources that carry their content along. A URL's may change, and a file's owner may delete it. */
const CARRIED_SOURCES = new Set(["base64", "text", "content"]);

export type CacheableCall = {
  readonly workspace: string;
  /** How often the workspace's cache has been purged. */
  readonly epoch: number;
  /** The path and query that go upstream. */
  readonly target: string;
  /** As they go upstream, less the credential; names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** Accepted by `scanJson`. */
  readonly body: Uint8Array;
};

/** SHA-256 in lower-case hex, or in a few words why the call may not be answered from a cache. */
export async function cacheKey(call: CacheableCall): Promise<Result<string, string>> {
  const { workspace, epoch, target, headers, body } = call;
  if (body.length > MAX_CACHEABLE_BYTES) return err("a large body");
  const canonical = canonicalJson(new TextDecoder().decode(body));
  if (canonical === null) return err("a name that occurs twice in an object");
  const reason = dependsOn(JSON.parse(canonical));
  if (reason !== null) return err(reason);
  const counted = Object.entries(headers)
    .filter(([name]) => !LEFT_OUT.has(name))
    .sort(([a], [b]) => (a < b ? -1 : 1));
  const form = `${JSON.stringify([FORM, workspace, epoch, target, counted])}\n${canonical}`;
  return ok(await sha256Hex(form));
}

/** What an answer to this body depends on beside the body itself; null: nothing. */
function dependsOn(body: unknown): string | null {
  const fields = asFields(body);
  if (!fields) return "a body that is no object";
  const stateful = STATEFUL_FIELDS.find((name) => fields[name] !== undefined && fields[name] !== null);
  if (stateful !== undefined) return stateful;
  if (fields.max_tokens === 0) return "max_tokens: 0";
  if (Array.isArray(fields.tools) && !fields.tools.every(isRunByClient)) return "a tool that runs upstream";
  return refersElsewhere([fields.messages, fields.system]) ? "content that is not in the body" : null;
}

function isRunByClient(tool: unknown): boolean {
  const type = asFields(tool)?.type ?? "custom";
  return typeof type === "string" && CLIENT_TOOL.test(type);
}

/** Whether a content block at any depth names what it does not hold. Depth is bounded by `scanJson`. */
function refersElsewhere(value: unknown): boolean {
  if (Array.isArray(value)) return value.some(refersElsewhere);
  if (typeof value !== "object" || value === null) return false;
  if ("file_id" in value) return true;
  const source = "source" in value ? asFields(value.source)?.type : undefined;
  if (typeof source === "string" && !CARRIED_SOURCES.has(source)) return true;
  return Object.values(value).some(refersElsewhere);
}
