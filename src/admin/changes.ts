/** `GET /admin/changes`: who changed what in the control plane, newest first. */
import { listChanges, type StoredChange } from "../changes/store.ts";
import { adminOnly } from "../identity/admin-auth.ts";
import { cursorOf, matches, time } from "../query.ts";
import { parseJson } from "../wire/json.ts";
import { listed, rfc3339 } from "./stored.ts";

const CHANGE_ID = /^chg_[0-9a-hjkmnp-tv-z]{26}$/;
const NAME = /^[^\p{Cc}]{1,200}$/u;
const FILTERS = {
  kind: matches(/^[a-z_]{1,40}$/, "a kind of record, such as key"),
  target: matches(NAME, "the id or name of a record"),
  actor: matches(NAME, "who made the change: a key id, admin-token or system"),
  from: time,
  to: time,
  cursor: cursorOf(CHANGE_ID),
};

/** `GET /admin/changes?kind=&target=&actor=&from=&to=&cursor=&limit=`. */
export const readChanges = adminOnly((c) =>
  listed(
    c,
    FILTERS,
    (filter, rows) => listChanges(c.env.DB, filter, rows),
    ({ id }) => id,
    shown,
  ),
);

function shown({ at, before, after, ...rest }: StoredChange) {
  const value = (text: string | null): unknown => (text === null ? null : (parseJson(text) ?? null));
  return { ...rest, at: rfc3339(at), before: value(before), after: value(after) };
}
