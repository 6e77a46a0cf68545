import { parseBeside, parseChange } from "../../templates/input.ts";
import { parseGiven } from "../../templates/version.ts";
import { answer, orStream, PAGE, type Tag } from "../operation.ts";
import {
  between,
  either,
  fieldsOfClaude,
  list,
  mapOf,
  object,
  oneOf,
  orNull,
  pageOf,
  readBy,
  ref,
  text,
  time,
  whole,
} from "../schema.ts";
import { BETA_HEADER, CACHE, EVENTS, IDEMPOTENCY } from "./messages.ts";

const CALL = { variables: { product: "Tea" }, messages: [{ role: "user", content: "Where is my order?" }] };
const RENDERED = {
  model: "claude-opus-5-5",
  max_tokens: 300,
  system: "You answer questions about Tea.",
  messages: CALL.messages,
};
const PUBLICATION = {
  model: RENDERED.model,
  max_tokens: RENDERED.max_tokens,
  system: "You answer questions about {{product}}.",
  variables: { properties: { product: { type: "string" } }, required: ["product"] },
  labels: ["production"],
  note: "first",
};
const content = {
  system: ref("ClaudeContent"),
  messages: list(ref("ClaudeTurn")),
  tools: list(fieldsOfClaude),
  defaults: fieldsOfClaude,
  variables: { type: "object", description: "JSON Schema of an object: what may stand for the variables." },
  operator: { ...list(text), description: "Fields that a caller may not set; `system` and `tools` unless it is said." },
};
const summary = {
  name: text,
  version: whole,
  labels: list(text),
  note: orNull(text),
  created_by: text,
  created_at: time,
};
const version = { schema: between(1, 999_999_999), required: true, example: 1 } as const;

export const templates: Tag = {
  name: "Templates",
  description: "Prompts that are kept at the gateway: calls in their words, and their versions.",
  docs: "docs/templates.md",
  operations: [
    {
      id: "callTemplate",
      route: "POST /v1/templates/:name/messages",
      summary: "A call in a template's words",
      description:
        "Beside `variables` and `label` or `version` it takes the fields of a Messages body that the template leaves to its callers.",
      headers: { ...BETA_HEADER, ...IDEMPOTENCY, ...CACHE },
      body: { schema: ref("TemplateCall"), example: CALL },
      answers: {
        200: {
          ...orStream(answer("Claude's message.", ref("ClaudeMessage")), EVENTS),
          headers: { "x-sluice-template": { description: "`name@version` of the words.", schema: text } },
        },
      },
      errors: [402, 409, 422, 502, 504, 529],
    },
    {
      id: "renderTemplate",
      route: "POST /v1/templates/:name/render",
      summary: "The Messages body that such a call would send",
      description: "Takes one request and no tokens.",
      body: { schema: ref("TemplateCall"), example: CALL },
      answers: { 200: answer("The body.", ref("MessagesRequest"), RENDERED) },
    },
    {
      id: "listTemplates",
      route: "GET /admin/templates",
      summary: "Templates, by name",
      query: PAGE,
      answers: { 200: answer("A page of them.", pageOf(ref("Template"))) },
    },
    {
      id: "readTemplate",
      route: "GET /admin/templates/:name",
      summary: "One",
      answers: { 200: answer("The template.", ref("Template")) },
    },
    {
      id: "publishTemplate",
      route: "POST /admin/templates/:name",
      summary: "Publishes a version; the first makes the template",
      body: { schema: publication(), example: PUBLICATION },
      answers: { 201: answer("The version, with its number.", ref("TemplateVersion")) },
      errors: [409],
    },
    {
      id: "changeTemplate",
      route: "PATCH /admin/templates/:name",
      summary: "Rollout, rollback, archive",
      body: {
        schema: readBy(parseChange, { labels: ref("TemplateLabels") }),
        example: {
          labels: {
            production: 1,
            canary: [
              { version: 1, weight: 90 },
              { version: 2, weight: 10 },
            ],
          },
        },
      },
      answers: { 200: answer("The template as it is now.", ref("Template")) },
      errors: [409],
    },
    {
      id: "listTemplateVersions",
      route: "GET /admin/templates/:name/versions",
      summary: "Its versions, newest first",
      query: PAGE,
      answers: { 200: answer("A page of them.", pageOf(ref("TemplateVersionSummary"))) },
    },
    {
      id: "readTemplateVersion",
      route: "GET /admin/templates/:name/versions/:version",
      summary: "A version with what it holds",
      answers: { 200: answer("The version.", ref("TemplateVersion")) },
    },
    {
      id: "diffTemplate",
      route: "GET /admin/templates/:name/diff",
      summary: "What has changed between two versions",
      query: { from: version, to: version },
      answers: { 200: answer("The differences, in the order of the fields.", ref("TemplateDiff")) },
    },
  ],
  schemas: {
    TemplateCall: object(
      {},
      {
        variables: { type: "object" },
        label: { ...text, default: "production" },
        version: { ...whole, minimum: 1, description: "In place of a label." },
        messages: list(ref("ClaudeTurn")),
      },
    ),
    TemplateLabels: mapOf(
      either(whole, list(object({ version: { ...whole, minimum: 1 }, weight: between(1, 1_000_000) }))),
    ),
    Template: object({
      name: text,
      workspaces: orNull(list(text)),
      state: oneOf("active", "archived"),
      labels: ref("TemplateLabels"),
      newest_version: whole,
      revision: whole,
      created_at: time,
      updated_at: time,
    }),
    TemplateVersionSummary: object(summary),
    TemplateVersion: object({
      ...summary,
      content: object(
        {
          messages: content.messages,
          defaults: content.defaults,
          variables: content.variables,
          operator: content.operator,
        },
        { model: text, max_tokens: whole, system: content.system, tools: content.tools },
      ),
    }),
    TemplateDiff: object({
      name: text,
      from_version: whole,
      to_version: whole,
      differences: list(
        object(
          { path: text, change: oneOf("added", "removed", "changed") },
          { before: {}, after: {}, lines: list(object({ op: oneOf("same", "removed", "added"), text })) },
        ),
      ),
    }),
  },
};

/** Two readers share the body: what the version holds, and what stands beside it. */
function publication() {
  const held = readBy(parseGiven, content);
  const beside = readBy(parseBeside);
  return { ...held, properties: { ...Object(held.properties), ...Object(beside.properties) } };
}
