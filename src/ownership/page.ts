/** Pages of batches and files, as the SDKs of both generations ask for them and read them (wire notes §1.2). */
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";

/** Ids of the API (letters, digits and two marks), also what a page may begin with. */
const ID = /^[A-Za-z0-9_-]{1,128}$/;
const DEFAULT_LIMIT = 20;
export const MAX_LIMIT = 1_000;
/** Ids that one list of files may ask for (SDK resources/files.ts). */
const MAX_IDS = 100;

export function isObjectId(id: string): boolean {
  return ID.test(id);
}

export type PageRequest = {
  readonly limit: number;
  /** Begin behind this one, or end before it. */
  readonly start: { readonly direction: "older" | "newer"; readonly id: string } | null;
  /** These only, all on one page. */
  readonly ids: readonly string[] | null;
};

/**
 * Reads a list's query: `limit`, `after_id`, `before_id`; for files also `page`, which is the id of the last one of the page
 * before, and `ids`. Other parameters (`beta=true`) say nothing here.
 */
export function readPageRequest(url: string, kind: "batches" | "files"): Result<PageRequest, Failure> {
  const query = new URL(url).searchParams;
  const one = (name: string): Result<string | null, Failure> => {
    const values = query.getAll(name);
    return values.length > 1 ? invalid(`${name}: given more than once`) : ok(values[0] || null);
  };
  const limit = one("limit");
  if (!limit.ok) return limit;
  if (limit.value !== null && !(/^\d{1,4}$/.test(limit.value) && inLimit(Number(limit.value)))) {
    return invalid(`limit: must be a whole number from 1 to ${MAX_LIMIT}`);
  }
  const starts: { name: string; direction: "older" | "newer"; id: string }[] = [];
  for (const name of kind === "files" ? ["after_id", "before_id", "page"] : ["after_id", "before_id"]) {
    const id = one(name);
    if (!id.ok) return id;
    if (id.value === null) continue;
    if (!isObjectId(id.value)) return unknownStart(name);
    starts.push({ name, direction: name === "before_id" ? "newer" : "older", id: id.value });
  }
  if (starts.length > 1) return invalid(`${starts.map(({ name }) => name).join(", ")}: only one of them at a time`);
  const ids = kind === "files" ? new Set([...query.getAll("ids"), ...query.getAll("ids[]")]) : new Set<string>();
  if (kind === "files" && query.has("scope_id")) return invalid("scope_id: sessions are not served by this gateway");
  if (ids.size > MAX_IDS) return invalid(`ids: more than ${MAX_IDS}`);
  if (ids.size > 0 && (limit.value !== null || starts.length > 0)) {
    return invalid("ids: not together with `limit` or `page`");
  }
  return ok({
    limit: limit.value === null ? DEFAULT_LIMIT : Number(limit.value),
    start: starts[0] ?? null,
    ids: ids.size > 0 ? [...ids] : null,
  });
}

function inLimit(limit: number): boolean {
  return limit >= 1 && limit <= MAX_LIMIT;
}

/** One that the workspace never had; whether somebody else has it is not told. */
export function unknownStart(name: string): Result<never, Failure> {
  return invalid(`${name}: no page begins here`);
}

/**
 * A page's text. Each object stands in it as its upstream wrote it. Files carry the fields of both generations of the SDK;
 * each reads its own.
 */
export function pageText(
  kind: "batches" | "files",
  objects: readonly { readonly id: string; readonly text: string }[],
  hasMore: boolean,
): string {
  const first = JSON.stringify(objects[0]?.id ?? null);
  const last = JSON.stringify(objects.at(-1)?.id ?? null);
  const ends = `"has_more":${hasMore},"first_id":${first},"last_id":${last}`;
  const next = kind === "files" ? `,"next_page":${hasMore ? last : null}` : "";
  return `{"data":[${objects.map(({ text }) => text).join(",")}],${ends}${next}}`;
}

function invalid(message: string): Result<never, Failure> {
  return err({ kind: "invalid_request", message });
}
