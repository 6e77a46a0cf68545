/** `GET /openapi.json`: the description of the API, which is made when the gateway is built (openapi/document.ts). */
import { asset } from "./asset.ts";
import { type AppContext, fail } from "./context.ts";

/** It changes with releases alone. */
const CACHED_SECONDS = 300;

export async function description(c: AppContext): Promise<Response> {
  const response = await asset(c, "openapi.json");
  if (!response) return fail(c, { kind: "not_found", what: "This gateway was deployed without its description." });
  response.headers.set("cache-control", `public, max-age=${CACHED_SECONDS}`);
  response.headers.set("x-content-type-options", "nosniff");
  return response;
}
