/**
 * `GET /v1/conversations/:id/socket`: the door of the WebSocket. The object speaks on it; here is decided who gets to it.
 *
 * A browser shows its page no status of an upgrade that is refused. So whoever offers `sluice.v1` is let in to be told:
 * accepted here, told the error in a frame, and closed with the code for it. No object hears of that.
 */

import { AUTH_PROTOCOL_PREFIX, CLOSE, PROTOCOL } from "../../clients/typescript/protocol.ts";
import { type AppContext, fail, guarded, noteFailure } from "../context.ts";
import { NATIVE } from "../hotpath/dialect.ts";
import { settled } from "../hotpath/settle.ts";
import { CREDENTIAL_HEADERS, readCredential } from "../identity/credential.ts";
import { originOf } from "../origins.ts";
import { err, ok } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { ofOne } from "./call.ts";
import { closeQuietly } from "./close.ts";
import { errorFrame } from "./frames.ts";

/** RFC 6455 §7.4.1 and the IANA registry: try again later. */
const TRY_AGAIN_LATER = 1013;

const CODES: Readonly<Record<number, number>> = {
  400: CLOSE.malformed,
  401: CLOSE.unauthenticated,
  403: CLOSE.forbidden,
  404: CLOSE.unknown,
  429: CLOSE.limited,
};

/** The upgrade. Origins come before everything, and a credential may be among the subprotocols. */
export const openSocket = guarded("conversations", (c) => {
  const { call } = c.var;
  const { headers, settings } = call;
  if (originOf(headers, c.req.url, settings.allowedOrigins) === "refused") return fail(c, { kind: "origin_refused" });
  if (headers.get("upgrade")?.toLowerCase() !== "websocket") return fail(c, { kind: "upgrade_required" });
  c.set("call", { ...call, headers: withOneCredential(headers) });
  return opened(c);
});

const opened = ofOne(
  "/v1/conversations/:id/socket",
  async ({ c, record, remote, sender }) => {
    const offered = protocolsOf(c.var.call.headers);
    const speaks = offered.includes(PROTOCOL);
    // Without any, a client takes what there is.
    if (!speaks && offered.some((protocol) => !protocol.startsWith(AUTH_PROTOCOL_PREFIX))) {
      const message = `sec-websocket-protocol: \`${PROTOCOL}\` is what is spoken here`;
      return err({ kind: "invalid_request", message });
    }
    return ok(async () => {
      const echo: Record<string, string> = speaks ? { "sec-websocket-protocol": PROTOCOL } : {};
      const answer = await remote.fetch("/socket", sender, { upgrade: "websocket" });
      if (!answer.ok) return answer;
      const { webSocket } = answer.value;
      return settled(record, new Response(null, { status: 101, webSocket, headers: echo }));
    });
  },
  { dialect: { ...NATIVE, fail: refuse } },
);

function protocolsOf(headers: ReadonlyMap<string, string>): readonly string[] {
  const text = headers.get("sec-websocket-protocol") ?? "";
  return text
    .split(",")
    .map((protocol) => protocol.trim())
    .filter((protocol) => protocol !== "");
}

/** The headers with the credential where every route looks for it, or with none where there is none, or two. */
function withOneCredential(headers: ReadonlyMap<string, string>): ReadonlyMap<string, string> {
  const shown = protocolsOf(headers)
    .filter((protocol) => protocol.startsWith(AUTH_PROTOCOL_PREFIX))
    .map((protocol) => protocol.slice(AUTH_PROTOCOL_PREFIX.length));
  if (shown.length === 0) return headers;
  const credential = readCredential(headers, shown);
  const others = new Map(headers);
  for (const name of CREDENTIAL_HEADERS) others.delete(name);
  if (credential !== null) others.set("authorization", `Bearer ${credential}`);
  return others;
}

function refuse(c: AppContext, failure: Failure, headers: Readonly<Record<string, string>>): Response {
  const { call } = c.var;
  if (!protocolsOf(call.headers).includes(PROTOCOL)) return fail(c, failure, headers);
  const { status, message } = noteFailure(c, failure);
  const { 0: client, 1: server } = new WebSocketPair();
  server.accept();
  server.send(errorFrame(null, failure));
  closeQuietly(server, CODES[status] ?? TRY_AGAIN_LATER, message);
  return new Response(null, {
    status: 101,
    webSocket: client,
    headers: { "sec-websocket-protocol": PROTOCOL, "x-sluice-request-id": call.requestId },
  });
}
