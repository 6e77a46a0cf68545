import { parseChangeIssuer, parseCreateIssuer, parseTestToken } from "../../admin/issuer-input.ts";
import { answer, PAGE, type Tag } from "../operation.ts";
import { either, flag, list, mapOf, object, oneOf, orNull, pageOf, readBy, ref, text, time, whole } from "../schema.ts";

const pattern = { ...text, description: "Exact, or a prefix that ends in `*`." };
const when = mapOf(either(pattern, list(pattern)));
const byHand = { "mappings.[].when": { ...when, description: "Claims by dotted path; all must hold." } };
const EXAMPLE = {
  name: "GitHub Actions",
  issuer: "https://token.actions.githubusercontent.com",
  audiences: ["sluice"],
  jwks_url: "https://token.actions.githubusercontent.com/.well-known/jwks",
  mappings: [
    {
      when: { repository: "acme/shop", ref: "refs/heads/main" },
      key: "key_01m7yvn10kkhtpy2favmpcatn2",
      scopes: ["messages"],
    },
  ],
};
const ONE = answer("The issuer.", ref("Issuer"));

export const issuers: Tag = {
  name: "Issuers",
  description: "Whose tokens are believed, and as which key they act.",
  docs: "docs/identity.md",
  operations: [
    {
      id: "createIssuer",
      route: "POST /admin/issuers",
      summary: "Stores an issuer",
      description: "One of `jwks_url` and `secret`, and not both.",
      body: { schema: readBy(parseCreateIssuer, byHand), example: EXAMPLE },
      answers: { 201: ONE },
      errors: [409],
    },
    {
      id: "listIssuers",
      route: "GET /admin/issuers",
      summary: "Issuers, newest first",
      query: PAGE,
      answers: { 200: answer("A page of them.", pageOf(ref("Issuer"))) },
    },
    { id: "readIssuer", route: "GET /admin/issuers/:id", summary: "One", answers: { 200: ONE } },
    {
      id: "changeIssuer",
      route: "PATCH /admin/issuers/:id",
      summary: "Changes the fields given; `jwks_url` and `secret` take each other's place",
      body: {
        schema: readBy(parseChangeIssuer, byHand),
        example: { blocked_subjects: ["repo:acme/shop:ref:refs/heads/old"] },
      },
      answers: { 200: ONE },
      errors: [409],
    },
    {
      id: "deleteIssuer",
      route: "DELETE /admin/issuers/:id",
      summary: "Removes it for good",
      answers: { 200: answer("The record as it was.", ref("Issuer")) },
      errors: [409],
    },
    {
      id: "testIssuer",
      route: "POST /admin/issuers/:id/test",
      summary: "Whether a token would be believed now, and as whom it acts",
      description: "The token is neither stored nor logged.",
      body: { schema: readBy(parseTestToken) },
      answers: {
        200: answer(
          "What would become of it.",
          object(
            { believed: flag },
            {
              refused: text,
              key_set: text,
              subject: orNull(text),
              expires_at: time,
              key: text,
              workspace: text,
              scopes: ref("Scopes"),
              models: ref("ModelPatterns"),
            },
          ),
          { believed: false, refused: "audience" },
        ),
      },
    },
  ],
  schemas: {
    Issuer: object({
      id: text,
      name: text,
      issuer: text,
      audiences: list(text),
      jwks_url: orNull(text),
      has_secret: flag,
      typ: orNull(text),
      max_lifetime_seconds: whole,
      mappings: list(
        object({ when, key: text }, { scopes: ref("Scopes"), models: list(text), admin: oneOf("read", "write") }),
      ),
      blocked_subjects: list(text),
      state: oneOf("active", "disabled"),
      created_at: time,
      updated_at: time,
      version: whole,
    }),
  },
};
