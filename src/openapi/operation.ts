/** What a page of the description says of one route; the rest (scope, path, errors that all have) is told by the route. */
import type { Schema } from "./schema.ts";

export type Answer = {
  readonly description: string;
  /** By media type. None: no body. */
  readonly content?: Readonly<Record<string, { readonly schema: Schema; readonly example?: unknown }>>;
  readonly headers?: Readonly<Record<string, { readonly description: string; readonly schema: Schema }>>;
};

export type Parameter = {
  readonly schema: Schema;
  readonly description?: string;
  readonly required?: true;
  readonly example?: string | number;
};

export type Body = {
  readonly schema: Schema;
  readonly example?: unknown;
  /** It may be left out. */
  readonly optional?: true;
  /** JSON, unless it says otherwise. */
  readonly type?: string;
};

export type Operation = {
  /** The name of its function in generated clients. */
  readonly id: string;
  /** `GET /v1/key`, as the router has it. */
  readonly route: string;
  readonly summary: string;
  readonly description?: string;
  readonly query?: Readonly<Record<string, Parameter>>;
  readonly headers?: Readonly<Record<string, Parameter>>;
  readonly body?: Body;
  readonly answers: Readonly<Record<number, Answer>>;
  /** Statuses of failures beside those that every route of its kind has. */
  readonly errors?: readonly number[];
};

export type Tag = {
  readonly name: string;
  readonly description: string;
  /** The page that says more. */
  readonly docs: string;
  readonly operations: readonly Operation[];
  /** Shapes that its operations name. */
  readonly schemas?: Readonly<Record<string, Schema>>;
};

export const answer = (description: string, schema: Schema, example?: unknown): Answer => ({
  description,
  content: { "application/json": { schema, ...(example !== undefined && { example }) } },
});

/** Of an answer that is streamed or not, as the request says. */
export const orStream = (whole: Answer, event: string): Answer => ({
  ...whole,
  content: {
    ...whole.content,
    "text/event-stream": { schema: { type: "string", description: event } },
  },
});

export const NO_BODY = (description: string): Answer => ({ description });

export const PAGE: Readonly<Record<string, Parameter>> = {
  limit: { schema: { type: "integer", minimum: 1, maximum: 500, default: 100 }, description: "How many.", example: 10 },
  cursor: { schema: { type: "string" }, description: "`next_cursor` of the page before." },
};
