/**
 * The description of the API, OpenAPI 3.1. What the router knows comes from it (paths, methods, what each needs of its
 * caller), and what bodies are read by from their readers; the rest stands in `tags`, a page each. It is made when the
 * gateway is built and is no part of the Worker (scripts/build.ts). Throws where a page and the router are at odds.
 */
import { routes } from "../app.ts";
import { VERSION } from "../health.ts";
import { holds, mayControl, type Needs, neededFor, SCOPES } from "../identity/scopes.ts";
import { openAIRoot } from "../wire/openai/endpoints.ts";
import {
  COMMON_HEADERS,
  CREDENTIALS,
  failureName,
  failureResponse,
  HEADERS,
  SESSION,
  SHARED_SCHEMAS,
  type Words,
} from "./components.ts";
import type { Answer, Operation, Parameter, Tag } from "./operation.ts";
import { audit } from "./tags/audit.ts";
import { batches } from "./tags/batches.ts";
import { conversations } from "./tags/conversations.ts";
import { files } from "./tags/files.ts";
import { issuers } from "./tags/issuers.ts";
import { keys } from "./tags/keys.ts";
import { messages } from "./tags/messages.ts";
import { models } from "./tags/models.ts";
import { openai } from "./tags/openai.ts";
import { ownKey } from "./tags/own-key.ts";
import { prices } from "./tags/prices.ts";
import { service } from "./tags/service.ts";
import { sessions } from "./tags/sessions.ts";
import { templates } from "./tags/templates.ts";
import { upstreams } from "./tags/upstreams.ts";
import { workspaces } from "./tags/workspaces.ts";

const TAGS: readonly Tag[] = [
  ...[messages, models, openai, batches, files, ownKey, templates, conversations],
  ...[keys, workspaces, upstreams, issuers, sessions, audit, prices, service],
];

/** Parts of paths, by what the router calls them. */
const PATH_PARTS: Readonly<Record<string, string>> = {
  id: "Its id.",
  name: "A template's name.",
  version: "A version's number.",
  vendor: "What stands before the slash of a model's name.",
  file: "A file's name.",
};

type Described = { readonly method: string; readonly path: string; readonly needs: Needs };

export function describe() {
  const pages = new Map(TAGS.flatMap((tag) => tag.operations.map((page) => [page.route, { page, tag }] as const)));
  const used = new Map<string, object>();
  const paths: Record<string, Record<string, object>> = {};
  for (const [method, path, handle] of routes) {
    const route = `${method} ${path}`;
    const found = pages.get(route);
    if (!found) throw new Error(`${route} is not described.`);
    pages.delete(route);
    const address = path.replace(/:(\w+)/g, "{$1}");
    paths[address] = {
      ...paths[address],
      [method.toLowerCase()]: operation(found.page, found.tag, { method, path, needs: handle.needs }, used),
    };
  }
  const [stale] = pages.keys();
  if (stale !== undefined) throw new Error(`${stale} is described, and there is no such route.`);
  return {
    openapi: "3.1.1",
    info: {
      title: "Sluice",
      version: VERSION,
      summary: "A gateway for the Claude API on Cloudflare's edge",
      description:
        "Paths work with and without `/v1`. Unknown fields and parameters of the gateway's own routes are refused with " +
        "their names. `x-sluice-scope` is what a route needs of its caller: a scope, `key` (any live one) or `none`.",
      license: { name: "MIT", identifier: "MIT" },
    },
    servers: [{ url: "/" }],
    tags: TAGS.map(({ name, description, docs }) => ({ name, description: `${description} More in ${docs}.` })),
    paths,
    components: {
      securitySchemes: { ...CREDENTIALS, ...SESSION },
      headers: COMMON_HEADERS,
      responses: Object.fromEntries(used),
      schemas: Object.assign({}, SHARED_SCHEMAS, ...TAGS.map(({ schemas }) => schemas ?? {})),
    },
  };
}

