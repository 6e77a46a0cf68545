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

it.each([
  ["MASTER_KEY", `1:${key.slice(4)}`],
  ["MASTER_KEY", "not-a-key-CANARY"],
  ["UPSTREAM_HOSTS", "127.0.0.1"],
  ["ALLOW_LOCAL_UPSTREAMS", "yes"],
])("E-03 a malformed %s is told by its name, never its value", (name, value) => {
  const settings = readSettings({ ...good, [name]: value });
  if (settings.ok) throw new Error("accepted");
  expect(settings.error).toContain(name);
  expect(settings.error).not.toContain(value);
});
