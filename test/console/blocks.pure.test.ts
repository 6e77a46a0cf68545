import { describe, expect, it } from "vitest";
import { blocksOf } from "../../src/console/blocks.ts";

describe("the blocks of an answer", () => {
  it.each([
    ["one\ntwo\n\nthree", ["text: one\ntwo", "text: three"]],
    ["# Head\ntext\n## Next", ["heading: # Head", "text: text", "heading: ## Next"]],
    ["text\n- a\n  more\n  - b\nend", ["text: text", "list: - a\n  more\n  - b", "text: end"]],
    ["1. a\n2) b", ["list: 1. a\n2) b"]],
    ["| a |\n| - |\n| 1 |", ["table: | a |\n| - |\n| 1 |"]],
    ["| a |\n| 1 |", ["text: | a |\n| 1 |"]],
    ["> a\n> b\n---\nc", ["quote: > a\n> b", "rule: ---", "text: c"]],
    ["```js\n# a\n\n```` b\n```\n- c", ["code: # a\n\n```` b", "list: - c"]],
    ["- a\n  ~~~\n  b\n    c\n  ~~~", ["list: - a", "code: b\n  c"]],
    ["```\nnot closed", ["code: not closed"]],
    ["**not a list**\n-nor this\n#nor a head", ["text: **not a list**\n-nor this\n#nor a head"]],
  ])("%j", (text, blocks) => {
    const found = blocksOf(text);
    expect(found.map((block) => `${block.kind}: ${block.text}`)).toEqual(blocks);
    for (const [at, { from }] of found.entries()) expect(blocksOf(text.slice(from))).toHaveLength(found.length - at);
  });
});