function operation(page: Operation, tag: Tag, route: Described, used: Map<string, object>): object {
  const { method, path, needs } = route;
  const scope = needs === "key" || needs === "nothing" ? needs : neededFor(method, needs);
  const words = [page.description, scopeWords(route)].filter((part) => part !== undefined);
  const parts = [...path.matchAll(/:(\w+)/g)].map(([, name = ""]) => name);
  const parameters = [
    ...parts.map((name) => ({
      name,
      in: "path",
      required: true,
      description: PATH_PARTS[name],
      schema: { type: "string" },
    })),
    ...parametersOf(page.query, "query"),
    ...parametersOf(page.headers, "header"),
  ];
  const { body } = page;
  return {
    operationId: page.id,
    tags: [tag.name],
    summary: page.summary,
    ...(words.length > 0 && { description: words.join(" ") }),
    "x-sluice-scope": scope === "nothing" ? "none" : scope,
    security: securityOf(route, scope),
    ...(parameters.length > 0 && { parameters }),
    ...(body && {
      requestBody: {
        required: body.optional !== true,
        content: {
          [body.type ?? "application/json"]: {
            schema: body.schema,
            ...(body.example !== undefined && { example: body.example }),
          },
        },
      },
    }),
    responses: { ...answersOf(page.answers), ...failuresOf(page, route, used) },
  };
}

function parametersOf(
  parameters: Readonly<Record<string, Parameter>> | undefined,
  where: "query" | "header",
): object[] {
  return Object.entries(parameters ?? {}).map(([name, said]) => ({ name, in: where, ...said }));
}

function answersOf(answers: Readonly<Record<number, Answer>>): object {
  return Object.fromEntries(
    Object.entries(answers).map(([status, said]) => [status, { ...said, headers: { ...HEADERS, ...said.headers } }]),
  );
}

/** Those that every route of its kind has, and its own, unless it answers with this status in a shape of its own. */
function failuresOf(page: Operation, route: Described, used: Map<string, object>): object {
  const { path, needs, method } = route;
  const takesBody = page.body !== undefined;
  const statuses = [
    ...(takesBody || page.query || page.headers ? [400] : []),
    ...(needs === "nothing" ? [] : [401, 429]),
    ...(needs === "nothing" || (needs === "key" && method === "GET") ? [] : [403]),
    ...(path.includes(":") && needs !== "nothing" ? [404] : []),
    ...(takesBody ? [413, 415] : []),
    ...(page.errors ?? []),
    ...[500, 503],
  ].filter((status) => page.answers[status] === undefined);
  const words = wordsOf(path);
  return Object.fromEntries(
    [...new Set(statuses)].map((status) => {
      const name = failureName(words, status);
      used.set(name, failureResponse(words, status));
      return [status, { $ref: `#/components/responses/${name}` }];
    }),
  );
}

function wordsOf(path: string): Words {
  if (openAIRoot(path) !== null) return "OpenAIError";
  return path.startsWith("/v1/models") ? "ModelsError" : "Error";
}

const isControl = (path: string): boolean => path.startsWith("/admin/") || path === "/metrics";

/** The scope that is needed stands in the list of each way to show it. */
function securityOf({ method, path }: Described, scope: Needs): object[] {
  if (scope === "nothing") return [];
  const roles = scope === "key" ? [] : [scope];
  const credentials = Object.keys(CREDENTIALS).map((name) => ({ [name]: roles }));
  if (!isControl(path) || `${method} ${path}` === "POST /admin/session") return credentials;
  return [...credentials, { session: roles, ...(method !== "GET" && { csrf: [] }) }];
}

function scopeWords({ method, path, needs }: Described): string | undefined {
  if (needs === "nothing") return undefined;
  if (needs === "key") return "Any live key or token may ask.";
  const needed = neededFor(method, needs);
  const others = SCOPES.filter((scope) => {
    const lets = isControl(path) ? mayControl([scope], method, needs) : holds([scope], needs);
    return lets && scope !== needed;
  });
  const too = others.length > 0 ? ` (${others.map((scope) => `\`${scope}\``).join(" or ")} will do, too)` : "";
  return `Needs the scope \`${needed}\`${too}.`;
}
