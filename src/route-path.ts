/** One canonical path for every spelling that is allowed: doubled slashes fold, and `/v1` may be left out. */

import { OPENAI_SEGMENTS } from "./wire/openai/endpoints.ts";

/** First segments that live under `/v1`. */
const WIRE_SEGMENTS = new Set(["messages", "models", "files", "conversations", ...OPENAI_SEGMENTS]);

/**
 * The path to route by, taken from the address as it was sent: nothing is decoded and nothing like `..` is resolved,
 * so an odd path is simply one that no route has.
 */
export function canonicalPath(url: string): string {
  const start = url.indexOf("/", url.indexOf("//") + 2);
  if (start === -1) return "/";
  const query = url.indexOf("?", start);
  let path = query === -1 ? url.slice(start) : url.slice(start, query);
  if (path.includes("//")) path = path.replace(/\/{2,}/g, "/");
  const end = path.indexOf("/", 1);
  const first = end === -1 ? path.slice(1) : path.slice(1, end);
  return WIRE_SEGMENTS.has(first) ? `/v1${path}` : path;
}
