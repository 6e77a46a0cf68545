/** Reads answers to those who listen: sentence by sentence, since nobody can listen to halves of words. */
import { at, el } from "./dom.ts";

const KEEP = 20;

export class Reader {
  readonly #root = at("announce", HTMLElement);
  #pending = "";

  hear(text: string): void {
    this.#pending += text;
    const end = Math.max(...[". ", "! ", "? ", "\n"].map((mark) => this.#pending.lastIndexOf(mark)));
    if (end >= 0) this.#read(end + 1);
  }

  /** The answer has ended. */
  finish(note: string): void {
    this.#read(this.#pending.length);
    if (note !== "") this.#say(note);
  }

  #read(length: number): void {
    const text = this.#pending.slice(0, length).trim();
    this.#pending = this.#pending.slice(length);
    if (text !== "") this.#say(text);
  }

  #say(text: string): void {
    this.#root.append(el("p", {}, text));
    while (this.#root.childElementCount > KEEP) this.#root.firstElementChild?.remove();
  }
}
