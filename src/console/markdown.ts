/** As much of Markdown as answers have: headings, lists, tables, quotes, rules, code, bold, italics, links. Everything else is text. */
import { type Block, blocksOf, HEADING, ITEM, QUOTE } from "./blocks.ts";
import { button, el } from "./dom.ts";

/** Bounded, and none runs over the beginning of the next: hostile text costs no more than other text. */
const INLINE =
  /(`[^`\n]+`|\*\*[^*\n]+\*\*|(?<![\w*])\*[^\s*][^*\n]*\*(?![\w*])|(?<!\w)_[^\s_][^_\n]*_(?!\w)|(?<!!)\[[^[\]\n]{1,500}\]\(https?:\/\/[^\s()]{1,2000}\)|https?:\/\/[^\s<>"'`]+)/;

function nodeOf(block: Block): HTMLElement {
  const { text } = block;
  switch (block.kind) {
    case "code":
      return codeNode(text, block.language);
    case "heading": {
      const [, marks = "", words = ""] = HEADING.exec(text) ?? [];
      // The page has two levels of its own.
      const name = (["h3", "h4", "h5"] as const)[marks.length - 1] ?? "h6";
      return el(name, { attributes: AUTO }, ...inline(words.replace(/\s+#+\s*$/, "")));
    }
    case "list":
      return listNode(text.split("\n"));
    case "quote": {
      const inner = text.split("\n").map((line) => line.replace(QUOTE, ""));
      return el("blockquote", { attributes: AUTO }, ...inline(inner.join("\n")));
    }
    case "table":
      return tableNode(text.split("\n"));
    case "rule":
      return el("hr");
    case "text":
      return el("p", { attributes: AUTO }, ...inline(text));
  }
}

/** Its direction is that of its first letter. */
const AUTO = { dir: "auto" };

function codeNode(text: string, language: string): HTMLElement {
  const code = el("code", {}, text);
  const name = language === "" ? "Code" : `Code, ${language}`;
  const say = (words: string): void => {
    copy.textContent = words;
  };
  const write = (): void => {
    navigator.clipboard.writeText(code.textContent).then(
      () => say("Copied"),
      () => say("The browser does not allow it"),
    );
  };
  const copy = button("Copy", write, "quiet copy");
  const head = el("div", { class: "code-head" }, el("span", { class: "small" }, language), copy);
  const pre = el("pre", { attributes: { tabindex: "0", role: "region", "aria-label": name } }, code);
  return el("div", { class: "code" }, head, pre);
}

/** A list, and in its items those that are further in. */
function listNode(lines: readonly string[]): HTMLElement {
  const [, indent = "", mark = ""] = ITEM.exec(lines[0] ?? "") ?? [];
  const numbered = /\d/.test(mark);
  const list = el(numbered ? "ol" : "ul", numbered ? { attributes: { start: String(Number.parseInt(mark, 10)) } } : {});
  let item: { readonly words: string[]; readonly inner: string[] } | undefined;
  const put = (): void => {
    if (!item) return;
    const inner = item.inner.length > 0 ? [listNode(item.inner)] : [];
    list.append(el("li", { attributes: AUTO }, ...inline(item.words.join("\n")), ...inner));
  };
  for (const line of lines) {
    const found = ITEM.exec(line);
    const deeper = (found?.[1] ?? "").length > indent.length + 1;
    if (found && !deeper) {
      put();
      item = { words: [found[3] ?? ""], inner: [] };
    } else if (found || (item?.inner.length ?? 0) > 0) item?.inner.push(line);
    else item?.words.push(line.trim());
  }
  put();
  return list;
}

function tableNode([head = "", , ...rows]: readonly string[]): HTMLElement {
  const row = (line: string, name: "th" | "td"): HTMLElement => {
    const cells = line.trim().slice(1, -1).split("|");
    return el("tr", {}, ...cells.map((cell) => el(name, { attributes: AUTO }, ...inline(cell.trim()))));
  };
  const body = el("tbody", {}, ...rows.map((line) => row(line, "td")));
  const table = el("table", {}, el("thead", {}, row(head, "th")), body);
  return el("div", { class: "table", attributes: { tabindex: "0", role: "region", "aria-label": "Table" } }, table);
}

function inline(text: string): (string | HTMLElement)[] {
  return text.split(INLINE).flatMap((piece, at) => (at % 2 === 0 ? (piece === "" ? [] : [piece]) : marked(piece)));
}

function marked(piece: string): (string | HTMLElement)[] {
  if (piece.startsWith("`")) return [el("code", {}, piece.slice(1, -1))];
  if (piece.startsWith("**")) return [el("strong", {}, ...inline(piece.slice(2, -2)))];
  if (piece.startsWith("*") || piece.startsWith("_")) return [el("em", {}, ...inline(piece.slice(1, -1)))];
  if (piece.startsWith("[")) {
    const between = piece.indexOf("](");
    return [link(piece.slice(between + 2, -1), piece.slice(1, between))];
  }
  // A sentence's end is no part of an address.
  const address = piece.replace(/[.,;:!?)\]*_]+$/, "");
  return [link(address, address), piece.slice(address.length)];
}

/** Only ever `http:` and `https:`, and told where it leads. */
function link(address: string, words: string): HTMLElement {
  const attributes = { href: address, title: address, target: "_blank", rel: "noopener noreferrer" };
  return el("a", { attributes }, words);
}

/** A block from this length on is made anew less often, the longer it is: at 100 KB each time takes a tenth of a second. */
const LONG_CHARS = 5_000;
const LONG_CHARS_PER_MS = 100;

/** Text that grows. Blocks that are complete stay as they are; the last one is made anew, once per frame that is painted. */
export class TextFlow {
  readonly root = el("div", { class: "prose" });
  #tail = "";
  #last: HTMLElement | undefined;
  #code: Text | undefined;
  #frame = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  append(piece: string): void {
    this.#tail += piece;
    if (this.#frame !== 0 || this.#timer !== undefined) return;
    if (this.#tail.length < LONG_CHARS) this.#frame = requestAnimationFrame(() => this.flush());
    else this.#timer = setTimeout(() => this.flush(), this.#tail.length / LONG_CHARS_PER_MS);
  }

  /** At once. */
  flush(): void {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#frame = 0;
    this.#timer = undefined;
    const blocks = blocksOf(this.#tail);
    const last = blocks.at(-1);
    this.#tail = this.#tail.slice(last?.from ?? 0);
    if (this.#grew(blocks)) return;
    this.#last?.remove();
    const nodes = blocks.map(nodeOf);
    this.root.append(...nodes);
    this.#last = nodes.at(-1);
    const text = last?.kind === "code" ? this.#last?.querySelector("code")?.firstChild : null;
    this.#code = text instanceof Text ? text : undefined;
  }

  /** Whether it is a block of code that only grew: what is selected or scrolled in it stays so. */
  #grew([only, ...more]: readonly Block[]): boolean {
    if (!this.#code || only?.kind !== "code" || more.length > 0 || !only.text.startsWith(this.#code.data)) return false;
    this.#code.appendData(only.text.slice(this.#code.length));
    return true;
  }
}
