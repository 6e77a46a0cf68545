import { describe, expect, it } from "vitest";
import { guardRequest } from "../../src/guardrails/guard.ts";
import { redactingStream } from "../../src/guardrails/output.ts";
import { stricter } from "../../src/guardrails/policy.ts";
import { PlaceholderTable } from "../../src/guardrails/table.ts";
import { unmaskingStream } from "../../src/guardrails/unmask.ts";
import { bytesOf, standIn, textOfBytes } from "./stand-in.ts";
import { callBlock, streamOf, textBlock, through, told } from "./streams.ts";

/** What the runtime brings itself: decoders, addresses, regular expressions. */
describe("guardrails in the Workers runtime", () => {
  it("mask a body and put values back into a stream, byte by byte", () => {
    const policy = stricter({ redact: ["EMAIL"], allow_url_sources: ["*.x.org"] }, null) ?? expect.unreachable();
    const table = new PlaceholderTable();
    const bytes = bytesOf('{"system":"\ufeff\\ud83d\\ude00 jo\\u00e9@x.org é 😀x@x.org"}');
    const { bytes: masked, counts } = guardRequest(policy, { bytes, betas: null }, standIn, table);
    expect(textOfBytes(masked)).toBe('{"system":"\ufeff\\ud83d\\ude00 [EMAIL_1] é [EMAIL_2]"}');
    expect(counts).toEqual({ EMAIL: 2 });
    const stream = streamOf([...textBlock(0, "[EMA", "IL_2]"), ...callBlock(1, '{"a":"[EMAIL_1', ']"}')], "\r\n");
    const { blocks } = told(through(unmaskingStream(table), stream, 1));
    expect(blocks.map(({ text, json }) => text ?? json)).toEqual(["😀x@x.org", '{"a":"joé@x.org"}']);
  });

  it("know the host of an address", () => {
    const policy = stricter({ allow_url_sources: ["*.x.org"] }, null) ?? expect.unreachable();
    const check = (url: string) => {
      const bytes = bytesOf(
        JSON.stringify({ messages: [{ content: [{ type: "image", source: { type: "url", url } }] }] }),
      );
      return guardRequest(policy, { bytes, betas: null }, standIn, new PlaceholderTable()).refused;
    };
    expect(check("https://A.x.org./p")).toBeNull();
    for (const url of ["https://x.org", "https://a.x.org@evil.com", "https://evil.com\\@a.x.org", "//a.x.org", ""]) {
      expect(check(url)).not.toBeNull();
    }
  });

  it("redact a stream, byte by byte", () => {
    const acts = new Map([["EMAIL", "mask"]] as const);
    const { stream } = redactingStream({ detect: standIn, acts, table: new PlaceholderTable() });
    const { blocks } = told(through(stream, streamOf(textBlock(0, "😀 jo", "é@x.", "org!")), 1));
    expect(blocks[0]?.text).toBe("😀 [EMAIL_1]!");
  });
});
