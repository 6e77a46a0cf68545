/**
 * `/admin/prices`: the price list that costs are counted by. A replacement is whole: what it lacks costs as an unknown
 * model does, never nothing. The isolate that answers uses it at once, all others within thirty seconds.
 */
import type { Change } from "../changes/change.ts";
import { type AppContext, fail, json } from "../context.ts";
import { clock } from "../hotpath/leases.ts";
import { type PriceVersion, priceTable, readPriceVersion, tableOf, writePriceVersion } from "../hotpath/price-table.ts";
import { adminOnly } from "../identity/admin-auth.ts";
import { parsePriceList } from "../wire/anthropic/price-list.ts";
import { parseJson } from "../wire/json.ts";
import { readAdminBody } from "./input.ts";
import { stored } from "./stored.ts";

/** How often a list is written as the next version while others write theirs. */
const ATTEMPTS = 50;
const NOT_IN_FORCE = "The price list may be stored and not yet in force. Look at it and repeat the call: the database";

/** `GET /admin/prices`: the list in force, its version, since when and by whom. */
export const readPrices = adminOnly((c) => stored(c, async () => shown(c, await readPriceVersion(c.env.DB))));

/** `PUT /admin/prices`: replaces the list by the one in the body, in the shape of `GET`'s `prices`. */
export const replacePrices = adminOnly(async (c, { actor }) => {
  const body = await readAdminBody(c);
  if (!body.ok) return fail(c, body.error);
  const table = parsePriceList(body.value);
  if (!table.ok) return fail(c, { kind: "invalid_request", message: table.error });
  return stored(c, () => putInForce(c, actor, "prices.replace", JSON.stringify(table.value.list)), NOT_IN_FORCE);
});

/** `DELETE /admin/prices`: returns to the list that comes with the gateway. Where that is in force, nothing changes. */
export const restorePrices = adminOnly((c, { actor }) =>
  stored(
    c,
    async () => {
      const row = await readPriceVersion(c.env.DB);
      return row === null || row.json === null ? shown(c, row) : putInForce(c, actor, "prices.restore", null);
    },
    NOT_IN_FORCE,
  ),
);

async function putInForce(
  c: AppContext,
  actor: string,
  action: "prices.replace" | "prices.restore",
  list: string | null,
): Promise<Response> {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const before = await readPriceVersion(c.env.DB);
    const at = clock.now();
    const row: PriceVersion = { version: (before?.version ?? 0) + 1, at, actor, json: list };
    const change: Change = {
      author: { actor, requestId: c.var.call.requestId },
      at,
      action,
      target: "prices",
      before: viewOf(before),
      after: viewOf(row),
    };
    if (!(await writePriceVersion(c.env.DB, row, change))) continue;
    priceTable.take(row);
    return shown(c, row);
  }
  throw new Error("others keep replacing the price list");
}

/** Version 0 is the built-in list before anybody has replaced it. */
function shown(c: AppContext, row: PriceVersion | null): Response {
  return json(c, 200, viewOf(row));
}

function viewOf(row: PriceVersion | null) {
  const table = tableOf(row);
  return {
    version: row?.version ?? 0,
    built_in: row === null || row.json === null,
    since: row && new Date(row.at).toISOString(),
    actor: row?.actor ?? null,
    // A list of another release that this one can't read: shown as it is, and not counted by.
    usable: table !== null,
    prices: table ? table.list : (parseJson(row?.json ?? "") ?? null),
  };
}
