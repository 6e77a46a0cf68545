/** Lists in pages, as models and batches have them: `limit`, and `after_id` or `before_id`. */

const DEFAULT_LIMIT = 20;
const MAX_LIMIT = 1000;

/** `limit` of a list, or what is wrong with it. */
export function limitOf(query: URLSearchParams): number | string {
  const text = query.get("limit");
  const limit = text === null ? DEFAULT_LIMIT : Number(text);
  return Number.isInteger(limit) && limit >= 1 && limit <= MAX_LIMIT ? limit : `limit: must be from 1 to ${MAX_LIMIT}`;
}

/** One page of `items`, which stand in the order of the list. A string is what is wrong with the query. */
export function pageById<T extends { readonly id: string }>(
  items: readonly T[],
  query: URLSearchParams,
  tell: (item: T) => unknown,
  what: string,
): Record<string, unknown> | string {
  const limit = limitOf(query);
  if (typeof limit === "string") return limit;
  const place = (name: string): number => items.findIndex((item) => item.id === query.get(name));
  const after = query.has("after_id") ? place("after_id") : -1;
  const before = query.has("before_id") ? place("before_id") : items.length;
  if (query.has("after_id") && after === -1) return `after_id: no such ${what}`;
  if (query.has("before_id") && before === -1) return `before_id: no such ${what}`;
  const range = items.slice(after + 1, before);
  const page = query.has("before_id") ? range.slice(-limit) : range.slice(0, limit);
  return {
    data: page.map(tell),
    has_more: page.length < range.length,
    first_id: page[0]?.id ?? null,
    last_id: page.at(-1)?.id ?? null,
  };
}
