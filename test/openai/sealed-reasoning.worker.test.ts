import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { reasoningSealer, unseal } from "../../src/openai/sealed-reasoning.ts";
import type { Block, Draft, Turn } from "../../src/wire/openai/draft.ts";

const NEW = "tag-secret-new-0123456789";
const OLD = "tag-secret-old-0123456789";
const KEY = "01k0gatewaykey";
const MODEL = "claude-opus-5";
const ORGANIZATION = "org-1";
const BLOCKS: Block[] = [
  { type: "thinking", thinking: "Let me see … 🤔", signature: "SIG1" },
  { type: "redacted_thinking", data: "RED1" },
];

const draftOf = (turns: Turn[]): Draft => ({ turns }) as Draft;
const sealedBlock = (data: string): Block => ({ type: "sealed", data });

describe("reasoningSealer", () => {
  it("opens what it has sealed, of any length", async () => {
    const { sealOf, open } = reasoningSealer([NEW], KEY);
    const seal = sealOf(ORGANIZATION);
    for (const length of [0, 1, 100_000, 2_000_000]) {
      const blocks = [{ type: "thinking", thinking: "é".repeat(length), signature: "SIG" }];
      expect(await open(await seal(MODEL, blocks))).toEqual({ model: MODEL, organization: ORGANIZATION, blocks });
    }
  });

  it("shows nothing of it, and seals the same the same", async () => {
    const sealed = await reasoningSealer([NEW], KEY).sealOf(ORGANIZATION)(MODEL, BLOCKS);
    expect(sealed).toMatch(/^slc1\.[A-Za-z0-9+/]+=*$/);
    expect(atob(sealed.slice(5))).not.toContain("SIG1");
    expect(await reasoningSealer([NEW], KEY).sealOf(ORGANIZATION)(MODEL, BLOCKS)).toBe(sealed);
    expect(await reasoningSealer([NEW], KEY).sealOf(ORGANIZATION)(MODEL, BLOCKS.slice(1))).not.toContain(
      sealed.slice(5, 21),
    );
  });

  it("goes on opening while the secret is exchanged, and not after", async () => {
    const sealed = await reasoningSealer([OLD], KEY).sealOf(ORGANIZATION)(MODEL, BLOCKS);
    expect(await reasoningSealer([NEW, OLD], KEY).open(sealed)).toEqual({
      model: MODEL,
      organization: ORGANIZATION,
      blocks: BLOCKS,
    });
    expect(await reasoningSealer([NEW], KEY).open(sealed)).toBeNull();
    const renewed = await reasoningSealer([NEW, OLD], KEY).sealOf(ORGANIZATION)(MODEL, BLOCKS);
    expect(await reasoningSealer([NEW], KEY).open(renewed)).toEqual({
      model: MODEL,
      organization: ORGANIZATION,
      blocks: BLOCKS,
    });
  });

  it("opens nothing of another key's", async () => {
    const sealed = await reasoningSealer([NEW], KEY).sealOf(ORGANIZATION)(MODEL, BLOCKS);
    expect(await reasoningSealer([NEW], "01k0another").open(sealed)).toBeNull();
  });

  it("opens nothing that is damaged or foreign, and never throws", async () => {
    const { sealOf, open } = reasoningSealer([NEW, OLD], KEY);
    const seal = sealOf(ORGANIZATION);
    const sealed = await seal(MODEL, BLOCKS);
    const damaged = fc
      .tuple(fc.nat(sealed.length - 1), fc.constantFrom("A", "b", "!", "=", "é", ""))
      .map(([at, char]) => sealed.slice(0, at) + char + sealed.slice(at + 1))
      .filter((text) => text !== sealed);
    // The last character of base64 may hold bits that say nothing.
    const opened = async (text: string) => {
      const blocks = await open(text);
      if (blocks !== null) expect(atob(text.slice(5))).toBe(atob(sealed.slice(5)));
    };
    await fc.assert(fc.asyncProperty(fc.oneof(damaged, fc.string(), fc.base64String()), opened), { numRuns: 300 });
    for (const text of ["", "slc1.", "slc1.AAAA", "gAAAAABforeign", sealed.slice(0, 30)])
      expect(await open(text)).toBeNull();
  });

  it("opens nothing but thinking", async () => {
    const { sealOf, open } = reasoningSealer([NEW], KEY);
    const seal = sealOf(ORGANIZATION);
    expect(await open(await seal(MODEL, [{ type: "text", text: "hidden" }]))).toBeNull();
  });
});

describe("unseal", () => {
  it("puts the blocks where they were, and drops what does not open together with its empty turn", async () => {
    const sealer = reasoningSealer([NEW], KEY);
    const call: Block = { type: "tool_use", id: "toolu_1", name: "f", input: {} };
    const user: Turn = { role: "user", content: [{ type: "text", text: "w?" }] };
    const draft = draftOf([
      user,
      { role: "assistant", content: [sealedBlock(await sealer.sealOf(ORGANIZATION)(MODEL, BLOCKS)), call] },
      { role: "assistant", content: [sealedBlock("foreign"), call] },
      { role: "assistant", content: [sealedBlock("foreign")] },
    ]);
    await unseal(draft, sealer, MODEL);
    expect(draft.turns).toEqual([
      user,
      { role: "assistant", content: [...BLOCKS, call], organization: ORGANIZATION },
      { role: "assistant", content: [call] },
    ]);
  });

  it("takes away thinking of another model, but not of another name of the same", async () => {
    const sealer = reasoningSealer([NEW], KEY);
    const data = await sealer.sealOf(ORGANIZATION)("claude-haiku-4-5-20251001", BLOCKS);
    const thinkingFor = async (model: string) => {
      const draft = draftOf([{ role: "assistant", content: [sealedBlock(data)] }]);
      await unseal(draft, sealer, model);
      return draft.turns;
    };
    expect(await thinkingFor("claude-haiku-4-5")).toEqual([
      { role: "assistant", content: BLOCKS, organization: ORGANIZATION },
    ]);
    expect(await thinkingFor("claude-opus-5")).toEqual([]);
  });
});
