/** The form for results of tool calls: somebody has to say them before the conversation goes on. */
import type { Content, Message } from "../../clients/typescript/protocol.ts";
import { at, el } from "./dom.ts";

export class ToolResults {
  readonly #root = at("tools", HTMLFormElement);
  #send: (content: Content) => void = () => {};
  #shown = "";

  constructor() {
    this.#root.addEventListener("submit", (event) => {
      event.preventDefault();
      const areas = [...this.#root.querySelectorAll("textarea")];
      this.#send(areas.map(({ id, value }) => ({ type: "tool_result", tool_use_id: id, content: value })));
    });
  }

  /** The first field; null: no result is awaited. */
  get first(): HTMLElement | null {
    return this.#root.hidden ? null : this.#root.querySelector("textarea");
  }

  /** One field for each awaited call; none: the form goes. */
  show(awaited: readonly string[], messages: readonly Message[], send: (content: Content) => void): void {
    this.#send = send;
    this.#root.hidden = awaited.length === 0;
    // What is typed already stays.
    const calls = awaited.map((id) => ({ id, name: nameOf(id, messages) }));
    if (this.#shown === JSON.stringify(calls)) return;
    this.#shown = JSON.stringify(calls);
    const fields = calls.map(({ id, name }) => {
      const label = el("label", { attributes: { for: id } }, `Result of ${name}`);
      return el("div", {}, label, el("textarea", { id, attributes: { rows: "2" } }));
    });
    const words = el("p", { class: "small" }, "Claude waits for the results of its tool calls.");
    this.#root.replaceChildren(words, ...fields, el("button", { class: "primary" }, "Send results"));
  }
}

function nameOf(call: string, messages: readonly Message[]): string {
  const blocks = messages.flatMap(({ content }) => (typeof content === "string" ? [] : content));
  const name = blocks.find(({ id }) => id === call)?.name;
  return typeof name === "string" ? name : call;
}
