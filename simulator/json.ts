/** Reading fields of values of unknown shape. */

export type Fields = Readonly<Record<string, unknown>>;

export function asFields(value: unknown): Fields | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : undefined;
}

export function asList(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

export function asText(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

/** Content as blocks: a bare string is one text block. */
export function blocksOf(content: unknown): readonly Fields[] {
  if (typeof content === "string") return [{ type: "text", text: content }];
  return asList(content).filter((block): block is Fields => asFields(block) !== undefined);
}

/** The first characters of a text, counted so that none is torn. */
export function firstChars(text: string, count: number): string {
  const cut = text.slice(0, count);
  return cut.isWellFormed() || !text.isWellFormed() ? cut : cut.slice(0, -1);
}

/**
 * What a JSON text says that breaks off (without whitespace, as `JSON.stringify` writes it): whole members only, all
 * brackets closed. `{}` when nothing is whole. SDKs read tool input that `max_tokens` cut in the same way.
 */
export function readTruncated(text: string): unknown {
  const open: string[] = [];
  const ends: { readonly length: number; readonly due: string }[] = [];
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const char = text[i] ?? "";
    if (quoted && char === "\\") i++;
    else if (char === '"') quoted = !quoted;
    else if (quoted) continue;
    else if (char === "{") open.push("}");
    else if (char === "[") open.push("]");
    else if (char === "}" || char === "]") open.pop();
    if (!quoted && endsMember(text, i)) ends.push({ length: i + 1, due: open.toReversed().join("") });
  }
  for (const { length, due } of ends.reverse()) {
    try {
      return JSON.parse(text.slice(0, length) + due);
    } catch {
      // The end of a key, or of a value that is still to come: the one before may be a whole member's.
    }
  }
  return {};
}

/** Whether a value can be whole with this character: a number is only when something else follows. */
function endsMember(text: string, at: number): boolean {
  const next = text[at + 1];
  return /[{}[\]"]/.test(text[at] ?? "") || (next === undefined ? /[el]/.test(text[at] ?? "") : /[,\]}]/.test(next));
}
