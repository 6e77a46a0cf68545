/** An answer as it grows: the events of a Messages stream, put together. Pure. */
import type { Content, ContentBlock } from "../../clients/typescript/protocol.ts";

/** A block of an answer, whatever its type, as far as it is shown. */
export type Piece = {
  readonly type: string;
  /** Of text and thinking. */
  text: string;
  /** Of a tool call. */
  readonly name: string;
  /** JSON, as far as it came; of a result: what it says. */
  input: string;
};

type StreamEvent = { readonly type: string; readonly [field: string]: unknown };

const fieldsOf = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>) : {};
const textOf = (value: unknown): string => (typeof value === "string" ? value : "");

export class GrowingAnswer {
  readonly pieces: Piece[] = [];
  /** Where the blocks of the present upstream call begin: one turn may have several. */
  #base = 0;

  /** What an event adds: the piece, and the text that is new in it. Null: nothing that is shown. */
  take(event: StreamEvent): { readonly piece: Piece; readonly text: string; readonly input: string } | null {
    if (event.type === "message_start") this.#base = this.pieces.length;
    const index = this.#base + (typeof event.index === "number" ? event.index : 0);
    if (event.type === "content_block_start") {
      const piece = pieceOf(event.content_block);
      // A call begins with an empty input, which its pieces then spell out.
      if (piece.input === "{}") piece.input = "";
      this.pieces[index] = piece;
      return { piece, text: piece.text, input: piece.input };
    }
    const piece = this.pieces[index];
    if (event.type !== "content_block_delta" || !piece) return null;
    const delta = fieldsOf(event.delta);
    const text = textOf(delta.text) + textOf(delta.thinking);
    const input = textOf(delta.partial_json);
    piece.text += text;
    piece.input += input;
    return { piece, text, input };
  }
}

function pieceOf(block: unknown): Piece {
  const { type, text, thinking, name, input, content, tool_use_id: call } = fieldsOf(block);
  const said = content === undefined ? input : content;
  return {
    type: textOf(type),
    text: textOf(text) + textOf(thinking),
    name: textOf(name) || textOf(call),
    input: said === undefined ? "" : typeof said === "string" ? said : JSON.stringify(said, null, 2),
  };
}

/** What a message is made of. */
export function piecesOf(content: Content): readonly Piece[] {
  return typeof content === "string" ? [{ type: "text", text: content, name: "", input: "" }] : content.map(pieceOf);
}

/** The words of a message that has nothing but words; null: there is more in it. */
export function wordsOf(content: Content): string | null {
  if (typeof content === "string") return content;
  const [only, ...more] = content as readonly ContentBlock[];
  return only?.type === "text" && more.length === 0 ? textOf(only.text) : null;
}
