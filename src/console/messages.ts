/** The messages of a branch, and below them the turns that run or wait. */
import type { Content, ContextCut, Message } from "../../clients/typescript/protocol.ts";
import { GrowingAnswer, type Piece, piecesOf, wordsOf } from "./answer.ts";
import { button, el } from "./dom.ts";
import { type PieceView, shown, viewOf } from "./pieces.ts";
import { usageLine } from "./words.ts";

export type Actions = {
  edit(message: Message, words: string): void;
  regenerate(message: Message): void;
  /** Shows the branch that goes through this message. */
  go(message: string): void;
};

const WHO = { user: "You", assistant: "Claude" } as const;

function article(role: "user" | "assistant", ...children: readonly (Node | string)[]): HTMLElement {
  return el("article", { class: role, attributes: { "aria-label": WHO[role] } }, el("h2", {}, WHO[role]), ...children);
}

/** A message of the history with what can be done with it. */
export function messageView(message: Message, actions: Actions): HTMLElement {
  if (message.type === "summary") {
    const summary = el("summary", {}, "Summary of what was said before");
    return el("details", { class: "aside" }, summary, ...piecesOf(message.content).map(shown));
  }
  const root = article(message.role, ...bodyOf(message));
  if (message.incomplete) root.append(el("p", { class: "small" }, "This answer is not complete."));
  if (message.stop_reason === "max_tokens")
    root.append(el("p", { class: "small" }, "It ends here: the longest answer is reached."));
  if (message.stop_reason === "refusal") root.append(el("p", { class: "small" }, "Claude refused to go on."));
  const foot = el("footer", {}, ...branches(message, actions));
  const words = message.role === "user" ? wordsOf(message.content) : null;
  if (words !== null) foot.append(button("Edit", () => edit(root, words, (changed) => actions.edit(message, changed))));
  if (message.role === "assistant") foot.append(button("Answer again", () => actions.regenerate(message)));
  const { usage, cost_micro_usd: cost = 0 } = message;
  if (usage) foot.append(el("span", { class: "small usage" }, usageLine(usage, cost / 1e6)));
  root.append(foot);
  // What is typed into the form in its place survives whatever is drawn anew around it.
  return el("div", {}, root);
}

function bodyOf({ role, content }: { readonly role: "user" | "assistant"; readonly content: Content }): HTMLElement[] {
  if (role === "assistant") return piecesOf(content).map(shown);
  // What people type is shown as they typed it.
  return piecesOf(content).map((piece) =>
    piece.type === "text" ? el("p", { class: "typed", attributes: { dir: "auto" } }, piece.text) : shown(piece),
  );
}

function branches({ id, siblings }: Message, actions: Actions): HTMLElement[] {
  if (siblings.length < 2) return [];
  const here = siblings.indexOf(id);
  const to = (step: number, sign: string, name: string): HTMLButtonElement => {
    const other = siblings[here + step];
    const go = button(sign, () => other !== undefined && actions.go(other));
    go.setAttribute("aria-label", name);
    go.disabled = other === undefined;
    return go;
  };
  const place = el("span", { class: "small" }, `${here + 1} of ${siblings.length}`);
  return [to(-1, "‹", "Earlier version"), place, to(1, "›", "Later version")];
}

/** Puts a form in the message's place, until it is sent or given up. */
function edit(root: HTMLElement, words: string, send: (words: string) => void): void {
  const area = el("textarea", { attributes: { "aria-label": "Your message, in other words", rows: "3", dir: "auto" } });
  area.value = words;
  const form = el("form", { class: "edit" });
  const back = (): void => {
    form.replaceWith(root);
    root.querySelector<HTMLElement>("footer button")?.focus();
  };
  const submit = (): void => {
    const changed = area.value.trim();
    if (changed === "") return;
    back();
    send(changed);
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      back();
    } else if (sends(event) && event.target === area) {
      event.preventDefault();
      submit();
    }
  });
  const row = el("div", { class: "row" }, button("Cancel", back), el("button", { class: "primary" }, "Send"));
  form.append(area, row);
  root.replaceWith(form);
  area.focus();
}

/** Enter alone; not the one that ends a composition in an input method. */
export function sends(event: KeyboardEvent): boolean {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing;
}

/** A turn that is not in the history yet. */
export class LiveTurn {
  readonly root = el("div", { class: "live" });
  readonly #answer = article("assistant");
  readonly #wait = el("p", { class: "small wait pulse" }, "…");
  readonly #growing = new GrowingAnswer();
  readonly #views = new Map<Piece, PieceView>();
  #question: HTMLElement | undefined;

  /** What was asked; null where nothing new was said. */
  ask(content: Content | null): void {
    if (content === null || this.#question) return;
    this.#question = article("user", ...bodyOf({ role: "user", content }));
    this.root.prepend(this.#question);
  }

  /** What was asked stands in the history. */
  asked(): void {
    this.#question?.remove();
  }

  unsent(): void {
    this.#waitFor("Is sent as soon as there is a line.");
  }

  /** `takeBack`: how it is taken out of the queue. */
  queued(takeBack: () => void): void {
    this.#waitFor("Waits until the answer before it is complete.");
    this.#wait.append(" ", button("Take it back", takeBack));
    this.#wait.classList.remove("pulse");
  }

  started(): void {
    this.#waitFor("…");
    this.#wait.classList.add("pulse");
    this.#answer.setAttribute("aria-busy", "true");
  }

  cut(cut: ContextCut): void {
    const how = cut.summary === null ? "are left out of" : "are summarized in";
    this.#answer.append(el("p", { class: "small" }, `${cut.messages} earlier messages ${how} what Claude sees.`));
  }

  /** Shows what an event brings; returns the text that is new. */
  take(event: { readonly type: string; readonly [field: string]: unknown }): string {
    const news = this.#growing.take(event);
    if (!news) return "";
    const { piece, text, input } = news;
    let view = this.#views.get(piece);
    if (!view) {
      view = viewOf(piece);
      this.#views.set(piece, view);
      this.#answer.append(view.root);
    }
    view.append(text, input);
    this.#wait.remove();
    return piece.type === "text" ? text : "";
  }

  ended(note: string): void {
    this.#wait.remove();
    for (const view of this.#views.values()) view.flush();
    this.#answer.setAttribute("aria-busy", "false");
    if (note !== "") this.#answer.append(el("p", { class: "small" }, note));
  }

  #waitFor(words: string): void {
    this.#wait.textContent = words;
    this.#answer.append(this.#wait);
    this.root.append(this.#answer);
  }
}
