/** `POST /v1/token`: a key is traded for a token, a short-lived one that names what it leaves of the key's rights. */
import * as z from "zod/mini";
import { hasBody, readJsonBody } from "../body.ts";
import { json } from "../context.ts";
import { type Parser, parser, wholeNumber } from "../fields.ts";
import { checkConversationId, NO_SUCH_CONVERSATION } from "../identity/conversation-id.ts";
import { modelPatterns, scopeList } from "../identity/fields.ts";
import { beyondGrantor } from "../identity/grants.ts";
import { MAX_LIFETIME_SECONDS, mintToken, secretMark } from "../identity/jwt/own-token.ts";
import type { CannotSign } from "../identity/jwt/signing.ts";
import { CONTROL_SCOPES } from "../identity/scopes.ts";
import { AGAIN_MS, believingOf } from "../identity/tokens.ts";
import { err, ok } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { relayed } from "./relay.ts";
import { settled } from "./settle.ts";

/** A body that names all that it may has a fifth of this. */
const MAX_BODY_BYTES = 64 * 1024;
const DEFAULT_LIFETIME_SECONDS = 900;

const NOT_A_KEY: Failure = {
  kind: "grant_exceeded",
  message: "A token can't be traded for another one: show the key itself.",
};
const CANNOT_SIGN: Readonly<Record<CannotSign, Failure>> = {
  no_master_key: {
    kind: "misconfigured",
    message: "The secret MASTER_KEY is not set: without it nothing can be kept that tokens are signed with.",
  },
  unavailable: { kind: "unavailable", what: "What tokens are signed with", retryAfterMs: AGAIN_MS },
};

const Wanted = z.strictObject({
  scopes: z.optional(scopeList),
  models: z.optional(modelPatterns),
  conversation: z.optional(z.nullable(z.string("must be the id of a conversation"))),
  expires_in_seconds: z.optional(wholeNumber(1, MAX_LIFETIME_SECONDS)),
});
export const parseWanted: Parser<z.infer<typeof Wanted>> = parser(Wanted);

/**
 * `{scopes?, models?, conversation?, expires_in_seconds?}` → 201 with the token, shown this once. It names the very secret
 * that was shown, so that it ends with that.
 */
export const createToken = relayed({
  name: "/v1/token",
  scope: "key",
  hasBody: false,
  billed: false,
  async prepare(c, caller, record) {
    const { policy, rights, secretSha256 } = caller;
    if (rights !== null || secretSha256 === null) return err(NOT_A_KEY);
    const { headers } = c.var.call;
    const { max_request_bytes = MAX_BODY_BYTES } = policy.limits;
    const limit = Math.min(MAX_BODY_BYTES, max_request_bytes);
    const body = hasBody(c.req.raw, headers) ? await readJsonBody(c.req.raw, headers, limit) : ok({});
    const input = body.ok ? parseWanted(body.value) : body;
    if (!input.ok) return input;
    const { models = policy.models, conversation = null, expires_in_seconds = DEFAULT_LIFETIME_SECONDS } = input.value;
    const scopes = input.value.scopes ?? policy.scopes.filter((scope) => !CONTROL_SCOPES.includes(scope));
    const beyond = beyondGrantor(policy, { scopes, models });
    if (beyond.length > 0) {
      return err({ kind: "grant_exceeded", message: `Your key can't be traded for this. ${beyond.join("; ")}.` });
    }
    const { settings, startedAt } = c.var.call;
    if (conversation !== null) {
      const verdict = await checkConversationId(settings.keyTagSecrets, policy.workspace, conversation);
      if (verdict !== "own") return err(NO_SUCH_CONVERSATION);
    }
    return ok({
      answer: async () => {
        const by = believingOf(c.env, settings);
        const key = await by.signing.signingKey(by.room);
        if (!key.ok) return err(CANNOT_SIGN[key.error]);
        const grant = { keyId: policy.id, scopes, models, conversation, secretMark: await secretMark(secretSha256) };
        const asked = { ...grant, issuer: by.issuer, lifetimeSeconds: expires_in_seconds };
        const { token, id, expiresAt } = await mintToken(asked, key.value, startedAt);
        const expires_at = new Date(expiresAt * 1_000).toISOString();
        const shown = { token, token_type: "Bearer", id, scopes, models, conversation, expires_at };
        return settled(record, json(c, 201, shown));
      },
    });
  },
});
