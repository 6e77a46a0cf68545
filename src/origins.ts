/**
 * Which pages may use conversations from a browser: the gateway's own, and those of the origins in `ALLOWED_ORIGINS`. An
 * origin is allowed if it is exactly one of them, scheme, host and port. Whoever sends no `origin` is no page.
 */
import { err, ok, type Result } from "./result.ts";

/** As browsers write an origin: scheme and host in lower case, no default port, no path. */
const ORIGIN = /^https?:\/\/(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::\d+)?$/;
const isOrigin = (text: string): boolean => ORIGIN.test(text) && URL.parse(text)?.origin === text;

/** Parses the setting: origins, separated by commas. The error is one sentence. */
export function readOrigins(text: string): Result<ReadonlySet<string>, string> {
  const origins = text
    .split(",")
    .map((origin) => origin.trim())
    .filter((origin) => origin !== "");
  return origins.every(isOrigin)
    ? ok(new Set(origins))
    : err("ALLOWED_ORIGINS is not a list of origins, such as https://chat.example.com, separated by commas.");
}

/** The origin that is let in; null: none is named, so no page asks. `refused`: a page asks that may not. */
export function originOf(
  headers: ReadonlyMap<string, string>,
  url: string,
  allowed: ReadonlySet<string>,
): { readonly allowed: string | null } | "refused" {
  const origin = headers.get("origin");
  if (origin === undefined) return { allowed: null };
  return allowed.has(origin) || origin === new URL(url).origin ? { allowed: origin } : "refused";
}

const EXPOSED = [
  "x-sluice-request-id",
  "request-id",
  "retry-after",
  "x-should-retry",
  "anthropic-ratelimit-requests-limit",
  "anthropic-ratelimit-requests-remaining",
  "anthropic-ratelimit-requests-reset",
].join(", ");

/** Lets pages of one origin read an answer. They send their key in a header of their own, never in a cookie. */
export function readableBy(response: Response, origin: string | null): Response {
  const { headers } = response;
  headers.append("vary", "origin");
  if (origin === null) return response;
  headers.set("access-control-allow-origin", origin);
  headers.set("access-control-expose-headers", EXPOSED);
  return response;
}
