/** Credentials that are none, in numbers. */
import { createExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { expect, it } from "vitest";
import { app } from "../../src/app.ts";
import { makeKey } from "../admin/control-plane.ts";

const statusOf = async (path: string, key: string, address: string): Promise<number> => {
  const headers = { "x-api-key": key, "cf-connecting-ip": address };
  const body = path === "/v1/messages" ? { method: "POST", body: "{}" } : {};
  const request = new Request(`https://gw.test${path}`, { headers, ...body });
  const response = await app.fetch(request, env, createExecutionContext());
  await response.body?.cancel();
  return response.status;
};

it("K-05 are told to wait, by address and over all routes; a valid one from the same address is served", async () => {
  const { key } = await makeKey();
  const guesses = ["/v1/messages", "/v1/key", "/admin/keys"].flatMap((path) =>
    Array.from({ length: 40 }, (_, n) =>
      statusOf(path, `${key.slice(0, -3)}${String(n).padStart(3, "0")}`, "192.0.2.7"),
    ),
  );
  const statuses = await Promise.all(guesses);
  expect(statuses.filter((status) => status === 401)).toHaveLength(100);
  expect(statuses.filter((status) => status === 429)).toHaveLength(20);
  expect(await statusOf("/v1/key", key, "192.0.2.7")).toBe(200);
  expect(await statusOf("/v1/key", "wrong", "192.0.2.8")).toBe(401);
});
