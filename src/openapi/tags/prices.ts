import { PriceListShape } from "../../wire/anthropic/price-list.ts";
import { answer, type Tag } from "../operation.ts";
import { flag, object, orNull, readBy, ref, text, time, whole } from "../schema.ts";

const IN_FORCE = answer("The list in force.", ref("PricesInForce"));

export const prices: Tag = {
  name: "Prices",
  description: "What a call costs is counted in whole µUSD by a price list.",
  docs: "docs/api.md#prices",
  operations: [
    { id: "readPrices", route: "GET /admin/prices", summary: "The list in force", answers: { 200: IN_FORCE } },
    {
      id: "replacePrices",
      route: "PUT /admin/prices",
      summary: "Replaces the whole list by the one in the body",
      body: {
        schema: ref("Prices"),
        example: {
          models: {
            "claude-sonnet-5-5": {
              rates: [{ input: 2, output: 10, cache_read: 0.1, cache_write_5m: 2.5, cache_write_1h: 4 }],
            },
          },
          inference_geo_us_multiplier: 1.1,
          batch_multiplier: 0.5,
          web_search_request_usd: 0.01,
        },
      },
      answers: { 200: IN_FORCE },
    },
    {
      id: "restorePrices",
      route: "DELETE /admin/prices",
      summary: "Returns to the built-in list",
      answers: { 200: IN_FORCE },
    },
  ],
  schemas: {
    Prices: readBy({ schema: PriceListShape }),
    PricesInForce: object({
      version: whole,
      built_in: flag,
      since: orNull(time),
      actor: orNull(text),
      usable: flag,
      prices: orNull(ref("Prices")),
    }),
  },
};
