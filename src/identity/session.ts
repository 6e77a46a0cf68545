/**
 * A session of a person at the control plane: a cookie that scripts can't read, and a word beside it that only the pages
 * of this gateway know. A cookie travels with whatever page has the browser send something here, so by itself it opens
 * nothing that changes anything: the call must come from our own origin, and show the word in a header.
 */
import type { AppContext } from "../context.ts";
import { sha256Hex } from "../digest.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { randomHex } from "../wire/ids.ts";
import { constantTimeEqual } from "./api-key.ts";

/** `__Host-`: browsers take it from this host alone, over TLS, for all paths. */
const COOKIE = "__Host-sluice_session";
/** Bytes of chance in a cookie's value. */
const COOKIE_BYTES = 32;
const VALUE = /^[0-9a-f]{64}$/;
export const CSRF_HEADER = "x-sluice-csrf";
/** A working day. */
export const SESSION_MS = 8 * 3_600_000;

const COOKIE_RULES = "Path=/; Secure; HttpOnly; SameSite=Strict";

/** What a browser holds of a session. */
export type Held = { readonly sha256: string; readonly csrf: string };

/** A new cookie: its value, the header that sets it, and what is known of it here. */
export async function newCookie(maxAgeMs: number): Promise<Held & { readonly header: string }> {
  const value = randomHex(COOKIE_BYTES);
  const header = `${COOKIE}=${value}; ${COOKIE_RULES}; Max-Age=${Math.floor(maxAgeMs / 1000)}`;
  return { header, ...(await heldOf(value)) };
}

export const NO_COOKIE = `${COOKIE}=; ${COOKIE_RULES}; Max-Age=0`;

async function heldOf(value: string): Promise<Held> {
  const [sha256, csrf] = await Promise.all([sha256Hex(`session ${value}`), sha256Hex(`csrf ${value}`)]);
  return { sha256, csrf };
}

/**
 * The session that a call shows. The error: it shows none, or the call may be another page's doing. Whether there is such
 * a session is not asked here.
 */
export async function heldBy(c: AppContext): Promise<Result<Held, Failure>> {
  const { headers } = c.var.call;
  const held = await broughtBy(c);
  if (held === null) return err({ kind: "unauthenticated" });
  const isOwn = cameFromOwnPage(headers, c.req.url);
  const reads = c.req.method === "GET" || c.req.method === "HEAD";
  if (!isOwn.asFarAsSaid) return err(FOREIGN_PAGE);
  if (reads) return ok(held);
  const word = headers.get(CSRF_HEADER) ?? "";
  return isOwn.said && constantTimeEqual(word, held.csrf) ? ok(held) : err(FOREIGN_PAGE);
}

/** What the cookie of a call says, whoever sends it: it opens nothing yet. Null: there is none, or more than one. */
export async function broughtBy(c: AppContext): Promise<Held | null> {
  const value = cookieIn(c.var.call.headers.get("cookie") ?? "");
  return value === null ? null : heldOf(value);
}

const FOREIGN_PAGE: Failure = { kind: "cross_site" };

/** Null: there is none, or more than one. */
function cookieIn(header: string): string | null {
  const values = header.split(";").flatMap((pair) => {
    const [name, value = ""] = pair.trim().split("=", 2);
    return name === COOKIE ? [value] : [];
  });
  const [value = ""] = values;
  return values.length === 1 && VALUE.test(value) ? value : null;
}

/** What a browser says of the page that asks; nothing of that can be set by a page itself. */
function cameFromOwnPage(
  headers: ReadonlyMap<string, string>,
  url: string,
): { readonly said: boolean; readonly asFarAsSaid: boolean } {
  const site = headers.get("sec-fetch-site");
  const origin = headers.get("origin");
  const ownSite = site === "same-origin" || site === "none";
  const ownOrigin = origin === new URL(url).origin;
  return {
    said: site === "same-origin" || ownOrigin,
    asFarAsSaid: (site === undefined || ownSite) && (origin === undefined || ownOrigin),
  };
}
