import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { findingsText, findingsWith, guardRequest } from "../../src/guardrails/guard.ts";
import { type Guardrails, stricter } from "../../src/guardrails/policy.ts";
import { PlaceholderTable } from "../../src/guardrails/table.ts";
import { bytesOf, jsonBytes, standIn, textOfBytes } from "./stand-in.ts";

const policyFor = (given: Guardrails) => stricter(given, null) ?? expect.unreachable("it asks for something");
const user = (...content: unknown[]) => ({ messages: [{ role: "user", content }] });
const image = (source: unknown) => user({ type: "image", source });

function refusal(given: Guardrails, body: unknown, betas: string | null = null): string | null {
  const bytes = typeof body === "string" ? bytesOf(body) : jsonBytes(body);
  const { refused } = guardRequest(policyFor(given), { bytes, betas }, standIn, new PlaceholderTable());
  return refused?.kind === "guardrails" ? refused.message : null;
}

describe("guardRequest", () => {
  it("counts what it would have refused in time that is linear in the body", () => {
    const images = Array.from({ length: 30_000 }, (_, n) => ({
      type: "image",
      source: { type: "url", url: `https://host${n}.example.com/${"x".repeat(80)}` },
    }));
    const policy = policyFor({ mode: "audit", allow_url_sources: false });
    const { counts } = guardRequest(
      policy,
      { bytes: jsonBytes(user(...images)), betas: null },
      standIn,
      new PlaceholderTable(),
    );
    expect(counts).toEqual({ "allow_url_sources!": 30_000 });
  }, 5_000);

  it("masks, counts and blocks by type, and says where, never what", () => {
    const body = user({ type: "text", text: "a@x.org 123-45-6789 sk-abcdefgh12" });
    const guard = (given: Guardrails) =>
      guardRequest(policyFor(given), { bytes: jsonBytes(body), betas: null }, standIn, new PlaceholderTable());
    const counts = { EMAIL: 1, US_SSN: 1, SECRET: 1 };
    const masked = guard({
      redact: ["EMAIL"],
      secrets: "audit",
      patterns: [{ name: "US_SSN", pattern: "x", mode: "mask" }],
    });
    expect(masked).toMatchObject({ counts, done: "masked", refused: null });
    expect(textOfBytes(masked.bytes)).toContain('"[EMAIL_1] [US_SSN_1] sk-abcdefgh12"');
    const blocked = guard({ redact: ["EMAIL"], block: ["US_SSN"] });
    expect(blocked).toMatchObject({
      counts,
      done: "refused",
      refused: {
        kind: "guardrails",
        message: "Guardrails: messages.0.content.0.text: holds what this key may not send (US_SSN).",
      },
    });
    const audited = guard({ mode: "audit", redact: ["EMAIL"], block: ["US_SSN"], secrets: "block" });
    expect(audited).toMatchObject({ counts, done: "passed", refused: null });
    expect(textOfBytes(audited.bytes)).toBe(JSON.stringify(body));
  });

  it("refuses more text than an isolate can look through, and more findings than it can keep; what only counts passes", () => {
    const guard = (given: Guardrails, body: unknown) =>
      guardRequest(policyFor(given), { bytes: jsonBytes(body), betas: null }, () => [], new PlaceholderTable()).refused;
    const long = user({ type: "text", text: "x".repeat(5 << 20) }, { type: "text", text: "y".repeat(4 << 20) });
    expect(guard({ redact: ["EMAIL"] }, long)).toMatchObject({ kind: "request_too_large", limitBytes: 8 << 20 });
    expect(guard({ mode: "audit", redact: ["EMAIL"] }, long)).toBeNull();
    expect(guard({ max_input_chars: 100_000_000 }, long)).toBeNull();
    const data = "QUJD".repeat(3 << 20);
    const picture = image({ type: "base64", media_type: "image/png", data });
    expect(guard({ redact: ["EMAIL"] }, picture)).toBeNull();

    const each = (text: string) => Array.from(text, (_, start) => ({ start, end: start + 1, type: "EMAIL" }));
    const many = (given: Guardrails) =>
      guardRequest(
        policyFor(given),
        { bytes: jsonBytes(user({ type: "text", text: "@".repeat(100_001) })), betas: null },
        each,
        new PlaceholderTable(),
      );
    expect(many({ redact: ["EMAIL"] }).refused).toMatchObject({ kind: "guardrails" });
    expect(many({ mode: "audit", redact: ["EMAIL"] })).toMatchObject({ refused: null, counts: { EMAIL: 100_001 } });
  });

  it("counts what a limit would have refused, where a policy only counts", () => {
    const given: Guardrails = {
      mode: "audit",
      max_input_chars: 1,
      allow_tools: [],
      allow_url_sources: false,
      betas: [],
    };
    const body = {
      ...image({ type: "url", url: "https://x.org" }),
      system: "abc",
      tools: [{ name: "a" }, { name: "b" }],
    };
    const { counts, refused } = guardRequest(
      policyFor(given),
      { bytes: jsonBytes(body), betas: "x" },
      standIn,
      new PlaceholderTable(),
    );
    expect(refused).toBeNull();
    expect(counts).toEqual({ "max_input_chars!": 1, "allow_tools!": 2, "allow_url_sources!": 1, "betas!": 1 });
  });

  it("bounds the characters of all texts together, counted as UTF-16 units, escapes as what they write", () => {
    const body = '{"system":"\\u00e9\\ud83d\\ude00é","messages":[{"content":"\\n😀"}],"model":"not counted"}';
    expect(refusal({ max_input_chars: 7 }, body)).toBeNull();
    expect(refusal({ max_input_chars: 6 }, body)).toBe(
      "Guardrails: the texts of the request have more than 6 characters.",
    );
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), fc.boolean(), (text, ascii) => {
        fc.pre(text !== "");
        const json = JSON.stringify({ system: text });
        const written = ascii
          ? json.replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`)
          : json;
        expect(refusal({ max_input_chars: text.length }, written)).toBeNull();
        if (text.length > 1) expect(refusal({ max_input_chars: text.length - 1 }, written)).not.toBeNull();
      }),
      { numRuns: 60 },
    );
  });

  it.each<readonly [readonly string[], unknown, string | null]>([
    [["calc"], { name: "calc" }, null],
    [["calc"], { name: "calc", type: "custom" }, null],
    [["ca*"], { name: "calc" }, null],
    [["calc"], { name: "calculate" }, "the tool `calculate`"],
    [["custom"], { name: "calc", type: "custom" }, "the tool `calc`"],
    [["web_search"], { name: "web_search", type: "web_search_20250305" }, null],
    [["web_search_2025*"], { name: "web_search", type: "web_search_20250305" }, null],
    [["calc"], { name: "web_search", type: "web_search_20250305" }, "the tool `web_search`"],
    [["mcp_toolset"], { type: "mcp_toolset", mcp_server_name: "intern" }, null],
    [["intern"], { type: "mcp_toolset", mcp_server_name: "intern" }, null],
    [["calc"], { type: "mcp_toolset" }, "the tool `mcp_toolset`"],
    [[], { name: "the secret plan" }, "the tool of this name"],
    [["calc"], {}, "the tool of this name"],
  ])("with %j allowed, of %j refuses %s", (allowed, tool, refused) => {
    const message = refusal({ allow_tools: allowed }, { tools: [tool] });
    expect(message).toBe(refused === null ? null : `Guardrails: tools.0: this key may not use ${refused}.`);
  });

  it("refuses a tool by any of its names and types (N-02), and MCP servers by their name", () => {
    const tools = (tool: string) => refusal({ allow_tools: ["calc"] }, `{"tools":[{"name":"calc"},${tool}]}`);
    expect(tools('{"name":"calc","n\\u0061me":"rm"}')).toBe("Guardrails: tools.1: this key may not use the tool `rm`.");
    expect(tools('{"name":"rm","name":"calc"}')).toBe("Guardrails: tools.1: this key may not use the tool `rm`.");
    expect(
      refusal({ allow_tools: ["bash_1"] }, '{"tools":[{"type":"bash_1","type":"custom","name":"rm"}]}'),
    ).not.toBeNull();
    expect(refusal({ allow_tools: ["calc"] }, '{"tools":[],"tools":[{"name":"rm"}]}')).not.toBeNull();
    const servers = { mcp_servers: [{ type: "url", url: "https://x.org", name: "intern" }] };
    expect(refusal({ allow_tools: ["calc"] }, servers)).toBe(
      "Guardrails: mcp_servers.0: this key may not use the MCP server `intern`.",
    );
    expect(refusal({ allow_tools: ["intern"] }, servers)).toBeNull();
    // Callers choose its name, and its address is what it is.
    expect(refusal({ allow_tools: ["intern"], allow_url_sources: ["y.org"] }, servers)).toBe(
      "Guardrails: mcp_servers.0.url: this key may not have anything fetched from `x.org`.",
    );
    expect(refusal({ allow_url_sources: ["x.org"] }, servers)).toBeNull();
  });

  it.each<readonly [boolean | readonly string[], string, boolean]>([
    [true, "https://x.org/a", true],
    [false, "https://x.org/a", false],
    [["x.org"], "https://x.org/a", true],
    [["x.org"], "https://X.ORG./a?b", true],
    [["x.org"], "https://a.x.org", false],
    [["*.x.org"], "https://a.b.x.org", true],
    [["*.x.org"], "https://x.org", false],
    [["*.x.org"], "https://evilx.org", false],
    [["x.org"], "https://x.org@evil.com/", false],
    [["x.org"], "https://evil.com/#x.org", false],
    [["x.org"], "https://evil.com\\@x.org", false],
    [["x.org"], "https://x.org%2eevil.com", false],
    [["x.org"], "file://x.org/etc", false],
    [["x.org"], "x.org", false],
    // What other readers take for another host, or for none.
    [["x.org"], "https://x.org\\@evil.com/", false],
    [["x.org"], "https://x.org\t@evil.com/", false],
    [["x.org"], "https:x.org", false],
    [["x.org"], "https:///x.org", false],
    [["x.org"], " https://x.org", false],
    [["x.org"], "https://me:word@x.org", false],
    [["x.org"], "data:text/plain,https://x.org", false],
    [["x.org"], "//x.org/a", false],
    [["x.org"], "HTTPS://x.org:8443/a@b?c=@#d", true],
    [["xn--bcher-kva.example"], "https://Bücher.example/ä", true],
    [["x.org"], "https://xn--.org", false],
    [["x.org"], "https://x%2eorg/", false],
    [["x.org"], "https://x.o\u200brg/", false],
    [["x.org"], "https://x.\u00adorg/", false],
    [["xn--strae-oqa.example"], "https://straße.example/", false],
    [["x.org"], "https://x.org/a%20b\u200b?straße", true],
    [["x.org"], "https://x.org?a@b", true],
    [["*.x.org"], "https://a.x.org.", true],
    [["x.org"], "https://x.org..", false],
    [["127.0.0.1"], "http://0x7f.1/", true],
    [["x.org"], "https://[::1]/", false],
    [[], "https://x.org", false],
  ])("with %j, an image from %s: %s", (hosts, url, allowed) => {
    const message = refusal({ allow_url_sources: hosts, secrets: "mask" }, image({ type: "url", url }));
    expect(message === null).toBe(allowed);
    if (!allowed) expect(message).toMatch(/^Guardrails: messages\.0\.content\.0\.source\.url: this key may not have/);
  });

  it("finds addresses of documents in results too, whatever the order and the number of fields (N-02)", () => {
    const given: Guardrails = { allow_url_sources: ["x.org"] };
    const nested = user({
      type: "tool_result",
      content: [{ type: "document", source: { url: "https://evil.com", type: "url" } }],
    });
    expect(refusal(given, nested)).toMatch(/`evil\.com`/);
    const source = (fields: string) => `{"messages":[{"content":[{"type":"image","source":{${fields}}}]}]}`;
    expect(refusal(given, source('"type":"url","url":"https://x.org","u\\u0072l":"https://evil.com"'))).toMatch(
      /`evil\.com`/,
    );
    expect(refusal(given, source('"type":"url","type":"base64","url":"https://evil.com"'))).toMatch(/`evil\.com`/);
    const elsewhere = source('"type":"base64","type":"url","url":"https://evil.com"').replace("source", "origin");
    expect(refusal(given, elsewhere)).toMatch(/`evil\.com`/);
    expect(
      refusal(
        given,
        user({ type: "text", text: "https://evil.com" }, { type: "search_result", source: "https://evil.com" }),
      ),
    ).toBeNull();
  });

  it("refuses betas of the header and of the body", () => {
    const given: Guardrails = { betas: ["files-api-*", "context-1m"] };
    expect(refusal(given, {}, "context-1m , files-api-2025-04-14,")).toBeNull();
    expect(refusal(given, {}, "context-1m,mcp-client")).toBe(
      "Guardrails: anthropic-beta: this key may not use the beta `mcp-client`.",
    );
    expect(refusal(given, { betas: ["context-1m", "mcp-client"] })).toBe(
      "Guardrails: betas.1: this key may not use the beta `mcp-client`.",
    );
    expect(refusal(given, { betas: ["context-1m,mcp-client"] })).not.toBeNull();
  });

  it("looks into every request of a batch", () => {
    const bytes = jsonBytes({ requests: [{ params: {} }, { params: { tools: [{ name: "rm" }], system: "a@x.org" } }] });
    const request = { bytes, betas: null, kind: "batch" } as const;
    const { refused } = guardRequest(policyFor({ allow_tools: [] }), request, standIn, new PlaceholderTable());
    expect(refused).toMatchObject({
      message: "Guardrails: requests.1.params.tools.0: this key may not use the tool `rm`.",
    });
    const masked = guardRequest(policyFor({ redact: ["EMAIL"] }), request, standIn, new PlaceholderTable());
    expect(textOfBytes(masked.bytes)).toContain('"system":"[EMAIL_1]"');
  });

  it("takes any JSON value for a body without an exception", () => {
    const policy = policyFor({
      redact: ["EMAIL"],
      block: ["IP"],
      max_input_chars: 50,
      allow_tools: [],
      allow_url_sources: [],
      betas: [],
    });
    const key = fc.constantFrom(
      "messages",
      "content",
      "type",
      "source",
      "url",
      "tools",
      "name",
      "betas",
      "mcp_servers",
      "requests",
      "params",
    );
    const { tree } = fc.letrec((tie) => ({
      tree: fc.oneof(
        { maxDepth: 6 },
        fc.constantFrom("url", "x", "https://x", ""),
        fc.integer(),
        fc.constant(null),
        fc.array(tie("tree")),
        fc.dictionary(key, tie("tree")),
      ),
    }));
    fc.assert(
      fc.property(tree, fc.constantFrom("messages", "batch"), (value, kind) => {
        const { refused } = guardRequest(
          policy,
          { bytes: jsonBytes(value), kind, betas: null },
          standIn,
          new PlaceholderTable(),
        );
        expect(refused === null || refused.kind === "guardrails").toBe(true);
      }),
      { numRuns: 500 },
    );
  });
});

describe("findingsWith", () => {
  it("tells answers' findings apart from requests', whatever was noted", () => {
    expect(findingsWith('{"EMAIL":2}', { EMAIL: 1, IP: 3 })).toBe('{"EMAIL":2,"output.EMAIL":1,"output.IP":3}');
    expect(findingsWith(null, {})).toBeNull();
    expect(findingsWith(null, { IP: 1 })).toBe('{"output.IP":1}');
  });
});

describe("findingsText", () => {
  it("is JSON, bounded, and null for none", () => {
    expect(findingsText({})).toBeNull();
    expect(findingsText({ EMAIL: 0 })).toBeNull();
    expect(findingsText({ EMAIL: 2, "ticket-no": 1 })).toBe('{"EMAIL":2,"ticket-no":1}');
    const many = Object.fromEntries(Array.from({ length: 1_000 }, (_, n) => [`pattern_${n}`, 1]));
    const told = findingsText(many) ?? "";
    expect(told.length).toBeLessThanOrEqual(4_096);
    expect(Object.keys(JSON.parse(told)).length).toBeGreaterThan(200);
  });
});
