/** Where the blocks of a Markdown text begin and end. Pure. */

export type Block =
  | {
      readonly kind: "text" | "heading" | "quote" | "list" | "table" | "rule";
      readonly from: number;
      readonly text: string;
    }
  | { readonly kind: "code"; readonly from: number; readonly text: string; readonly language: string };
type LineKind = Exclude<Block["kind"], "code">;

const FENCE = /^(\s*)(```+|~~~+)\s*([\w+#.-]*)/;
export const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
export const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(?:\s+(.*))?$/;
export const QUOTE = /^ {0,3}> ?/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const CELLS = /^\s*\|.*\|\s*$/;
const TABLE_LINE = /^\s*\|(?:\s*:?-+:?\s*\|)+\s*$/;

/** `from`: where in the text the block begins. */
export function blocksOf(text: string): readonly Block[] {
  const blocks: Block[] = [];
  let at = 0;
  let begun = 0;
  let lines: string[] = [];
  let kind: LineKind = "text";
  let fence: { readonly mark: string; readonly indent: number; readonly language: string } | undefined;
  const end = (): void => {
    const all = lines.join("\n");
    if (fence) blocks.push({ kind: "code", from: begun, text: all, language: fence.language });
    else if (all.trim() !== "") blocks.push({ kind: isTable(kind, lines), from: begun, text: all });
    lines = [];
    fence = undefined;
  };
  for (const line of text.split("\n")) {
    const [, indent = "", mark, language = ""] = FENCE.exec(line) ?? [];
    if (fence && mark !== undefined && language === "" && mark.startsWith(fence.mark)) end();
    else if (fence) lines.push(line.slice(Math.min(fence.indent, line.length - line.trimStart().length)));
    else if (mark !== undefined) {
      end();
      fence = { mark, indent: indent.length, language };
      begun = at;
    } else if (line.trim() === "") end();
    else {
      const now = kindOf(line, lines.length > 0 ? kind : null);
      if (now !== kind || now === "heading" || now === "rule") end();
      kind = now;
      if (lines.length === 0) begun = at;
      lines.push(line);
    }
    at += line.length + 1;
  }
  if (fence || lines.length > 0) end();
  return blocks;
}

/** `before`: what the line above is part of. */
function kindOf(line: string, before: LineKind | null): LineKind {
  if (RULE.test(line)) return "rule";
  if (HEADING.test(line)) return "heading";
  if (ITEM.test(line) || (before === "list" && /^\s{2,}/.test(line))) return "list";
  if (QUOTE.test(line)) return "quote";
  return CELLS.test(line) ? "table" : "text";
}

/** Lines with bars are a table only below a line of dashes. */
function isTable(kind: LineKind, [, second = ""]: readonly string[]): LineKind {
  return kind === "table" && !TABLE_LINE.test(second) ? "text" : kind;
}
