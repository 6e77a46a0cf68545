import { answer, NO_BODY, PAGE, type Tag } from "../operation.ts";
import { object, orNull, pageOf, ref, text, time } from "../schema.ts";

const SHOWN = answer("The session.", ref("Session"));
const cookie = { "set-cookie": { description: "`__Host-sluice_session`, eight hours at most.", schema: text } };

export const sessions: Tag = {
  name: "Sessions",
  description: "A person at a browser trades a credential for a cookie, so that no page keeps one.",
  docs: "docs/api.md#sessions",
  operations: [
    {
      id: "openSession",
      route: "POST /admin/session",
      summary: "Opens a session",
      description: "With a credential, not with another session. Ten attempts a minute from an address.",
      answers: { 201: { ...SHOWN, headers: cookie } },
    },
    {
      id: "readSession",
      route: "GET /admin/session",
      summary: "The session that is shown",
      description: "`id` and `csrf_token` are null where a credential is shown.",
      answers: { 200: SHOWN },
    },
    {
      id: "closeSession",
      route: "DELETE /admin/session",
      summary: "Ends it at once",
      answers: { 204: NO_BODY("It has ended.") },
      errors: [404],
    },
    {
      id: "listSessions",
      route: "GET /admin/sessions",
      summary: "Those that run, newest first",
      query: PAGE,
      answers: { 200: answer("A page of them.", pageOf(ref("OpenSession"))) },
    },
    {
      id: "revokeSession",
      route: "DELETE /admin/sessions/:id",
      summary: "Ends somebody's at once",
      answers: { 204: NO_BODY("It has ended.") },
    },
  ],
  schemas: {
    Session: object({
      id: orNull(text),
      actor: text,
      scopes: orNull(ref("Scopes")),
      expires_at: orNull(time),
      csrf_token: orNull(text),
    }),
    OpenSession: object({ id: text, actor: text, scopes: orNull(ref("Scopes")), created_at: time, expires_at: time }),
  },
};
