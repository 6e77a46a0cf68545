import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type PartRole, readParts, readReasoning } from "../../../src/wire/openai/parts.ts";

const AT = "messages[3].content";
function blocksOf(content: unknown, role: PartRole = "user"): unknown {
  const blocks = readParts(content, AT, role);
  if (!blocks.ok) throw new Error(JSON.stringify(blocks.error));
  return blocks.value;
}
function paramOf(content: unknown, role: PartRole = "user"): unknown {
  const blocks = readParts(content, AT, role);
  return blocks.ok ? "accepted" : (blocks.error as { param?: unknown }).param;
}
const base64 = (text: string): string => btoa(String.fromCharCode(...new TextEncoder().encode(text)));
const image = (url: string): unknown => [{ type: "image_url", image_url: { url, detail: "high" } }];
const file = (file: Record<string, unknown>): unknown => [{ type: "file", file }];

describe("readParts", () => {
  it("takes a text, nothing, texts, and the text parts of both APIs", () => {
    expect(blocksOf("x")).toEqual([{ type: "text", text: "x" }]);
    expect(blocksOf(null)).toEqual([]);
    expect(blocksOf(undefined)).toEqual([]);
    const text = (text: string) => ({ type: "text", text });
    expect(
      blocksOf(["a", { type: "text", text: "b", annotations: [] }, { type: "input_text", text: "c" }], "system"),
    ).toEqual([text("a"), text("b"), text("c")]);
    expect(
      blocksOf(
        [
          { type: "output_text", text: "a" },
          { type: "refusal", refusal: "no" },
        ],
        "assistant",
      ),
    ).toEqual([text("a"), text("no")]);
  });

  it("keeps cache breakpoints, their lifetime with them, and OpenAI's own", () => {
    const part = (more: object) => [{ type: "text", text: "x", ...more }];
    const cached = (cache_control: object) => part({ cache_control });
    expect(blocksOf(cached({ type: "ephemeral", ttl: "1h", scope: "?" }))).toEqual(
      cached({ type: "ephemeral", ttl: "1h" }),
    );
    expect(blocksOf(part({ prompt_cache_breakpoint: { mode: "explicit" } }))).toEqual(cached({ type: "ephemeral" }));
    expect(blocksOf(part({ prompt_cache_breakpoint: { mode: "?" }, cache_control: null }))).toEqual(part({}));
    expect(paramOf(cached({ type: "forever" }))).toBe(`${AT}[0].cache_control`);
    expect(paramOf(cached({ type: "ephemeral", ttl: "2h" }))).toBe(`${AT}[0].cache_control.ttl`);
  });

  it("names the part that it refuses", () => {
    for (const [content, param] of [
      [7, AT],
      [{ type: "text", text: "x" }, AT],
      [["a", null], `${AT}[1]`],
      [["a", []], `${AT}[1]`],
      [["a", { text: "x" }], `${AT}[1]`],
      [["a", { type: "text" }], `${AT}[1].text`],
      [["a", { type: "input_audio", input_audio: { data: "", format: "wav" } }], `${AT}[1]`],
      [["a", { type: "video_url", video_url: { url: "https://x.test/" } }], `${AT}[1]`],
      [["a", { type: "tool_use", id: "i", name: "n", input: {} }], `${AT}[1]`],
      [["a", { type: "thinking", thinking: "", signature: "s" }], `${AT}[1]`],
      [["a", { type: "tool_result" }], `${AT}[1].tool_use_id`],
      [["a", { type: "tool_result", tool_use_id: "i", content: [{ type: "x" }] }], `${AT}[1].content[0]`],
      [["a", { type: "constructor" }], `${AT}[1]`],
    ] as const) {
      expect(paramOf(content)).toBe(param);
    }
    for (const part of [
      { type: "image_url", image_url: { url: "https://x.test/a.png" } },
      { type: "file", file: { file_data: "AAAA" } },
      { type: "document", source: { type: "text", media_type: "text/plain", data: "x" } },
    ]) {
      expect(paramOf([part], "assistant")).toBe(`${AT}[0]`);
      expect(paramOf([part], "system")).toBe(`${AT}[0]`);
      expect(paramOf([part], "tool")).toBe("accepted");
    }
  });

  it("takes Anthropic's blocks as Cursor sends them", () => {
    const use = { type: "tool_use", id: "toolu_9", name: "read", input: { path: "a" }, index: 0 };
    expect(
      blocksOf(
        [
          { type: "thinking", thinking: "hm", signature: "s", cache_control: { type: "ephemeral" } },
          { type: "thinking", thinking: "unsigned" },
          { type: "thinking", thinking: "unsigned", signature: "" },
          { type: "redacted_thinking", data: "d" },
          { type: "text", text: "Reading." },
          { ...use, cache_control: { type: "ephemeral" } },
          { type: "web_search_tool_result", tool_use_id: "srvtoolu_1", content: [] },
        ],
        "assistant",
      ),
    ).toEqual([
      { type: "thinking", thinking: "hm", signature: "s" },
      { type: "redacted_thinking", data: "d" },
      { type: "text", text: "Reading." },
      { type: "tool_use", id: "toolu_9", name: "read", input: { path: "a" }, cache_control: { type: "ephemeral" } },
      { type: "web_search_tool_result", tool_use_id: "srvtoolu_1", content: [] },
    ]);
    expect(
      blocksOf([
        { type: "tool_result", tool_use_id: "a", content: "x", is_error: true },
        { type: "tool_result", tool_use_id: "b", content: image("https://x.test/a.png") },
        { type: "tool_result", tool_use_id: "c", content: null, is_error: false },
      ]),
    ).toEqual([
      { type: "tool_result", tool_use_id: "a", content: [{ type: "text", text: "x" }], is_error: true },
      {
        type: "tool_result",
        tool_use_id: "b",
        content: [{ type: "image", source: { type: "url", url: "https://x.test/a.png" } }],
      },
      { type: "tool_result", tool_use_id: "c" },
    ]);
  });

  it("never throws, whatever the content is", () => {
    const json = fc.jsonValue({ maxDepth: 4 });
    const types = fc.constantFrom(
      "text",
      "image_url",
      "file",
      "input_file",
      "image",
      "document",
      "tool_result",
      "thinking",
    );
    const part = fc.tuple(
      types,
      fc.dictionary(fc.constantFrom("text", "image_url", "file", "source", "content"), json),
    );
    fc.assert(
      fc.property(
        fc.oneof(json, fc.array(part.map(([type, fields]) => ({ type, ...fields })))),
        fc.constantFrom<PartRole>("system", "user", "assistant", "tool"),
        (content, role) => {
          const blocks = readParts(content, AT, role);
          if (!blocks.ok) expect((blocks.error as { param: string }).param.startsWith(AT)).toBe(true);
        },
      ),
    );
  });
});

