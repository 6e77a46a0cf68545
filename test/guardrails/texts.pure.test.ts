import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { textOf } from "../../src/guardrails/apply/json-text.ts";
import { bodyFacts, DOCUMENTS, type DocumentKind, placeOf, textsOf } from "../../src/guardrails/texts.ts";
import { bytesOf, jsonBytes } from "./stand-in.ts";

function textsIn(json: string, kind: DocumentKind = "messages"): string[] {
  const bytes = bytesOf(json);
  return textsOf(bytes, kind).map(({ start, end }) => textOf(bytes, start, end));
}
const ofBody = (body: unknown): string[] => textsIn(JSON.stringify(body));
const ofContent = (...content: unknown[]): string[] => ofBody({ messages: [{ role: "user", content }] });

describe("textsOf", () => {
  it.each<readonly [string, unknown, readonly string[]]>([
    ["system as a string", { system: "yes" }, ["yes"]],
    ["system as blocks", { system: [{ type: "text", text: "yes", cache_control: { type: "ephemeral" } }] }, ["yes"]],
    ["content as a string", { messages: [{ role: "user", content: "yes" }] }, ["yes"]],
    ["a system turn", { messages: [{ role: "system", content: [{ type: "text", text: "yes" }] }] }, ["yes"]],
    ["a tool's description", { tools: [{ name: "no", description: "yes", type: "custom" }] }, ["yes"]],
    [
      "descriptions in a tool's schema, also of a field called description",
      {
        tools: [
          {
            name: "no",
            input_schema: {
              type: "object",
              title: "yes 1",
              properties: { description: { type: "string", description: "yes 2", enum: ["no"], default: "no" } },
              required: ["description"],
            },
            input_examples: [{ description: "yes 3", id: "yes 4" }],
          },
        ],
      },
      ["yes 1", "yes 2", "yes 3", "yes 4"],
    ],
    [
      "descriptions in a format",
      { output_config: { effort: "low", format: { type: "json_schema", schema: { description: "yes" } } } },
      ["yes"],
    ],
    [
      "nothing of settings",
      {
        model: "no",
        metadata: { user_id: "no" },
        container: { id: "no", skills: [{ skill_id: "no" }] },
        stop_sequences: ["no"],
        tool_choice: { type: "tool", name: "no" },
        thinking: { type: "enabled" },
        mcp_servers: [{ type: "url", url: "https://no", name: "no", authorization_token: "no" }],
        betas: ["no"],
        cache_control: { type: "ephemeral", ttl: "1h" },
      },
      [],
    ],
    ["instructions for a compaction", { context_management: { edits: [{ type: "x", instructions: "yes" }] } }, ["yes"]],
    ["a field that is not known", { briefing: { part: ["yes"], type: "no" } }, ["yes"]],
  ])("finds %s", (_what, body, texts) => {
    expect(ofBody(body)).toEqual(texts);
  });

  it.each<readonly [string, unknown, readonly string[]]>([
    [
      "a text",
      { type: "text", text: "yes", citations: [{ cited_text: "yes 2", url: "no", encrypted_index: "no" }] },
      ["yes", "yes 2"],
    ],
    ["a result", { type: "tool_result", tool_use_id: "no", content: "yes" }, ["yes"]],
    ["a result's blocks", { type: "tool_result", content: [{ type: "text", text: "yes" }] }, ["yes"]],
    [
      "what a tool is given, whatever its fields are called, but not their names",
      {
        type: "tool_use",
        id: "no",
        name: "no",
        input: { id: "a", url: ["b", { type: "c", data: "d" }], signature: 1 },
      },
      ["a", "b", "c", "d"],
    ],
    ["what a server's tool is given", { type: "server_tool_use", name: "no", input: { query: "yes" } }, ["yes"]],
    [
      "a document of text",
      {
        type: "document",
        source: { type: "text", media_type: "text/plain", data: "yes" },
        title: "yes 2",
        context: "yes 3",
      },
      ["yes", "yes 2", "yes 3"],
    ],
    [
      "a document of blocks",
      { type: "document", source: { type: "content", content: [{ type: "text", text: "yes" }] } },
      ["yes"],
    ],
    ["nothing of base64", { type: "image", source: { type: "base64", media_type: "image/png", data: "no" } }, []],
    ["nothing of an address", { type: "image", source: { type: "url", url: "https://no" } }, []],
    [
      "a search result",
      { type: "search_result", source: "https://no", title: "yes", content: [{ type: "text", text: "yes 2" }] },
      ["yes", "yes 2"],
    ],
    ["nothing of thinking", { type: "thinking", thinking: "no", signature: "no" }, []],
    ["nothing of hidden thinking", { type: "redacted_thinking", data: "no" }, []],
    [
      "what a program wrote",
      { type: "x_tool_result", content: { type: "x_result", stdout: "yes", encrypted_stdout: "no" } },
      ["yes"],
    ],
    ["a summary", { type: "compaction", content: "yes", encrypted_content: "no", signature: "no" }, ["yes"]],
    [
      "a block that is not known",
      { type: "hologram", caption: "yes", data: "yes 2", parts: [{ words: "yes 3" }] },
      ["yes", "yes 2", "yes 3"],
    ],
    ["what only says that it is thinking", { type: "text", thinking: "yes", text: "yes 2" }, ["yes", "yes 2"]],
    ["tools that come with a message", { type: "tool_addition", tools: [{ name: "no", description: "yes" }] }, ["yes"]],
  ])("finds in a message %s", (_what, block, texts) => {
    expect(ofContent(block)).toEqual(texts);
  });

  it("does not depend on the order of keys, nor on how they are spelled (N-02)", () => {
    expect(textsIn('{"messages":[{"content":[{"text":"yes","type":"text"}],"role":"user"}]}')).toEqual(["yes"]);
    expect(textsIn('{"mess\\u0061ges":[{"cont\\u0065nt":[{"t\\u0065xt":"yes"}]}]}')).toEqual(["yes"]);
    const source = '{"data":"no","media_type":"x","t\\u0079pe":"bas\\u0065" , "x":1}'.replace(
      '"bas\\u0065"',
      '"bas\\u006564"',
    );
    expect(textsIn(`{"messages":[{"content":[{"type":"image","source":${source}}]}]}`)).toEqual([]);
  });

  it("finds each of several occurrences of a field, and believes no type that another one contradicts (N-02)", () => {
    expect(
      textsIn('{"system":"a","system":"b","messages":[{"content":"c","content":[{"text":"d","text":"e"}]}]}'),
    ).toEqual([..."abcde"]);
    expect(textsIn('{"messages":[{"content":[{"source":{"type":"base64","data":"yes","type":"text"}}]}]}')).toEqual([
      "yes",
    ]);
  });

  it("finds the texts of every request of a batch", () => {
    const params = (content: string) => ({
      params: { model: "no", messages: [{ role: "user", content }] },
      custom_id: "no",
    });
    const bytes = jsonBytes({ requests: [params("a"), params("b")] });
    expect(textsOf(bytes, "batch").map(({ start, end }) => textOf(bytes, start, end))).toEqual(["a", "b"]);
  });

  it("finds what an answer says, and not what binds it", () => {
    const message = {
      model: "no",
      id: "no",
      type: "message",
      role: "assistant",
      content: [
        { type: "thinking", thinking: "no", signature: "no" },
        { type: "compaction", content: "no", encrypted_content: "no" },
        { type: "text", text: "a", citations: [{ type: "char_location", cited_text: "b", document_title: "c" }] },
        { type: "tool_use", id: "no", name: "no", input: { deep: [["d"]] } },
        { type: "web_fetch_tool_result", content: { url: "no", content: { source: { type: "text", data: "e" } } } },
      ],
      stop_reason: "no",
      stop_sequence: "no",
    };
    expect(textsIn(JSON.stringify(message), "message")).toEqual([..."abcde"]);
    const line = { custom_id: "no", result: { type: "succeeded", message } };
    expect(textsIn(JSON.stringify(line), "result")).toEqual([..."abcde"]);
  });

  it("takes any JSON, of whatever shape, and any bytes, without an exception", () => {
    const kinds = Object.keys(DOCUMENTS) as DocumentKind[];
    const key = fc.constantFrom(
      "messages",
      "content",
      "type",
      "source",
      "data",
      "url",
      "tools",
      "input",
      "name",
      "delta",
      "requests",
    );
    const { tree } = fc.letrec((tie) => ({
      tree: fc.oneof(
        { maxDepth: 6 },
        fc.string(),
        fc.integer(),
        fc.constant(null),
        fc.array(tie("tree")),
        fc.dictionary(key, tie("tree")),
      ),
    }));
    fc.assert(
      fc.property(tree, fc.uint8Array({ maxLength: 40 }), fc.nat(200), (value, noise, cut) => {
        const bytes = jsonBytes(value);
        for (const kind of kinds) {
          for (const { start, end } of textsOf(bytes, kind)) expect(typeof textOf(bytes, start, end)).toBe("string");
          bodyFacts(bytes.subarray(0, cut), kind, { keys: true });
          bodyFacts(noise, kind);
        }
      }),
      { numRuns: 300 },
    );
  });

  it("says where a text stands, without names that a caller made up", () => {
    const body = {
      messages: [{ content: "a" }, { content: [1, { type: "tool_use", input: { "jane@doe.org": "b" } }] }],
    };
    const bytes = jsonBytes(body);
    const places = textsOf(bytes, "messages").map(({ start }) => placeOf(bytes, start));
    expect(places).toEqual(["messages.0.content", "messages.1.content.1.input"]);
    const odd = bytesOf('{"Jane":{"x":["a"]}}');
    expect(textsOf(odd, "messages").map(({ start }) => placeOf(odd, start))).toEqual(["the body"]);
  });
});
