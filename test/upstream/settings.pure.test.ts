import { expect, it } from "vitest";
import { readSettings } from "../../src/env.ts";

const good = {
  UPSTREAM_URL: "https://api.anthropic.com",
  ANTHROPIC_API_KEY: "sk-ant",
  ADMIN_TOKEN: "admin",
  KEY_TAG_SECRET: "tag-secret-0123456789",
};
const key = Buffer.alloc(32, 5).toString("base64");

it("the pool's settings have defaults that store nothing and go nowhere but to Anthropic", () => {
  expect(readSettings(good)).toMatchObject({
    ok: true,
    value: { masterKeys: [], baseUrls: { hosts: ["api.anthropic.com"], allowLocal: false } },
  });
});

it("S-05 key sets of issuers are where the deployment says, and not where upstreams are", () => {
  const of = (source: object) => {
    const settings = readSettings({ ...good, ...source });
    return settings.ok ? settings.value.keySetUrls : settings.error;
  };
  const usual = [
    "token.actions.githubusercontent.com",
    "*.cloudflareaccess.com",
    "www.googleapis.com",
    "login.microsoftonline.com",
  ];
  expect(of({ UPSTREAM_HOSTS: "a.example.com" })).toEqual({ hosts: usual, allowLocal: false });
  expect(of({ ISSUER_HOSTS: "Sso.example.com", ALLOW_LOCAL_UPSTREAMS: "true" })).toEqual({
    hosts: ["sso.example.com"],
    allowLocal: true,
  });
});

it("the pool's settings are read", () => {
  const settings = readSettings({
    ...good,
    MASTER_KEY: `2:${key}`,
    UPSTREAM_HOSTS: "a.example.com,*.b.example.com",
    ALLOW_LOCAL_UPSTREAMS: "true",
  });
  expect(settings).toMatchObject({
    value: {
      masterKeys: [{ version: "2" }],
      baseUrls: { hosts: ["a.example.com", "*.b.example.com"], allowLocal: true },
    },
  });
});

it("tokens are named and signed as the deployment says", () => {
  expect(readSettings(good)).toMatchObject({ value: { tokenIssuer: "sluice", tokenAlg: "ES256" } });
  const told = { TOKEN_ISSUER: "https://gateway.example", TOKEN_ALG: "RS256" };
  expect(readSettings({ ...good, ...told })).toMatchObject({
    value: { tokenIssuer: "https://gateway.example", tokenAlg: "RS256" },
  });
});

it.each([
  ["TOKEN_ISSUER", "two words"],
  ["TOKEN_ISSUER", "x".repeat(201)],
  ["TOKEN_ALG", "HS256"],
  ["MASTER_KEY", `1:${key.slice(4)}`],
  ["MASTER_KEY", "not-a-key-CANARY"],
  ["UPSTREAM_HOSTS", "127.0.0.1"],
  ["ISSUER_HOSTS", "accounts.google.com, 10.0.0.1"],
  ["ALLOW_LOCAL_UPSTREAMS", "yes"],
])("E-03 a malformed %s is told by its name, never its value", (name, value) => {
  const settings = readSettings({ ...good, [name]: value });
  if (settings.ok) throw new Error("accepted");
  expect(settings.error).toContain(name);
  expect(settings.error).not.toContain(value);
});
