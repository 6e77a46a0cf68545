/**
 * What an isolate asks of a key's store of turns. Every question has a deadline. What only helps (thinking of earlier
 * turns) is done without when the store is away; what a call can't be answered without (the response that it goes on
 * from) is an honest failure.
 *
 * A write that is late goes on by itself, in what the caller's `background` keeps alive. Left open: a client that goes on
 * before it has arrived finds nothing.
 */
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { parseJson } from "../wire/json.ts";
import type { Link } from "../wire/openai/chain.ts";
import { refuse } from "../wire/openai/draft.ts";
import type { WholeMessage } from "../wire/openai/stream-mapper.ts";
import { callsToRemember, type RecalledTurn } from "../wire/openai/thinking.ts";
import { within } from "../within.ts";
import {
  MAX_CHAIN_BYTES,
  MAX_CHAIN_LENGTH,
  MAX_ID_CHARS,
  MAX_RECALLED_CALLS,
  MAX_RESPONSE_BYTES,
  MAX_TURN_BYTES,
  type ResponsePart,
  type TurnStoreObject,
} from "./store-protocol.ts";

/** What a call waits for thinking, to find it and to have it kept: as much as it may be late without being felt as broken. */
const THINKING_DEADLINE_MS = 1_000;
/** What a call waits for a stored response, which it can't be answered without. */
const RESPONSE_DEADLINE_MS = 5_000;
/** An object that is moved, or of a release that ends, says that the question may be put once more. */
const ATTEMPTS = 2;

const AWAY: Failure = { kind: "unavailable", what: "The store of responses", retryAfterMs: 1_000 };

export type NewResponse = {
  readonly id: string;
  /** The `previous_response_id` that it goes on from. */
  readonly parent: string | null;
  /** What `linkText` says of it. */
  readonly turns: string;
  /** The response object, JSON, as the client is told it. */
  readonly object: string;
  /** The body's `input`. */
  readonly input: unknown;
};

type Said = Pick<RecalledTurn, "organization" | "blocks">;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The memory of one key. */
export class Memory {
  readonly #env: Env;
  readonly #keyId: string;
  readonly #background: (work: Promise<unknown>) => void;

  /** `background` keeps late writes alive. */
  constructor(env: Env, keyId: string, background: (work: Promise<unknown>) => void) {
    this.#env = env;
    this.#keyId = keyId;
    this.#background = background;
  }

  /** The turns that these calls belong to, as far as they are remembered. None where the store is away. */
  async thinkingFor(calls: readonly string[]): Promise<readonly RecalledTurn[]> {
    const asked = calls.filter(isId).slice(0, MAX_RECALLED_CALLS);
    if (asked.length === 0) return [];
    const turns = await this.#read(THINKING_DEADLINE_MS, (store) => store.recall(asked));
    if (!turns.ok) return [];
    return turns.value.map(({ model, said }) => ({ model, ...(parseJson(decoder.decode(said)) as Said) }));
  }

  /** Resolves when a turn with thinking and tool calls is kept, or when it can't be. Of other turns nothing is. */
  async rememberTurn(message: WholeMessage, organization: string | null): Promise<void> {
    const calls = callsToRemember(message).filter(isId);
    if (calls.length === 0) return;
    const { id, model } = message;
    const said = encoder.encode(JSON.stringify({ organization, blocks: message.content } satisfies Said));
    if (said.byteLength > MAX_TURN_BYTES) return;
    await this.#write(THINKING_DEADLINE_MS, (store) => store.remember({ id, model, calls, said }));
  }

