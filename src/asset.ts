/** Static files that are built with the gateway and deployed beside it (`[assets]` in wrangler.toml). */
import type { AppContext } from "./context.ts";

/** The file, or 304 where the caller has it; null: there is none. How long it may be kept is the caller's to say. */
export async function asset(c: AppContext, file: string): Promise<Response | null> {
  const { headers, requestId } = c.var.call;
  const known = headers.get("if-none-match");
  const found = await c.env.ASSETS.fetch(new URL(`/${encodeURIComponent(file)}`, c.req.url), {
    headers: known === undefined ? {} : { "if-none-match": known },
  });
  if (!found.ok && found.status !== 304) {
    await found.body?.cancel();
    return null;
  }
  const response = new Response(found.body, found);
  response.headers.set("x-sluice-request-id", requestId);
  return response;
}