describe("images", () => {
  const inline = (media_type: string, data: string) => [
    { type: "image", source: { type: "base64", media_type, data } },
  ];

  it("become base64, under the type that Claude knows", () => {
    expect(blocksOf(image("data:image/jpg;base64,/9j/4AAQ"))).toEqual(inline("image/jpeg", "/9j/4AAQ"));
    expect(blocksOf(image("data:image/PNG;charset=utf-8;base64,iVBO"))).toEqual(inline("image/png", "iVBO"));
    expect(blocksOf(image("DATA:image/webp;base64,UklG\r\nRg=="))).toEqual(inline("image/webp", "UklGRg=="));
    expect(blocksOf([{ type: "input_image", image_url: "data:image/gif;base64,R0lG" }])).toEqual(
      inline("image/gif", "R0lG"),
    );
    expect(blocksOf([{ type: "image", source: { type: "base64", media_type: "image/jpg", data: "/9j/" } }])).toEqual(
      inline("image/jpeg", "/9j/"),
    );
  });

  it("are left to Claude to fetch", () => {
    for (const url of ["https://x.test/a.png", "HTTP://x.test/a"]) {
      expect(blocksOf(image(url))).toEqual([{ type: "image", source: { type: "url", url } }]);
    }
    expect(blocksOf([{ type: "input_image", file_id: "file_1" }])).toEqual([
      { type: "image", source: { type: "file", file_id: "file_1" } },
    ]);
  });

  it("are refused in any other form", () => {
    const at = `${AT}[0].image_url.url`;
    for (const url of [
      "data:image/svg+xml;base64,PHN2Zz4=",
      "data:image/bmp;base64,Qk0=",
      "data:image/png,abc",
      "data:image/png;base64,",
      "data:image/png",
      "data:",
      "file:///etc/passwd",
      "blob:x",
      "https://",
      "",
    ]) {
      expect(paramOf(image(url))).toBe(at);
    }
    expect(paramOf([{ type: "image_url", image_url: null }])).toBe(`${AT}[0].image_url`);
    expect(paramOf([{ type: "image_url", image_url: { url: 7 } }])).toBe(at);
    expect(paramOf([{ type: "input_image", file_id: "file-openai" }])).toBe(`${AT}[0].file_id`);
    expect(paramOf([{ type: "image", source: { type: "base64", media_type: "image/tiff", data: "x" } }])).toBe(
      `${AT}[0].source`,
    );
  });
});

