/**
 * How a caller speaks, if not as Claude does. The relay knows nothing of it but this: a body becomes a Messages body, and
 * what is answered is told in the caller's own way.
 */
import type { AuditRecord } from "../audit/record.ts";
import { type AppContext, fail } from "../context.ts";
import { ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import type { Caller } from "./authenticate.ts";

export type Dialect = {
  readonly name: AuditRecord["dialect"];
  /** Its routes' queries mean nothing to the upstream. */
  readonly ownQuery: boolean;
  /** Its bodies are no larger. */
  readonly maxBodyBytes: number;
  /** The Messages call that a body asks for. */
  readonly translate: (c: AppContext, caller: Caller, body: Uint8Array) => Promise<Result<Translated, Failure>>;
  /** An answer of the gateway's own, to a call without a body, with what the dialect adds to every one. */
  readonly own: (c: AppContext, answer: Response) => Response;
  /** The answer to a call that failed before there was one. `headers` are added to the failure's own. */
  readonly fail: (c: AppContext, failure: Failure, headers: Readonly<Record<string, string>>) => Response;
};

export type Translated = {
  /** A Messages body. */
  readonly body: Uint8Array;
  /** Request headers that it needs, over the client's: the API's version, betas. */
  readonly headers: Readonly<Record<string, string>>;
  /** What ties the calls of a conversation together; null: nothing that the body says. */
  readonly conversation: string | null;
  /** As `Wanted.thoughtsOf`, of the body's thinking. */
  readonly thoughtsOf?: string | null;
  /** Whose words the body is made of, for the audit; left out: the caller's own. */
  readonly template?: { readonly name: string; readonly version: number };
  /** Tells an answer of the upstream's: a message, a stream of events, an error. Its headers hold the gateway's own already. */
  readonly tell: (answer: Response) => Response | Promise<Response>;
};

/** What needs no headers of its own. */
export const NO_HEADERS: Translated["headers"] = {};

/** Claude's own: everything stays as it is. */
export const NATIVE: Dialect = {
  name: "anthropic",
  ownQuery: false,
  maxBodyBytes: Number.POSITIVE_INFINITY,
  translate: async (_c, _caller, body) =>
    ok({ body, headers: NO_HEADERS, conversation: null, tell: (answer) => answer }),
  own: (_c, answer) => answer,
  fail,
};
