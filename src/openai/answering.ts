/** How answers are told and what is kept of them, in each of the two forms of OpenAI's API. */
import { asTold, linkText, ownTurns } from "../wire/openai/chain.ts";
import { chatAnswer } from "../wire/openai/chat-answer.ts";
import { chatStream } from "../wire/openai/chat-stream.ts";
import type { Draft, Fields, Telling } from "../wire/openai/draft.ts";
import { responseId, responsesAnswer } from "../wire/openai/responses-answer.ts";
import { responsesStream } from "../wire/openai/responses-stream.ts";
import type { StreamMapper, WholeMessage } from "../wire/openai/stream-mapper.ts";
import { callsToRemember } from "../wire/openai/thinking.ts";
import type { Memory } from "./memory.ts";
import type { ReasoningSealer } from "./sealed-reasoning.ts";
import type { Answering, Named } from "./tell.ts";

/** A call whose body has been read, and whom it may ask. */
export type Asked = {
  readonly body: Fields;
  readonly draft: Draft;
  readonly memory: Memory;
  readonly sealer: ReasoningSealer;
};

/** As a Chat Completion, which is not stored. */
export class ChatAnswering implements Answering {
  readonly telling: Telling;
  readonly #memory: Memory;

  constructor({ draft, memory }: Asked) {
    this.telling = draft.telling;
    this.#memory = memory;
  }

  answer(message: WholeMessage, name: Named): string {
    return chatAnswer(message, name, this.telling);
  }

  stream(name: Named): StreamMapper {
    return chatStream(name, this.telling);
  }

  keep(message: WholeMessage, name: Named): Promise<void> | null {
    return rememberedTurn(message, name, this.telling, this.#memory);
  }
}

/** As a Response, stored unless the client says otherwise. */
export class ResponsesAnswering implements Answering {
  readonly telling: Telling;
  readonly #memory: Memory;
  readonly #sealer: ReasoningSealer;
  /** Held as long as the answer takes, and not the rest of the request. */
  readonly #input: unknown;
  /** What the draft adds to its conversation, as it is before any step; JSON. */
  readonly #added: string;

  constructor({ body, draft, memory, sealer }: Asked) {
    this.telling = draft.telling;
    this.#memory = memory;
    this.#sealer = sealer;
    const { store } = this.telling;
    this.#input = store ? body.input : undefined;
    this.#added = store ? ownTurns(draft) : "";
  }

  answer(message: WholeMessage, name: Named): Promise<string> {
    return responsesAnswer(message, name, this.telling, this.#sealer.sealOf(name.organization));
  }

  stream(name: Named): StreamMapper {
    return responsesStream(name, this.telling, this.#sealer.sealOf(name.organization));
  }

  /** `store: false` keeps nothing, not for a day either: such a client has its thinking encrypted. */
  keep(message: WholeMessage, name: Named, body?: string): Promise<void> | null {
    return this.telling.store ? this.#store(message, name, body) : null;
  }

  async #store(message: WholeMessage, name: Named, told?: string): Promise<void> {
    const remembered = rememberedTurn(message, name, this.telling, this.#memory);
    await this.#memory.storeResponse({
      id: responseId(message.id, name),
      parent: this.telling.previousResponseId,
      turns: linkText(this.#added, message, name.organization, this.telling),
      object: told ?? (await this.answer(message, name)),
      input: this.#input,
    });
    await remembered;
  }
}

function rememberedTurn(
  message: WholeMessage,
  { organization }: Named,
  telling: Telling,
  memory: Memory,
): Promise<void> | null {
  if (callsToRemember(message).length === 0) return null;
  return memory.rememberTurn({ ...message, content: asTold(message.content, telling) }, organization);
}