describe("files", () => {
  const pdf = (data: string, more: object = {}) => [
    { type: "document", source: { type: "base64", media_type: "application/pdf", data }, ...more },
  ];
  const text = (data: string, more: object = {}) => [
    { type: "document", source: { type: "text", media_type: "text/plain", data }, ...more },
  ];

  it("become documents with their name for a title", () => {
    const uri = "data:application/pdf;base64,JVBE";
    expect(blocksOf(file({ filename: "a.pdf", file_data: uri }))).toEqual(pdf("JVBE", { title: "a.pdf" }));
    expect(blocksOf(file({ file_data: uri, filename: " " }))).toEqual(pdf("JVBE"));
    expect(blocksOf(file({ file_data: "JVBE\nRi0=" }))).toEqual(pdf("JVBERi0="));
    expect(blocksOf([{ type: "input_file", filename: "a.pdf", file_data: uri }])).toEqual(
      pdf("JVBE", { title: "a.pdf" }),
    );
  });

  it("become plain text where they are text of any kind", () => {
    expect(blocksOf(file({ filename: "n.txt", file_data: "data:text/plain;base64,aMOpbGxv" }))).toEqual(
      text("héllo", { title: "n.txt" }),
    );
    for (const type of ["text/markdown", "text/csv;charset=utf-8", "application/json", "application/ld+json"]) {
      expect(blocksOf(file({ file_data: `data:${type};base64,${base64("x: ✓")}` }))).toEqual(text("x: ✓"));
    }
    expect(blocksOf(file({ file_data: "data:text/plain,h%C3%A9llo%20you" }))).toEqual(text("héllo you"));
    expect(blocksOf(file({ file_data: "data:;base64,eA==" }))).toEqual(text("x"));
  });

  it("become images, ids of Anthropic's files, or addresses, where they are that", () => {
    expect(blocksOf(file({ file_data: "data:image/png;base64,iVBO" }))).toEqual([
      { type: "image", source: { type: "base64", media_type: "image/png", data: "iVBO" } },
    ]);
    expect(blocksOf(file({ file_id: "file_011", filename: "a.pdf" }))).toEqual([
      { type: "document", source: { type: "file", file_id: "file_011" }, title: "a.pdf" },
    ]);
    const there = [{ type: "document", source: { type: "url", url: "https://x.test/a.pdf" } }];
    expect(blocksOf([{ type: "input_file", file_url: "https://x.test/a.pdf" }])).toEqual(there);
    expect(blocksOf(file({ file_data: "https://x.test/a.pdf" }))).toEqual(there);
    const native = { type: "document", source: { type: "text", media_type: "text/plain", data: "x" } };
    const known = { ...native, title: "t", context: "c", citations: { enabled: true } };
    expect(blocksOf([{ ...known, junk: 1 }])).toEqual([known]);
  });

  it("are refused in any other form", () => {
    for (const [each, param] of [
      [{ file_data: "data:application/zip;base64,UEsD" }, "file.file_data"],
      [{ file_data: "data:application/pdf,plain" }, "file.file_data"],
      [{ file_data: "data:text/plain;base64,%%%" }, "file.file_data"],
      [{ file_data: "data:text/plain,%E0%A4%A" }, "file.file_data"],
      [{ file_data: "data:text/plain;base64," }, "file.file_data"],
      [{ file_data: "" }, "file.file_data"],
      [{ file_id: "file-abc123" }, "file.file_id"],
      [{ file_url: "ftp://x.test" }, "file.file_url"],
      [{ filename: "a" }, "file"],
    ] as const) {
      expect(paramOf(file(each))).toBe(`${AT}[0].${param}`);
    }
    expect(paramOf([{ type: "file" }])).toBe(`${AT}[0]`);
    expect(paramOf([{ type: "document", source: { type: "url", url: "x" } }])).toBe(`${AT}[0].source`);
  });

  it("read any text in any data URI back as it was", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", minLength: 1 }), (written) => {
        fc.pre(written.trim() !== "" && !written.startsWith("\ufeff") && written.isWellFormed());
        for (const data of [
          `data:text/plain;base64,${base64(written)}`,
          `data:text/x,${encodeURIComponent(written)}`,
        ]) {
          expect(blocksOf(file({ file_data: data }))).toEqual(text(written));
        }
      }),
    );
  });
});

describe("readReasoning", () => {
  it("takes back signed and encrypted thinking, in its order, and nothing else", () => {
    expect(
      readReasoning(
        [
          { type: "reasoning.text", text: "a", signature: "s1", format: "anthropic-claude-v1", index: 0 },
          { type: "reasoning.encrypted", data: "d" },
          { type: "reasoning.encrypted" },
          { type: "reasoning.summary", summary: "no" },
          { type: "reasoning.text", text: "unsigned" },
          null,
        ],
        "a",
      ),
    ).toEqual([
      { type: "thinking", thinking: "a", signature: "s1" },
      { type: "redacted_thinking", data: "d" },
    ]);
    expect(readReasoning(undefined, "thoughts")).toEqual([]);
    expect(readReasoning("x", "thoughts")).toEqual([]);
  });

  it("puts text and signature together where a client keeps the pieces of a stream", () => {
    expect(readReasoning([{ text: "a" }, { type: "reasoning.text", text: "b" }, { signature: "s" }], null)).toEqual([
      { type: "thinking", thinking: "ab", signature: "s" },
    ]);
    expect(
      readReasoning(
        [
          { text: "a", signature: "s" },
          { text: "b", signature: "t" },
        ],
        "ab",
      ),
    ).toEqual([
      { type: "thinking", thinking: "a", signature: "s" },
      { type: "thinking", thinking: "b", signature: "t" },
    ]);
    expect(readReasoning([{ signature: "s" }], "said elsewhere")).toEqual([
      { type: "thinking", thinking: "said elsewhere", signature: "s" },
    ]);
    expect(readReasoning([{ signature: "s" }], undefined)).toEqual([
      { type: "thinking", thinking: "", signature: "s" },
    ]);
  });
});
