/** What is to be known about the line: nothing while it holds. */
import { CLOSE, type SluiceError, type Status } from "../../clients/typescript/index.ts";
import { at } from "./dom.ts";
import { inWords } from "./words.ts";

/** A line that opens within this time, ms, is not worth a word. */
const SOON_MS = 800;

/** What can be done where no trying helps. */
const ENDS = new Map([
  ["authentication_error", "Give another key"],
  ["not_found_error", "Close it"],
]);

export class Banner {
  readonly #root = at("banner", HTMLElement);
  readonly #text = at("banner-text", HTMLElement);
  /** Not read out: it changes every second. */
  readonly #when = at("banner-when", HTMLElement);
  readonly #button = at("banner-do", HTMLButtonElement);
  #timer: ReturnType<typeof setInterval> | undefined;
  #run: () => void = () => {};

  constructor() {
    this.#button.addEventListener("click", () => this.#run());
  }

  /** `now`: tries without waiting; `anew`: what to do when no trying would help. */
  show(status: Status, now: () => void, anew: (error: SluiceError) => void): void {
    clearInterval(this.#timer);
    switch (status.state) {
      case "open":
        this.#root.hidden = true;
        return;
      case "connecting":
        this.#run = () => {};
        this.#timer = setInterval(() => this.#say("Connecting…", null), SOON_MS);
        return;
      case "waiting": {
        const why = status.code === CLOSE.limited ? "The key's limit is reached for now." : "The line dropped.";
        const count = (): void => {
          const seconds = Math.max(0, Math.ceil((status.retryAt - Date.now()) / 1_000));
          this.#say(`${why} Nothing is lost.`, "Try now", `Trying again in ${seconds} s.`);
        };
        this.#run = now;
        this.#timer = setInterval(count, 1_000);
        count();
        return;
      }
      case "closed": {
        const { error } = status;
        this.#root.hidden = true;
        if (error === null) return;
        this.#run = () => anew(error);
        this.#say(inWords(error), ENDS.get(error.type) ?? "Try again");
      }
    }
  }

  hide(): void {
    clearInterval(this.#timer);
    this.#root.hidden = true;
  }

  #say(text: string, button: string | null, when = ""): void {
    if (this.#text.textContent !== text) this.#text.textContent = text;
    this.#when.textContent = when;
    this.#button.textContent = button;
    this.#button.hidden = button === null;
    this.#root.hidden = false;
  }
}
