import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseBaseUrl, readHosts } from "../../src/upstream/base-url.ts";

const ONLY_ANTHROPIC = { hosts: ["api.anthropic.com"], allowLocal: false };
/** As lax as a deployment can be, to see that the list is not all that stands in the way. */
const LAX = {
  hosts: ["api.anthropic.com", "*.anthropic.com", "*.example.com", "evil.com", "x.local", "metadata.google.internal"],
  allowLocal: false,
};

/** S-02 and what is of its kind: refused by every list, and with the development flag too. */
const NEVER = [
  "http://api.anthropic.com",
  "https://user:pw@api.anthropic.com",
  "https://user@api.anthropic.com",
  "https://:@api.anthropic.com",
  "https://@api.anthropic.com",
  "https://api.anthropic.com@evil.com",
  "https://api.anthropic.com@evil",
  "https://api.anthropic.com%40evil.com",
  "https://127.0.0.1",
  "https://127.0.0.1:8787",
  "https://127.1",
  "https://10.0.0.1",
  "https://169.254.169.254",
  "https://[::1]",
  "https://[::ffff:169.254.169.254]",
  "https://[::ffff:7f00:1]",
  "https://[fe80::1%25eth0]",
  "https://0x7f.1",
  "https://0x7f000001",
  "https://0X7F.0.0.1",
  "https://2130706433",
  "https://017700000001",
  "https://0177.0.0.1",
  "https://127.0.0.0x1",
  "https://0",
  "https://localhost",
  "https://localhost:8787",
  "https://localhost.localdomain",
  "https://app.localhost",
  "https://metadata.google.internal",
  "https://metadata",
  "https://x.local",
  "https://x.LOCAL",
  "https://router.lan",
  "https://1.0.0.127.in-addr.arpa",
  "https://evil.com.",
  "https://api.anthropic.com.",
  "https://api.anthropic.com..",
  "https://.api.anthropic.com",
  "https://api..anthropic.com",
  "https://аpi.anthropic.com",
  "https://api.аnthropic.com",
  "https://xn--pi-7kc.anthropic.com",
  "https://api.xn--nthropic-8fg.com",
  "https://api。anthropic。com",
  "https://api.anthropic.com\u200b",
  "https://api%2eanthropic%2ecom",
  "https://api.anthropic.com:22",
  "https://api.anthropic.com:80",
  "https://api.anthropic.com:8443",
  "https://api.anthropic.com:0443",
  "https://api.anthropic.com:",
  "https://api.anthropic.com:443:443",
  "https://api.anthropic.com:99999",
  "https://api.anthropic.com?x=1",
  "https://api.anthropic.com/?",
  "https://api.anthropic.com#evil",
  "https://api.anthropic.com/a?b",
  "https://api.anthropic.com\\@evil.com",
  "https:\\\\api.anthropic.com",
  "https:/api.anthropic.com",
  "https:api.anthropic.com",
  "//api.anthropic.com",
  "api.anthropic.com",
  "ftp://api.anthropic.com",
  "file:///etc/passwd",
  "data:text/plain,x",
  "javascript:alert(1)",
  "wss://api.anthropic.com",
  "https://",
  "https:///api.anthropic.com",
  "",
  " ",
  " https://api.anthropic.com",
  "https://api.anthropic.com ",
  "https://api.anthropic.com\n",
  "https://api.anth\tropic.com",
  "https://api.anthropic.com\r\nhost: evil",
  "https://api.anthropic.com\u0000.evil.com",
  "https://api.anthropic.com/../..",
  "https://api.anthropic.com/a/./b",
  "https://api.anthropic.com/a/..",
  "https://api.anthropic.com//evil.com",
  "https://api.anthropic.com/a//b",
  "https://api.anthropic.com/%2e%2e/x",
  "https://api.anthropic.com/a b",
  "https://api.anthropic.com/a;b",
  "https://api.anthropic.com/é",
  "https://-api.anthropic.com",
  "https://api-.anthropic.com",
  "https://api_x.anthropic.com",
  "https://*.anthropic.com",
  `https://${"a".repeat(64)}.anthropic.com`,
  `https://${"a.".repeat(124)}example.com`,
  `https://api.anthropic.com/${"a".repeat(500)}`,
];

/** Nearly what the development flag admits. */
const NOT_QUITE_LOCAL = [
  "http://127.0.0.1",
  "http://localhost",
  "http://127.0.0.1:",
  "http://127.0.0.1:80",
  "http://127.0.0.1:1023",
  "http://127.0.0.1:65536",
  "http://127.0.0.1:99999",
  "http://127.0.0.1:08080",
  "http://127.0.0.1:123456",
  "http://127.0.0.2:8080",
  "http://127.1:8080",
  "http://0x7f.1:8080",
  "http://2130706433:8080",
  "http://017700000001:8080",
  "http://0.0.0.0:8080",
  "http://[::1]:8080",
  "http://[::ffff:127.0.0.1]:8080",
  "http://LOCALHOST:8080",
  "HTTP://localhost:8080",
  "http://localhost.:8080",
  "http://127.0.0.1.:8080",
  "http://localhost.evil.com:8080",
  "http://127.0.0.1.evil.com:8080",
  "http://user:pw@127.0.0.1:8080",
  "http://127.0.0.1:8080@evil.com",
  "http://evil.com#http://127.0.0.1:8080",
  "http://127.0.0.1:8080?x",
  "http://127.0.0.1:8080#x",
  "http://127.0.0.1:8080/..",
  "http://127.0.0.1:8080//x",
  "http://127.0.0.1:8080\\x",
  "http://127.0.0.1:8080\n",
  "http://169.254.169.254:8080",
  "http://10.0.0.1:8080",
];

