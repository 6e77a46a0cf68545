/**
 * `/admin/prices`: the price list that costs are counted by. A replacement is whole: what it lacks costs as an unknown
 * model does, never nothing. The isolate that answers uses it at once, all others within thirty seconds.
 */
import { type AppContext, fail, json } from "../context.ts";
import { clock } from "../hotpath/leases.ts";
import { type PriceVersion, priceTable, readPriceVersion, tableOf, writePriceVersion } from "../hotpath/price-table.ts";
import { adminOnly } from "../identity/admin-auth.ts";
import { parsePriceList } from "../wire/anthropic/price-list.ts";
import { parseJson } from "../wire/json.ts";
import { readAdminBody } from "./input.ts";
import { stored } from "./stored.ts";

const NOT_IN_FORCE = "The price list may be stored and not yet in force. Look at it and repeat the call: the database";

/** `GET /admin/prices`: the list in force, its version, since when and by whom. */
export const readPrices = adminOnly((c) => stored(c, async () => shown(c, await readPriceVersion(c.env.DB))));

/** `PUT /admin/prices`: replaces the list by the one in the body, in the shape of `GET`'s `prices`. */
export const replacePrices = adminOnly(async (c, { actor }) => {
  const body = await readAdminBody(c);
  if (!body.ok) return fail(c, body.error);
  const table = parsePriceList(body.value);
  if (!table.ok) return fail(c, { kind: "invalid_request", message: table.error });
  return stored(c, () => putInForce(c, actor, JSON.stringify(table.value.list)), NOT_IN_FORCE);
});

/** `DELETE /admin/prices`: returns to the list that comes with the gateway. Where that is in force, nothing changes. */
export const restorePrices = adminOnly((c, { actor }) =>
  stored(
    c,
    async () => {
      const row = await readPriceVersion(c.env.DB);
      return row === null || row.json === null ? shown(c, row) : putInForce(c, actor, null);
    },
    NOT_IN_FORCE,
  ),
);

async function putInForce(c: AppContext, actor: string, list: string | null): Promise<Response> {
  const row = await writePriceVersion(c.env.DB, { at: clock.now(), actor, json: list });
  priceTable.take(row);
  return shown(c, row);
}

/** Version 0 is the built-in list before anybody has replaced it. */
function shown(c: AppContext, row: PriceVersion | null): Response {
  const table = tableOf(row);
  return json(c, 200, {
    version: row?.version ?? 0,
    built_in: row === null || row.json === null,
    since: row && new Date(row.at).toISOString(),
    actor: row?.actor ?? null,
    // A list of another release that this one can't read: shown as it is, and not counted by.
    usable: table !== null,
    prices: table ? table.list : (parseJson(row?.json ?? "") ?? null),
  });
}
