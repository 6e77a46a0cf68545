/** A page of a stored response's input items. */
import { err, ok, type Result } from "../../result.ts";
import type { Failure } from "../errors.ts";
import { type Fields, refuse } from "./draft.ts";

/** As OpenAI's. */
const DEFAULT_LIMIT = 20;
const MAX_LIMIT = 100;

type Query = {
  readonly limit?: string | undefined;
  /** Of the input; `desc`, its newest item first, unless it says `asc`. */
  readonly order?: string | undefined;
  /** Begin behind the item with this id. */
  readonly after?: string | undefined;
};

/** The page that is asked for, of the body's `input` as it came. Items without an id get one that stays the same. */
export function listInputItems(responseId: string, input: unknown, query: Query): Result<string, Failure> {
  const limit = query.limit === undefined ? DEFAULT_LIMIT : Number(query.limit);
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LIMIT) {
    return err(refuse(`limit: must be a whole number from 1 to ${MAX_LIMIT}`, "limit"));
  }
  const { order = "desc", after } = query;
  if (order !== "asc" && order !== "desc") return err(refuse("order: must be asc or desc", "order"));
  const items = (Array.isArray(input) ? input : [input]).map((item: unknown, at) => itemOf(item, at, responseId));
  if (order === "desc") items.reverse();
  const from = after === undefined ? 0 : items.findIndex(({ id }) => id === after) + 1;
  if (after !== undefined && from === 0) return err(refuse(`after: there is no item '${after}'`, "after"));
  const data = items.slice(from, from + limit);
  return ok(
    JSON.stringify({
      object: "list",
      data,
      first_id: data[0]?.id ?? null,
      last_id: data.at(-1)?.id ?? null,
      has_more: from + limit < items.length,
    }),
  );
}

/** An item as OpenAI lists it: short forms of a message written out, all of them with an id. */
function itemOf(item: unknown, at: number, responseId: string): Fields & { readonly id: unknown } {
  const id = `msg_${responseId.slice(responseId.indexOf("_") + 1)}_${at}`;
  if (typeof item === "string") return message({ id }, "user", item);
  if (typeof item !== "object" || item === null) return { id };
  const fields: Fields & { readonly id: unknown } = { id, ...item };
  const { type, role, content } = fields;
  if (type !== undefined && type !== "message") return fields;
  return typeof content === "string" ? message(fields, role, content) : { ...fields, type: "message" };
}

function message(fields: Fields & { readonly id: unknown }, role: unknown, text: string) {
  const content = [{ type: role === "assistant" ? "output_text" : "input_text", text }];
  return { ...fields, type: "message", role, status: "completed", content };
}
