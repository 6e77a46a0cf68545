import { parseWanted } from "../../hotpath/token-route.ts";
import { answer, type Tag } from "../operation.ts";
import { flag, just, list, object, oneOf, orNull, readBy, ref, text, time, whole } from "../schema.ts";

const meter = orNull(object({ capacity: whole, remaining: whole, full_at: time }));
const left = object({
  requests: meter,
  input_tokens: meter,
  output_tokens: meter,
  concurrent_requests: orNull(object({ running: whole, remaining: whole })),
});
const standing = orNull(
  object({
    period: oneOf("day", "week", "month", "total"),
    limit_micro_usd: whole,
    spent_micro_usd: whole,
    reserved_micro_usd: whole,
    remaining_micro_usd: whole,
    resets_at: orNull(time),
    mode: oneOf("strict", "soft"),
  }),
);
const share = { limits: ref("Limits"), left, budget: standing };

export const ownKey: Tag = {
  name: "Key and token",
  description: "What a key may do, and tokens in its place.",
  docs: "docs/api.md#get-v1key",
  operations: [
    {
      id: "readOwnKey",
      route: "GET /v1/key",
      summary: "What this key may do, what is left, when it refills",
      description: "Asked of the ledgers at this moment; it takes nothing from any limit.",
      answers: { 200: answer("Where the key stands.", ref("OwnKey")) },
    },
    {
      id: "createToken",
      route: "POST /v1/token",
      summary: "A short-lived token in place of the key",
      description:
        "A key is traded, never a token. Without a body the token may do what the key may, but for the control plane.",
      body: {
        optional: true,
        schema: readBy(parseWanted),
        example: { scopes: ["conversations"], models: ["claude-opus-*"], expires_in_seconds: 900 },
      },
      answers: { 201: answer("The token, shown this once.", ref("Token")) },
    },
    {
      id: "readKeySet",
      route: "GET /.well-known/jwks.json",
      summary: "The public keys that the gateway's tokens are verified with",
      answers: {
        200: answer("A key set (RFC 7517).", ref("KeySet"), {
          keys: [
            {
              kty: "EC",
              crv: "P-256",
              x: "9oUzm6J00klwWqyUDwS1PHsNScKsBexh2QcYMNqDt8U",
              y: "f9YGEhvgJshFKkbIvOHzE8AG99XKkxLJfWUZ0YoFcS8",
              kid: "sig_01m80g11s8k83q8g9y7p5rm4gj",
              alg: "ES256",
              use: "sig",
            },
          ],
        }),
      },
      errors: [503],
    },
  ],
  schemas: {
    OwnKey: object({
      id: text,
      name: text,
      workspace: text,
      scopes: ref("Scopes"),
      models: ref("ModelPatterns"),
      aliases: ref("Aliases"),
      expires_at: orNull(time),
      on_disconnect: oneOf("cancel", "drain"),
      on_revoke: oneOf("finish", "cut"),
      fail_open: flag,
      guardrails: orNull(ref("Guardrails")),
      ...share,
      shared: orNull(object(share)),
      token: orNull(object({ conversation: orNull(text), expires_at: time, subject: orNull(text) })),
    }),
    Token: object({
      token: text,
      token_type: just("Bearer"),
      id: text,
      scopes: ref("Scopes"),
      models: ref("ModelPatterns"),
      conversation: orNull(text),
      expires_at: time,
    }),
    KeySet: object({
      keys: list(
        object(
          { kty: oneOf("EC", "RSA"), kid: text, alg: oneOf("ES256", "RS256"), use: just("sig") },
          { crv: just("P-256"), x: text, y: text, n: text, e: text },
        ),
      ),
    }),
  },
};
