/** The Worker's way to the object of a conversation. */
import { clock } from "../hotpath/leases.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { asciiJson, type ConversationObject, FAILURE_HEADER, SENDER_HEADER, type Sender } from "./protocol.ts";

/** Waits between attempts, ms: an object that was reset is there again at once, elsewhere a moment later. */
const AGAIN_AFTER_MS = [50, 250];
const RETRY_AFTER_MS = 1_000;
/** An object that was there for so long before it failed, ms, has not failed in a row: it goes on after each reset. */
const LIVED_MS = 5_000;

const away = (retryAfterMs: number): Failure => ({ kind: "unavailable", what: "The conversation", retryAfterMs });

/** What of a namespace is used here. */
export type Objects = { getByName(name: string): unknown };

export type Remote = {
  /**
   * Asks the object. `again`: the question may be asked twice, and is where the platform says that it might help (an object
   * that was reset or moved). An object with too much to do is never asked again. What the object itself throws is a bug.
   */
  ask<T>(
    again: boolean,
    question: (object: ConversationObject) => Promise<Result<T, Failure>>,
  ): Promise<Result<T, Failure>>;
  /** The same for what has no other way than a request: streams and sockets. */
  fetch(path: string, sender: Sender, headers?: Readonly<Record<string, string>>): Promise<Result<Response, Failure>>;
};

/** The name of a conversation's object. Neither part can hold a space. */
export function objectName(workspace: string, id: string): string {
  return `${workspace} ${id}`;
}

export function remoteOf(objects: Objects, workspace: string, id: string): Remote {
  const name = objectName(workspace, id);
  const ask: Remote["ask"] = async (again, question) => {
    for (let attempt = 0; ; attempt++) {
      const asked = clock.now();
      try {
        // A stub that has failed stays broken: each attempt has its own.
        return await question(objects.getByName(name) as ConversationObject);
      } catch (error) {
        if (clock.now() - asked >= LIVED_MS) attempt = 0;
        const wait = AGAIN_AFTER_MS[attempt];
        const is = (flag: string): boolean => error instanceof Error && Reflect.get(error, flag) === true;
        if (is("overloaded")) return err(away(RETRY_AFTER_MS));
        if (!is("retryable")) {
          if (is("remote")) throw error;
          return err(away(RETRY_AFTER_MS));
        }
        if (!again || wait === undefined) return err(away(RETRY_AFTER_MS));
        await clock.wait(wait);
      }
    }
  };
  return {
    ask,
    fetch: (path, sender, headers = {}) =>
      ask(true, async (object) => {
        const request = new Request(`https://conversation.internal${path}`, {
          headers: { ...headers, [SENDER_HEADER]: asciiJson(sender) },
        });
        const response = await object.fetch(request);
        const failure = response.headers.get(FAILURE_HEADER);
        return failure === null ? ok(response) : err(JSON.parse(failure) as Failure);
      }),
  };
}
