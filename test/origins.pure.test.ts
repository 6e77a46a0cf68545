import { describe, expect, it } from "vitest";
import { originOf, readableBy, readOrigins } from "../src/origins.ts";

const HERE = "https://gw.example/v1/conversations/c/socket";

function verdict(origin: string | null, list = "https://chat.example, http://localhost:3000", url = HERE) {
  const allowed = readOrigins(list);
  if (!allowed.ok) throw new Error(allowed.error);
  return originOf(new Map(origin === null ? [] : [["origin", origin]]), url, allowed.value);
}

describe("W-01 origins", () => {
  it.each(["https://chat.example", "http://localhost:3000", "https://gw.example"])("%s is let in", (origin) => {
    expect(verdict(origin)).toEqual({ allowed: origin });
  });

  it("none at all is no page", () => expect(verdict(null)).toEqual({ allowed: null }));

  it.each([
    "null",
    "",
    "*",
    "https://evil.example",
    "http://chat.example",
    "https://chat.example:8443",
    "https://chat.example:443",
    "https://chat.example.evil.example",
    "https://xchat.example",
    "https://sub.chat.example",
    "https://chat.example/",
    "https://CHAT.example",
    "https://chat.example, https://gw.example",
    "http://localhost",
    "http://localhost:30000",
    "http://gw.example",
    "https://gw.example:8443",
    "wss://gw.example",
  ])("%j is refused", (origin) => expect(verdict(origin)).toBe("refused"));

  it("the gateway's own has its port", () => {
    expect(verdict("http://127.0.0.1:8787", "", "http://127.0.0.1:8787/v1/conversations")).toEqual({
      allowed: "http://127.0.0.1:8787",
    });
    expect(verdict("http://127.0.0.1:8788", "", "http://127.0.0.1:8787/v1/conversations")).toBe("refused");
  });
});

describe("ALLOWED_ORIGINS", () => {
  it("is a list, or nothing", () => {
    expect(readOrigins("")).toEqual({ ok: true, value: new Set() });
    expect(readOrigins(" https://a.example ,,http://b.example:81,")).toEqual({
      ok: true,
      value: new Set(["https://a.example", "http://b.example:81"]),
    });
  });

  it.each([
    "*",
    "null",
    "chat.example",
    "https://chat.example/",
    "https://chat.example/path",
    "https://*.example",
    "https://Chat.example",
    "https://chat.example:443",
    "https://user@chat.example",
    "ws://chat.example",
    "https://a.example https://b.example",
  ])("%j stops the start", (text) => {
    expect(readOrigins(text)).toMatchObject({ ok: false, error: expect.stringContaining("ALLOWED_ORIGINS") });
  });
});

describe("an answer", () => {
  it("is one origin's to read, never everybody's, and caches are told so", () => {
    const { headers } = readableBy(new Response(null, { headers: { vary: "accept" } }), "https://chat.example");
    expect(headers.get("access-control-allow-origin")).toBe("https://chat.example");
    expect(headers.get("vary")).toBe("accept, origin");
    expect(headers.get("access-control-expose-headers")).toContain("x-sluice-request-id");
    expect(headers.has("access-control-allow-credentials")).toBe(false);
  });

  it("is no page's where none may read it", () => {
    const { headers } = readableBy(new Response(null), null);
    expect([...headers.keys()]).toEqual(["vary"]);
  });
});
