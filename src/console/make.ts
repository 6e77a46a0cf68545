/** The dialog in which a conversation is made. */
import { type Conversation, type SluiceClient, SluiceError } from "../../clients/typescript/index.ts";
import { at, el } from "./dom.ts";
import { inWords } from "./words.ts";

const USUAL_MODEL = "claude-opus-5-5";

export class MakeDialog {
  readonly #dialog = at("make", HTMLDialogElement);
  readonly #model = at("model", HTMLInputElement);
  readonly #system = at("system", HTMLTextAreaElement);
  readonly #thinking = at("thinking", HTMLInputElement);
  readonly #problem = at("make-problem", HTMLElement);
  #client: SluiceClient | undefined;
  #made: (conversation: Conversation) => void = () => {};

  constructor() {
    at("make-cancel", HTMLButtonElement).addEventListener("click", () => this.#dialog.close());
    at("make-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      this.#make().catch((error: unknown) => {
        this.#problem.textContent =
          error instanceof SluiceError ? inWords(error, error.retryAfterSeconds) : String(error);
      });
    });
  }

  show(client: SluiceClient, models: readonly string[], made: (conversation: Conversation) => void): void {
    this.#client = client;
    this.#made = made;
    this.#problem.textContent = "";
    at("models", HTMLElement).replaceChildren(...models.map((model) => el("option", { attributes: { value: model } })));
    if (this.#model.value === "")
      this.#model.value = models.includes(USUAL_MODEL) ? USUAL_MODEL : (models[0] ?? USUAL_MODEL);
    this.#dialog.showModal();
  }

  async #make(): Promise<void> {
    const system = this.#system.value.trim();
    const made = await this.#client?.createConversation({
      model: this.#model.value.trim(),
      ...(system === "" ? {} : { system }),
      ...(this.#thinking.checked ? { options: { thinking: { type: "adaptive" } } } : {}),
    });
    this.#dialog.close();
    if (made) this.#made(made);
  }
}
