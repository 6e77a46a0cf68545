/** The change log, newest first, a page at a time. What stands in it was written by others: it is only ever text. */
import { differences } from "./differences.ts";
import { at, el } from "./dom.ts";

export type Change = {
  readonly id: string;
  readonly at: string;
  readonly actor: string;
  readonly action: string;
  readonly target: string;
  readonly before: unknown;
  readonly after: unknown;
};
type Read = (
  cursor: string | null,
) => Promise<{ readonly data: readonly Change[]; readonly next_cursor: string | null }>;

const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
/** Characters of a value that are shown; a template's are many. */
const MAX_CHARS = 2_000;

export class ChangeList {
  readonly #root = at("changes", HTMLElement);
  readonly #more = at("more", HTMLButtonElement);
  readonly #read: Read;
  #next: string | null = null;
  /** Counts the lists that were begun: what belongs to an older one comes too late. */
  #begun = 0;

  constructor(read: Read) {
    this.#read = read;
  }

  /** Begins anew with the newest. Rejects as `read` does. */
  async first(): Promise<void> {
    await this.#page(null);
  }

  /** Adds the next page; resolves to how many were added. */
  async older(): Promise<number> {
    return this.#next === null ? 0 : this.#page(this.#next);
  }

  clear(): void {
    this.#begun++;
    this.#root.replaceChildren();
    this.#more.hidden = true;
  }

  async #page(cursor: string | null): Promise<number> {
    const list = cursor === null ? ++this.#begun : this.#begun;
    const { data, next_cursor } = await this.#read(cursor);
    if (list !== this.#begun) return 0;
    this.#next = next_cursor;
    const items = data.map(itemOf);
    if (cursor !== null) this.#root.append(...items);
    else this.#root.replaceChildren(...(items.length > 0 ? items : [el("li", { class: "small" }, "None yet.")]));
    this.#more.hidden = next_cursor === null;
    return items.length;
  }
}

function itemOf(change: Change): HTMLElement {
  const { action, target, actor } = change;
  const name = nameOf(change);
  const what = el("span", { class: "name" }, el("strong", {}, action), " ", el("bdi", {}, name ?? target));
  const when = el("time", { attributes: { datetime: change.at } }, moment.format(new Date(change.at)));
  const by = el("span", { class: "small" }, when, " · by ", el("bdi", {}, actor));
  const item = el("details", {}, el("summary", {}, what, by));
  // Made when it is looked at: most never are.
  item.addEventListener("toggle", () => item.append(...detailsOf(change)), { once: true });
  return el("li", {}, item);
}

/** What people call the record; null: it has no name beside its id. */
function nameOf({ before, after }: Change): string | null {
  const record = after ?? before;
  if (typeof record !== "object" || record === null || !("name" in record)) return null;
  return typeof record.name === "string" ? record.name : null;
}

function detailsOf({ target, before, after }: Change): HTMLElement[] {
  const found = differences(before, after);
  const fields = found.flatMap((one) => [
    el("dt", {}, one.field),
    el(
      "dd",
      { attributes: { dir: "auto" } },
      ...valueNodes("del", "Before: ", one.before),
      ...valueNodes("ins", "After: ", one.after),
    ),
  ]);
  const none = found.length === 0 ? [el("p", { class: "small" }, "No field that is shown has another value.")] : [];
  return [el("p", { class: "small" }, target), ...none, el("dl", { class: "facts" }, ...fields)];
}

function valueNodes(kind: "del" | "ins", said: string, value: string | null): HTMLElement[] {
  if (value === null) return [];
  const shown = value.length > MAX_CHARS ? `${value.slice(0, MAX_CHARS)} … (${value.length} characters)` : value;
  return [el(kind, {}, el("span", { class: "unseen" }, said), shown)];
}