describe("parseBaseUrl", () => {
  it.each([...NEVER, ...NOT_QUITE_LOCAL])(
    "S-02 refuses %j, with the development flag too, and repeats nothing of it",
    (text) => {
      for (const rules of [
        ONLY_ANTHROPIC,
        LAX,
        { ...ONLY_ANTHROPIC, allowLocal: true },
        { ...LAX, allowLocal: true },
      ]) {
        const parsed = parseBaseUrl(text, rules);
        if (parsed.ok) throw new Error(`accepted as ${parsed.value}`);
        expect(parsed.error).toMatch(/^(must|names) /);
        if (text.length > 8) expect(parsed.error).not.toContain(text);
      }
    },
  );

  it.each([
    ["https://api.anthropic.com", "https://api.anthropic.com"],
    ["https://api.anthropic.com/", "https://api.anthropic.com"],
    ["https://api.anthropic.com:443", "https://api.anthropic.com"],
    ["HTTPS://API.Anthropic.COM", "https://api.anthropic.com"],
    ["https://api.anthropic.com/team-a/claude_1/~x/v1.2/", "https://api.anthropic.com/team-a/claude_1/~x/v1.2"],
  ])("accepts %s", (text, value) => {
    expect(parseBaseUrl(text, ONLY_ANTHROPIC)).toEqual({ ok: true, value });
  });

  it("goes by the list: exact names, and `*.` for what is below one and not for itself", () => {
    const rules = { hosts: ["one.example.com", "*.two.example.com"], allowLocal: false };
    const accepted = (host: string) => parseBaseUrl(`https://${host}`, rules).ok;
    expect(["one.example.com", "a.two.example.com", "a.b.two.example.com"].map(accepted)).toEqual([true, true, true]);
    const others = ["a.one.example.com", "two.example.com", "nottwo.example.com", "example.com", "api.anthropic.com"];
    expect(others.map(accepted)).toEqual([false, false, false, false, false]);
    expect(parseBaseUrl("https://one.example.com", { hosts: [], allowLocal: true }).ok).toBe(false);
  });

  it.each([
    ["http://127.0.0.1:8787", "http://127.0.0.1:8787"],
    ["http://127.0.0.1:1024/", "http://127.0.0.1:1024"],
    ["http://localhost:65535", "http://localhost:65535"],
    ["http://localhost:3000/claude/a", "http://localhost:3000/claude/a"],
  ])("accepts %s with the development flag alone", (text, value) => {
    expect(parseBaseUrl(text, { ...ONLY_ANTHROPIC, allowLocal: true })).toEqual({ ok: true, value });
    expect(parseBaseUrl(text, LAX).ok).toBe(false);
  });

  it("S-02 accepts nothing that the platform's own parser reads as another host, port, credential or query", () => {
    const scheme = fc.constantFrom("https://", "http://", "HTTPS://", "https:/", "");
    const host = fc.constantFrom(
      "api.anthropic.com",
      "API.anthropic.com",
      "127.0.0.1",
      "localhost",
      "evil.com",
      "[::1]",
      "",
    );
    const piece = fc.constantFrom(
      ...["api.anthropic.com", "evil.com", "127.0.0.1", "0x7f.1", "@", ":", ":443", ":8787", ":22", "/", "//", "/a"],
      ...["/..", "\\", ".", "?", "#", "%2e", "\t", "\n", " ", "a", "xn--", "。"],
    );
    const texts = fc
      .tuple(scheme, host, fc.array(piece, { maxLength: 3 }))
      .map(([start, name, rest]) => start + name + rest.join(""));
    let accepted = 0;
    fc.assert(
      fc.property(texts, fc.boolean(), (text, allowLocal) => {
        const parsed = parseBaseUrl(text, { ...ONLY_ANTHROPIC, allowLocal });
        if (!parsed.ok) return;
        accepted++;
        const url = new URL(`${parsed.value}/v1/messages`);
        expect(new URL(text).host).toBe(url.host);
        expect([url.username, url.password, url.search, url.hash]).toEqual(["", "", "", ""]);
        const local = allowLocal && /^(127\.0\.0\.1|localhost)$/.test(url.hostname) && Number(url.port) >= 1024;
        if (!local) expect(url.origin).toBe("https://api.anthropic.com");
        expect(url.href).toBe(`${parsed.value}/v1/messages`);
        // It is its own canonical spelling.
        expect(parseBaseUrl(parsed.value, { ...ONLY_ANTHROPIC, allowLocal })).toEqual(parsed);
      }),
      { numRuns: 3_000 },
    );
    expect(accepted).toBeGreaterThan(30);
  });
});

describe("readHosts", () => {
  it("reads a list", () => {
    expect(readHosts(" api.anthropic.com, *.Example.com ,")).toEqual({
      ok: true,
      value: ["api.anthropic.com", "*.example.com"],
    });
  });

  it.each([
    "*",
    "*.com",
    "127.0.0.1",
    "localhost",
    "a.internal",
    "https://a.com",
    "a.com:443",
    "a.*.com",
    "[::1]",
    "a.com.",
  ])("E-03 refuses the entry %s", (host) => {
    const read = readHosts(`api.anthropic.com,${host}`);
    expect(read.ok ? "" : read.error).toMatch(/^UPSTREAM_HOSTS is malformed: its entry 2 is not /);
  });
});
