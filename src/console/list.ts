/** The conversations of the key's workspace, newest first, a page at a time. */
import type { ConversationSummary, SluiceClient } from "../../clients/typescript/index.ts";
import { at, button, el } from "./dom.ts";

const PAGE = 30;
/** Of a conversation in which nothing was said. */
const EMPTY = "Nothing said yet";
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export class ConversationList {
  readonly #client: SluiceClient;
  readonly #root = at("list", HTMLElement);
  readonly #more = at("more", HTMLButtonElement);
  readonly #open: (id: string) => void;
  readonly #problem: (error: unknown) => void;
  #shown: readonly ConversationSummary[] = [];
  #next: string | null = null;
  #current: string | null = null;

  constructor(client: SluiceClient, open: (id: string) => void, problem: (error: unknown) => void) {
    this.#client = client;
    this.#open = open;
    this.#problem = problem;
    this.#more.onclick = () => {
      this.#read(this.#next ?? undefined).catch(problem);
    };
  }

  /** Rejects with a `SluiceError`: this is also how a key is tried. */
  async first(): Promise<void> {
    this.#shown = [];
    await this.#read();
  }

  /** Reads the first page again, for a conversation that is new or gone. */
  refresh(): void {
    this.first().catch(this.#problem);
  }

  /** A conversation as it is known now: the gateway's list hears of it a moment later. */
  tell(known: ConversationSummary): void {
    const shown = this.#shown.find(({ id }) => id === known.id);
    if (!shown || (shown.updated_at === known.updated_at && titleOf(shown) === titleOf(known))) return;
    this.#shown = this.#shown.map((one) => (one === shown ? known : one));
    this.#draw();
  }

  mark(id: string | null): void {
    this.#current = id;
    this.#draw();
  }

  async #read(cursor?: string): Promise<void> {
    const page = await this.#client.listConversations({ limit: PAGE, ...(cursor === undefined ? {} : { cursor }) });
    this.#shown = [...(cursor === undefined ? [] : this.#shown), ...page.data];
    this.#next = page.has_more ? page.next_cursor : null;
    this.#draw();
  }

  #draw(): void {
    this.#more.hidden = this.#next === null;
    const items = this.#shown.map((one) => {
      const go = button("", () => this.#open(one.id), "item");
      const when = el("span", { class: "small" }, day.format(new Date(one.updated_at)));
      go.append(el("span", { class: "name", attributes: { dir: "auto" } }, titleOf(one)), when);
      if (one.id === this.#current) go.setAttribute("aria-current", "true");
      return el("li", {}, go);
    });
    this.#root.replaceChildren(...(items.length > 0 ? items : [el("li", { class: "small" }, "None yet.")]));
  }
}

export function titleOf({ metadata, model, turns }: Pick<ConversationSummary, "metadata" | "model" | "turns">): string {
  return metadata.title || (turns === 0 ? EMPTY : model);
}
