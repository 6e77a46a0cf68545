/** The routes of conversations inside the Workers runtime, with a stand-in for the objects behind them. */
import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { app } from "../../src/app.ts";
import type { ConversationObject, SENDER_HEADER, Sender } from "../../src/conversations/protocol.ts";
import { FAILURE_HEADER } from "../../src/conversations/protocol.ts";
import { err, ok } from "../../src/result.ts";
import type { Failure } from "../../src/wire/errors.ts";

const UNKNOWN: Failure = { kind: "not_found", what: "There is no such conversation." };
const SENDER = "x-sluice-sender" satisfies typeof SENDER_HEADER;

/** What an object does when it is asked; each may be put in place of the usual. */
type Deeds = Partial<Record<keyof ConversationObject, (...args: never[]) => unknown>>;

/** All objects: which were reached, and what they were asked. Made, one answers; else it knows nothing of itself. */
export class StandIns {
  readonly reached: string[] = [];
  readonly asked: { readonly name: string; readonly what: string; readonly with: readonly unknown[] }[] = [];
  readonly made = new Set<string>();
  deeds: Deeds = {};

  getByName(name: string): unknown {
    this.reached.push(name);
    const usual: Deeds = {
      create: (spec: { id: string }) => {
        this.made.add(name);
        return ok({ id: spec.id, type: "conversation", state: "idle" });
      },
      read: () => ok({ id: name.split(" ")[1], type: "conversation", context: {} }),
      change: (change: unknown) => ok({ id: name.split(" ")[1], changed: change }),
      remove: () => {
        this.made.delete(name);
        return ok(null);
      },
      messages: (query: unknown) => ok({ data: [], has_more: false, next_cursor: null, query }),
      send: () => ok({ kind: "turn", turn: TURN, state: "processing", after: 4, known: false }),
      ended: () => ok({ id: TURN, type: "turn", state: "completed", message: null }),
      cancel: () => ok({ id: name.split(" ")[1], type: "conversation" }),
      fetch: (request: Request) => fetched(request),
    };
    const act =
      (what: keyof ConversationObject) =>
      async (...args: never[]): Promise<unknown> => {
        this.asked.push({ name, what, with: args });
        if (this.deeds[what]) return this.deeds[what](...args);
        if (what === "create" || this.made.has(name)) return usual[what]?.(...args);
        return what === "fetch" ? failed(UNKNOWN) : err(UNKNOWN);
      };
    return Object.fromEntries(Object.keys(usual).map((what) => [what, act(what as keyof ConversationObject)]));
  }
}

export const TURN = "turn_01jd6v7q8r9s0t1v2w3x4y5z6a";

export const failed = (failure: Failure): Response =>
  new Response(null, { status: 400, headers: { [FAILURE_HEADER]: JSON.stringify(failure) } });

/** The sender that an object was told. */
export const senderIn = (request: Request): Sender => JSON.parse(request.headers.get(SENDER) ?? "null");

function fetched(request: Request): Response {
  const { pathname } = new URL(request.url);
  if (pathname !== "/socket") return new Response(`at ${request.url.slice("https://conversation.internal".length)}`);
  const { 0: client, 1: server } = new WebSocketPair();
  server.accept();
  server.send(JSON.stringify({ type: "ready" }));
  return new Response(null, { status: 101, webSocket: client });
}

export type Options = {
  readonly method?: string;
  readonly as?: string | null;
  readonly json?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly env?: Partial<Env> & Readonly<Record<string, unknown>>;
};

/** What calls leave to be done behind them: their settlements, which wait for others to travel with. */
const settling: Promise<void>[] = [];

/** Resolves when nothing of any call is left to be done. */
export async function settled(): Promise<void> {
  await Promise.all(settling.splice(0));
}

/** One call as the Worker gets it. */
export async function call(
  objects: StandIns | Env["CONVERSATION"],
  path: string,
  options: Options = {},
): Promise<Response> {
  const { json, as = null } = options;
  const context = createExecutionContext();
  const response = await app.fetch(
    new Request(`https://gw.test${path}`, {
      method: options.method ?? (json === undefined ? "GET" : "POST"),
      headers: {
        ...(as === null ? {} : { "x-api-key": as }),
        ...(json === undefined ? {} : { "content-type": "application/json" }),
        ...options.headers,
      },
      ...(json === undefined ? {} : { body: JSON.stringify(json) }),
    }),
    { ...env, ...options.env, CONVERSATION: objects as unknown as Env["CONVERSATION"] },
    context,
  );
  settling.push(waitOnExecutionContext(context));
  return response;
}

/** A key of a workspace. */
export async function keyOf(workspace: string, more: Readonly<Record<string, unknown>> = {}): Promise<string> {
  const response = await call(new StandIns(), "/admin/keys", {
    json: { name: "k", workspace, ...more },
    headers: { authorization: `Bearer ${env.ADMIN_TOKEN}` },
  });
  return (await response.json<{ key: string }>()).key;
}
