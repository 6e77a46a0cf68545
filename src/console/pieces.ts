/** How the pieces of messages look. A piece that grows is told what is new; what is there already is never made anew. */
import type { Piece } from "./answer.ts";
import { el } from "./dom.ts";
import { TextFlow } from "./markdown.ts";

export type PieceView = {
  readonly root: HTMLElement;
  append(text: string, input: string): void;
  /** Shows at once what was appended. */
  flush(): void;
};

/** Empty: what it says is appended. */
export function viewOf(piece: Piece): PieceView {
  if (piece.type === "text") {
    const flow = new TextFlow();
    return { root: flow.root, append: (text) => flow.append(text), flush: () => flow.flush() };
  }
  const body = el("pre", { attributes: { tabindex: "0", dir: "auto" } });
  const root = el("details", { class: `aside ${piece.type}` }, el("summary", {}, titleOf(piece)), body);
  root.open = piece.type === "tool_use";
  return { root, append: (text, input) => body.append(text + input), flush: () => {} };
}

export function shown(piece: Piece): HTMLElement {
  const view = viewOf(piece);
  view.append(piece.text, piece.input);
  view.flush();
  return view.root;
}

function titleOf({ type, name }: Piece): string {
  if (type === "thinking" || type === "redacted_thinking") return "Thinking";
  if (type === "tool_use" || type === "server_tool_use") return `Calls ${name}`;
  if (type.endsWith("tool_result")) return "Result of a tool";
  return type;
}
