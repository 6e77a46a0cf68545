import { parseChangeKey, parseCreateKey, parseRotateKey } from "../../admin/input.ts";
import { answer, PAGE, type Tag } from "../operation.ts";
import { flag, list, mapOf, number, object, oneOf, orNull, pageOf, readBy, ref, text, time, whole } from "../schema.ts";

/** What its readers check by hand. */
const byHand = {
  metadata: ref("Metadata"),
  aliases: ref("Aliases"),
  guardrails: orNull(ref("Guardrails")),
  budget: orNull(ref("BudgetInput")),
  expires_at: orNull(time),
};
const EXAMPLE = {
  name: "ci",
  scopes: ["messages"],
  models: ["claude-opus-*"],
  limits: { requests_per_minute: 60, concurrent_requests: 4 },
  budget: { usd: 5, period: "day" },
  guardrails: { redact: ["EMAIL"], secrets: "block" },
};
const KEY_MADE = answer("The key. `key` is shown this once.", ref("KeyWithSecret"));
const KEY = answer("The key.", ref("Key"));
const fields = {
  id: text,
  name: text,
  workspace: text,
  version: whole,
  scopes: ref("Scopes"),
  models: ref("ModelPatterns"),
  limits: ref("Limits"),
  budget: orNull(ref("Budget")),
  on_disconnect: oneOf("cancel", "drain"),
  on_revoke: oneOf("finish", "cut"),
  fail_open: flag,
  timeouts: mapOf(whole),
  cache: orNull(object({ ttl_seconds: whole })),
  aliases: ref("Aliases"),
  guardrails: orNull(ref("Guardrails")),
  metadata: ref("Metadata"),
  hint: orNull(text),
  secrets: list(object({ hint: text, created_at: time, expires_at: orNull(time) })),
  created_at: time,
  updated_at: time,
  expires_at: orNull(time),
  revoked_at: orNull(time),
};

export const keys: Tag = {
  name: "Keys",
  description: "The life of an API key.",
  docs: "docs/api.md#what-a-key-is",
  operations: [
    {
      id: "createKey",
      route: "POST /admin/keys",
      summary: "Makes a key",
      body: { schema: readBy(parseCreateKey, byHand), example: EXAMPLE },
      answers: { 201: KEY_MADE },
    },
    {
      id: "listKeys",
      route: "GET /admin/keys",
      summary: "Keys, newest first",
      query: {
        workspace: { schema: text, example: "ws_default" },
        revoked: { schema: oneOf("true", "false"), example: "false" },
        ...PAGE,
      },
      answers: { 200: answer("A page of them.", pageOf(ref("Key"))) },
    },
    { id: "readKey", route: "GET /admin/keys/:id", summary: "One", answers: { 200: KEY } },
    {
      id: "changeKey",
      route: "PATCH /admin/keys/:id",
      summary: "Changes the fields given",
      description: "`limits` and `timeouts` one by one, null removes; everything else whole.",
      body: { schema: readBy(parseChangeKey, byHand), example: { limits: { requests_per_minute: 120 } } },
      answers: { 200: KEY },
      errors: [409],
    },
    {
      id: "revokeKey",
      route: "DELETE /admin/keys/:id",
      summary: "Revokes it; in force everywhere within two seconds",
      answers: { 200: KEY },
    },
    {
      id: "rotateKey",
      route: "POST /admin/keys/:id/rotate",
      summary: "A new secret; the old one works until the grace ends",
      body: { optional: true, schema: readBy(parseRotateKey), example: { grace_seconds: 3600 } },
      answers: { 200: KEY_MADE },
      errors: [409],
    },
  ],
  schemas: {
    Key: object(fields),
    KeyWithSecret: object({ ...fields, key: text }),
    Budget: object({
      usd: number,
      micro_usd: whole,
      period: oneOf("day", "week", "month", "total"),
      mode: oneOf("strict", "soft"),
    }),
    BudgetInput: object(
      { usd: { ...number, exclusiveMinimum: 0, maximum: 10_000_000 }, period: oneOf("day", "week", "month", "total") },
      { mode: { ...oneOf("strict", "soft"), default: "strict" } },
    ),
  },
};