  /** What the responses up to this one have added, the oldest first. */
  async response(id: string): Promise<Result<readonly Link[], Failure>> {
    if (!isId(id)) return err(notFound(id));
    const chain = await this.#read(RESPONSE_DEADLINE_MS, (store) => store.chain(id));
    if (!chain.ok) return chain;
    switch (chain.value.kind) {
      case "missing":
        return err(notFound(chain.value.id));
      case "too_long":
        return err(tooLong(`more than ${MAX_CHAIN_LENGTH} responses`));
      case "too_large":
        return err(tooLong(`more than ${MAX_CHAIN_BYTES} bytes`));
      case "whole":
        return ok(chain.value.turns.map((turns) => parseJson(decoder.decode(turns)) as Link));
    }
  }

  /** What one response has added. */
  async link(id: string): Promise<Result<Link, Failure>> {
    const turns = await this.part(id, "turns");
    if (!turns.ok) return turns;
    return turns.value === null ? err(notFound(id)) : ok(parseJson(turns.value) as Link);
  }

  /** Resolves when it is kept, or when it can't be. */
  async storeResponse({ id, parent, turns, object, input }: NewResponse): Promise<void> {
    const items = encoder.encode(JSON.stringify(input ?? []));
    const parts = { turns: encoder.encode(turns), object: encoder.encode(object), items };
    const bytes = parts.turns.byteLength + parts.object.byteLength + items.byteLength;
    const kept = bytes <= MAX_RESPONSE_BYTES ? parts : null;
    await this.#write(RESPONSE_DEADLINE_MS, (store) => store.keep({ id, parent, parts: kept }));
  }

  /** A part of a stored response as it was kept; null: there is none. */
  async part(id: string, part: ResponsePart): Promise<Result<string | null, Failure>> {
    if (!isId(id)) return ok(null);
    const bytes = await this.#read(RESPONSE_DEADLINE_MS, (store) => store.read(id, part));
    return bytes.ok ? ok(bytes.value && decoder.decode(bytes.value)) : bytes;
  }

  /** From now on it is not found, nor what goes on from it. False: there was none. */
  async forget(id: string): Promise<Result<boolean, Failure>> {
    return isId(id) ? this.#read(RESPONSE_DEADLINE_MS, (store) => store.drop(id)) : ok(false);
  }

  /** A write that is given `ms` to be done with, and then goes on by itself. */
  async #write(ms: number, act: (store: TurnStoreObject) => Promise<void>): Promise<void> {
    const work = ask(this.#env, this.#keyId, act).catch(away);
    this.#background(work);
    await within(ms, work).catch(away);
  }

  async #read<T>(ms: number, act: (store: TurnStoreObject) => Promise<T>): Promise<Result<T, Failure>> {
    try {
      return ok(await within(ms, ask(this.#env, this.#keyId, act)));
    } catch (error) {
      away(error);
      return err(AWAY);
    }
  }
}

/** Forgets all that is kept of a key. An object that can't be told looks by itself, once a day, whether its key is revoked. */
export async function emptyMemory(env: Env, keyId: string): Promise<void> {
  await ask(env, keyId, (store) => store.empty()).catch(away);
}

/** What is asked is the same asked twice. */
async function ask<T>(env: Env, keyId: string, act: (store: TurnStoreObject) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await act(env.TURN_STORE.getByName(keyId) as unknown as TurnStoreObject);
    } catch (error) {
      const again = error instanceof Error && "retryable" in error && error.retryable === true;
      if (!again || attempt === ATTEMPTS) throw error;
    }
  }
}

function away(error: unknown): void {
  console.error(JSON.stringify({ level: "error", msg: "turn_store_away", error: String(error).slice(0, 200) }));
}

function isId(id: string): boolean {
  return id.length > 0 && id.length <= MAX_ID_CHARS;
}

function notFound(id: string): Failure {
  const named = isId(id) ? ` with id '${id}'` : "";
  return refuse(`Previous response${named} not found.`, "previous_response_id", "previous_response_not_found");
}

function tooLong(what: string): Failure {
  return refuse(
    `The conversation behind previous_response_id is too long: ${what}. Send it in \`input\`, or a shorter one.`,
    "previous_response_id",
    "previous_response_too_long",
  );
}
