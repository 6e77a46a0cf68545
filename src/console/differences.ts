/** What a change has changed: two JSON values, compared field by field. Pure. */

export type Difference = {
  /** The field by its path, such as `limits.requests_per_minute`. */
  readonly field: string;
  /** As JSON; null: the field is not there. */
  readonly before: string | null;
  readonly after: string | null;
};

/** Deeper than this a value is one text: no record is so deep but where people write what they like. */
const MAX_DEPTH = 6;

/** What every change moves along and nobody asks for. */
const USUAL = new Set(["updated_at", "version", "revision"]);

/** Fields that differ, in the order of what is there after. Objects are looked into, lists are not. */
export function differences(before: unknown, after: unknown): readonly Difference[] {
  return compared("", before ?? undefined, after ?? undefined, 0).filter(
    ({ field, before, after }) => !USUAL.has(field) && before !== after && !(saysNothing(before) && saysNothing(after)),
  );
}

/** As what is not there: a record is made with many such fields. */
const saysNothing = (json: string | null): boolean => json === null || json === "null" || json === "{}";

function compared(field: string, before: unknown, after: unknown, depth: number): Difference[] {
  const [from, to] = [fieldsOf(before), fieldsOf(after)];
  const names = new Set([...(to?.keys() ?? []), ...(from?.keys() ?? [])]);
  const isObject = (from !== null || before === undefined) && (to !== null || after === undefined);
  if (!isObject || names.size === 0 || depth === MAX_DEPTH) {
    return [{ field, before: text(before), after: text(after) }];
  }
  return [...names].flatMap((name) =>
    compared(field === "" ? name : `${field}.${name}`, from?.get(name), to?.get(name), depth + 1),
  );
}

function fieldsOf(value: unknown): ReadonlyMap<string, unknown> | null {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? new Map(Object.entries(value)) : null;
}

const text = (value: unknown): string | null => (value === undefined ? null : JSON.stringify(value));
