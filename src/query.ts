/** Query parameters of lists: known names only, each checked, each problem told with its name. */

import { parseTime } from "./fields.ts";
import { err, ok, type Result } from "./result.ts";
import type { Failure } from "./wire/errors.ts";

/** Design §4. */
const DEFAULT_PAGE = 100;
const MAX_PAGE = 500;

/** What a parameter becomes: its value, or what is wrong with it. */
type Parse<T> = (text: string) => Result<T, string>;
export type Spec = Readonly<Record<string, Parse<unknown>>>;
export type Values<S extends Spec> = { [K in keyof S]?: S[K] extends Parse<infer T> ? T : never };

export const matches =
  (pattern: RegExp, what: string): Parse<string> =>
  (text) =>
    pattern.test(text) ? ok(text) : err(`must be ${what}`);

/** Where the next page begins. */
export const cursorOf = (pattern: RegExp): Parse<string> => matches(pattern, "a cursor from `next_cursor`");

export const oneOf =
  <T extends string>(...values: T[]): Parse<T> =>
  (text) => {
    const value = values.find((candidate) => candidate === text);
    return value === undefined ? err(`must be one of ${values.join(", ")}`) : ok(value);
  };

export const time: Parse<number> = (text) => {
  const at = parseTime(text);
  return at === null ? err("must be an RFC 3339 time, such as 2026-11-21T00:00:00Z") : ok(at);
};

export const between =
  (min: number, max: number): Parse<number> =>
  (text) =>
    /^\d{1,9}$/.test(text) && Number(text) >= min && Number(text) <= max
      ? ok(Number(text))
      : err(`must be a whole number from ${min} to ${max}`);

/** Reads the query of an address. Unknown and repeated parameters are refused by name. */
export function readQuery<S extends Spec>(url: string, spec: S): Result<Values<S>, Failure> {
  const values: Record<string, unknown> = {};
  const problems: string[] = [];
  for (const [name, text] of new URL(url).searchParams) {
    const parse = Object.hasOwn(spec, name) ? spec[name] : undefined;
    if (!parse) problems.push(`${name.slice(0, 64)}: unknown parameter`);
    else if (Object.hasOwn(values, name)) problems.push(`${name}: given more than once`);
    else {
      const value = parse(text);
      if (value.ok) values[name] = value.value;
      else problems.push(`${name}: ${value.error}`);
    }
  }
  if (problems.length > 0) return err({ kind: "invalid_request", message: problems.join("; ") });
  return ok(values as Values<S>);
}

/** The same of a list, for one page of it: `limit` beside the list's own parameters. */
export function readPageQuery<S extends Spec>(
  url: string,
  spec: S,
): Result<Values<S> & { readonly limit: number }, Failure> {
  const query = readQuery<Spec>(url, { ...spec, limit: between(1, MAX_PAGE) });
  return query.ok ? ok({ limit: DEFAULT_PAGE, ...query.value } as Values<S> & { limit: number }) : query;
}

/** One page of a keyset list, from rows read with a limit one larger than the page. */
export function page<T, R>(rows: readonly T[], limit: number, idOf: (row: T) => string, show: (row: T) => R) {
  const shown = rows.slice(0, limit);
  const last = shown.at(-1);
  const hasMore = rows.length > limit;
  return { data: shown.map(show), has_more: hasMore, next_cursor: hasMore && last !== undefined ? idOf(last) : null };
}
