/** `/v1/conversations` and what is below it, but for what streams (events-route.ts, socket-route.ts). */

import type { ConversationSummary } from "../../clients/typescript/protocol.ts";
import { CHANGES_NOTHING } from "../fields.ts";
import { cursorAfter, mintConversationId, readCursor } from "../identity/conversation-id.ts";
import { modelRefused } from "../identity/key-record.ts";
import { matches, page, readPageQuery } from "../query.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { beginning } from "./beginning.ts";
import { ofAll, ofOne, readBody, told } from "./call.ts";
import { changeOf, DEFAULTS, MESSAGE_ID, parseCancel, parseChange, parseCreate } from "./input.ts";
import { remoteOf } from "./object.ts";
import { isFull, listRows, MAX_CONVERSATIONS, type Row } from "./registry.ts";

const NAME = "/v1/conversations";
const ONE = `${NAME}/:id`;

const FULL: Failure = {
  kind: "limit_reached",
  message: `This workspace has ${MAX_CONVERSATIONS} conversations, and no more are kept. Delete some, or let them expire.`,
  retryAfterMs: null,
};

const refused = (message: string): Result<never, Failure> => err({ kind: "invalid_request", message });

/** `POST /v1/conversations` → 201 with the conversation. */
export const createConversation = ofAll(NAME, async (call) => {
  const { c, caller, record, sender } = call;
  const body = await readBody(call);
  const input = body.ok ? parseCreate(body.value) : body;
  if (!input.ok) return input;
  const { workspace } = caller.policy;
  const { settings, startedAt } = c.var.call;
  const id = await mintConversationId(settings.keyTagSecrets, workspace, startedAt);
  const begun = await beginning(call, id, input.value);
  if (!begun.ok) return begun;
  const spec = begun.value;
  const forbidden = modelRefused(caller.policy, [spec.model, spec.context.summary_model]);
  if (forbidden) return err(forbidden);
  return ok(async () => {
    if (await isFull(c.env.DB, workspace)) return err(FULL);
    record.facts.conversationId = id;
    // Not asked twice: whether it was made the first time is not known, and one that nobody knows of expires.
    const made = await remoteOf(c.env.CONVERSATION, workspace, id).ask(false, (object) => object.create(spec, sender));
    return told(call, made, 201);
  });
});

/** `GET /v1/conversations?limit=&cursor=`: the workspace's, newest first. */
export const listConversations = ofAll(NAME, async (call) => {
  const { c, caller } = call;
  const { keyTagSecrets } = c.var.call.settings;
  const { workspace } = caller.policy;
  const query = readPageQuery(c.req.url, { cursor: matches(/^/, "a cursor") });
  if (!query.ok) return query;
  const { limit, cursor } = query.value;
  const before = cursor === undefined ? null : await readCursor(keyTagSecrets, workspace, cursor);
  if (cursor !== undefined && before === null) return refused("cursor: must be a cursor from `next_cursor`");
  return ok(async () => {
    const rows = await listRows(c.env.DB, workspace, before, limit + 1, c.var.call.startedAt);
    if (!rows.ok) return rows;
    const { next_cursor: last, ...shown } = page(rows.value, limit, ({ id }) => id, summaryOf);
    const next_cursor = last === null ? null : await cursorAfter(keyTagSecrets, workspace, last);
    return told(call, ok({ ...shown, next_cursor }));
  });
});

/** `GET /v1/conversations/:id`. */
export const readConversation = ofOne(ONE, async (call) =>
  ok(async () => told(call, await call.remote.ask(true, (object) => object.read()))),
);

/** `PATCH /v1/conversations/:id`: the fields given; those of `context` one by one. */
export const changeConversation = ofOne(ONE, async (call) => {
  const body = await readBody(call);
  const input = body.ok ? parseChange(body.value) : body;
  if (!input.ok) return input;
  if (Object.keys(input.value).length === 0) return err(CHANGES_NOTHING);
  const { model, context } = input.value;
  const forbidden = modelRefused(call.caller.policy, [model, context?.summary_model]);
  if (forbidden) return err(forbidden);
  const { remote } = call;
  return ok(async () => {
    // Left open: of two changes of the context in the same moment one may undo what the other has changed.
    const present = context ? await remote.ask(true, (object) => object.read()) : null;
    if (present && !present.ok) return present;
    const change = changeOf(input.value, present?.value.context ?? DEFAULTS.context);
    return told(call, await remote.ask(true, (object) => object.change(change)));
  });
});

/** `DELETE /v1/conversations/:id`: it, and every trace of it. */
export const deleteConversation = ofOne(ONE, async (call) =>
  ok(async () => {
    const gone = await call.remote.ask(true, (object) => object.remove());
    return told(call, gone.ok ? ok({ id: call.id, type: "conversation_deleted" }) : gone);
  }),
);

const messageId = matches(MESSAGE_ID, "the id of a message");

/** `GET /v1/conversations/:id/messages?limit=&cursor=&leaf=`: the history of a branch, oldest first. */
export const readMessages = ofOne(`${ONE}/messages`, async (call) => {
  const query = readPageQuery(call.c.req.url, { cursor: messageId, after: messageId, leaf: messageId });
  if (!query.ok) return query;
  const { limit, cursor, after, leaf = null } = query.value;
  if (cursor !== undefined && after !== undefined) return refused("after: not together with `cursor`");
  const asked = { limit, after: cursor ?? after ?? null, leaf };
  return ok(async () => told(call, await call.remote.ask(true, (object) => object.messages(asked))));
});

/** `POST /v1/conversations/:id/cancel {turn?}` → the conversation. Nothing to stop: the same. */
export const cancelTurn = ofOne(
  `${ONE}/cancel`,
  async (call) => {
    const body = await readBody(call, false);
    const input = body.ok ? parseCancel(body.value) : body;
    if (!input.ok) return input;
    const { turn = null } = input.value;
    return ok(async () => told(call, await call.remote.ask(true, (object) => object.cancel(turn))));
  },
  { free: true },
);

function summaryOf({ id, model, metadata, created_at, updated_at, expires_at, turns }: Row): ConversationSummary {
  const time = (ms: number): string => new Date(ms).toISOString();
  return {
    id,
    type: "conversation",
    model,
    metadata: JSON.parse(metadata),
    created_at: time(created_at),
    updated_at: time(updated_at),
    expires_at: time(expires_at),
    turns,
  };
}
