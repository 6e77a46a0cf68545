import { expect, it } from "vitest";
import { MAX_HELD_MS, VerifiedTokens } from "../../../src/identity/jwt/verified.ts";
import { NOW, SECONDS } from "./made.ts";

const remember = async (tokens: VerifiedTokens<string>, token: string, expiresAt = SECONDS + 3_600) => {
  const { name } = await tokens.find(token, NOW);
  tokens.remember(name, `of ${token}`, expiresAt, token.length, NOW);
};
const find = async (tokens: VerifiedTokens<string>, token: string, now = NOW) => (await tokens.find(token, now)).value;

it("J-20 finds a token whole", async () => {
  const tokens = new VerifiedTokens<string>();
  const long = "x".repeat(200);
  for (const token of [`${long}a`, `${long}b`]) await remember(tokens, token);
  expect(await find(tokens, `${long}a`)).toBe(`of ${long}a`);
  expect(await find(tokens, `${long}b`)).toBe(`of ${long}b`);
  for (const token of [long, `${long}c`, `${long}A`, `${long}a `]) expect(await find(tokens, token)).toBeNull();
});

it("J-20 forgets a token when it ends, and after five minutes at the latest", async () => {
  const tokens = new VerifiedTokens<string>();
  await remember(tokens, "short", SECONDS + 60);
  await remember(tokens, "long");
  expect(await find(tokens, "short", NOW + 89_999)).not.toBeNull();
  expect(await find(tokens, "short", NOW + 90_000)).toBeNull();
  expect(await find(tokens, "long", NOW + MAX_HELD_MS - 1)).not.toBeNull();
  expect(await find(tokens, "long", NOW + MAX_HELD_MS)).toBeNull();
  expect(tokens.size).toBe(0);
});

it("holds so many tokens, and so many characters of them, and lets the oldest go", async () => {
  const tokens = new VerifiedTokens<string>(3, 100);
  for (const token of ["a", "b", "b", "c", "d"]) await remember(tokens, token);
  expect(tokens.size).toBe(3);
  expect(await find(tokens, "a")).toBeNull();
  expect(await find(tokens, "b")).not.toBeNull();
  await remember(tokens, "e".repeat(99));
  expect([tokens.size, await find(tokens, "d")]).toEqual([2, "of d"]);
  await remember(tokens, "f".repeat(101));
  expect(tokens.size).toBe(0);
});
