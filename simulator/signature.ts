/**
 * Signatures of thinking blocks. A signature holds for one organization, one model, one thinking text and one exact prefix
 * of the conversation, so an edited history is found out, and one that was moved to another account. What a client may do without harm is no part of the prefix: move its
 * cache breakpoints, order the keys of its JSON otherwise, leave out null fields, drop older thinking.
 */
import { Digest } from "./digest.ts";
import { type ApiError, invalid } from "./errors.ts";
import { asFields, asList, asText, blocksOf, type Fields } from "./json.ts";

/** Only this simulator's signatures are right here: one from another source must not pass by luck. */
const SEAL = "sluice-simulator";

/** Whose thinking it is: an organization's id, and a model. */
export type Signer = { readonly organization: string; readonly model: string };

/** The signature of a thinking block that follows these whole messages, and these blocks of its own. */
export function sign(
  signer: Signer,
  messages: readonly Fields[],
  thinking: string,
  before: readonly Fields[] = [],
): string {
  const prefix = new Digest();
  for (const message of messages) addMessage(prefix, message);
  const said = before.filter((block) => !isThinking(block));
  return seal(signer, prefix.hex, said, thinking);
}

/** `before`: the blocks of the same turn that stand before the thinking. */
function seal(signer: Signer, prefix: string, before: readonly Fields[], thinking: string): string {
  const { organization, model } = signer;
  const digest = new Digest();
  for (const part of [SEAL, organization, model, prefix, ...before.map(canonical), thinking]) digest.update(part);
  return btoa(`${SEAL}|${organization}|${model}|${digest.hex}`);
}

/**
 * Checks every thinking block of the history: first its organization, then its model, then its prefix. Blocks of another
 * model are not checked further: the API ignores those. A block whose text was omitted is signed over no text.
 */
export function verifySignatures(reader: Signer, body: Fields): ApiError | undefined {
  const messages = asList(body.messages) as readonly Fields[];
  if (!messages.some((message) => message.role === "assistant" && blocksOf(message.content).some(isThinking))) {
    return undefined;
  }
  const prefix = new Digest();
  for (const [i, message] of messages.entries()) {
    const blocks = message.role === "assistant" ? blocksOf(message.content) : [];
    for (const [j, block] of blocks.entries()) {
      if (block.type !== "thinking") continue;
      const signature = asText(block.signature) ?? "";
      const signer = signerOf(signature);
      if (signer && signer.organization !== reader.organization) {
        return invalid(`${wrongSignature(i, j)}: it was created under another organization`);
      }
      if (signer && signer.model !== reader.model) continue;
      const before = blocks.slice(0, j).filter((other) => !isThinking(other));
      if (signature === seal(reader, prefix.hex, before, asText(block.thinking) ?? "")) continue;
      if (!signer || !dropsOthers(body)) return invalid(wrongSignature(i, j));
    }
    addMessage(prefix, message);
  }
  return undefined;
}

/** Whether blocks of another prefix are to be left out, rather than a 400. What they say counts for nothing here anyway. */
function dropsOthers({ thinking }: Fields): boolean {
  return asFields(asFields(thinking)?.block_binding)?.prefix_mismatch_behavior === "drop_block";
}

const wrongSignature = (i: number, j: number): string =>
  `messages.${i}.content.${j}: Invalid \`signature\` in \`thinking\` block`;

/** Whom a signature names; undefined when the simulator never made it. */
function signerOf(signature: string): Signer | undefined {
  try {
    const [seal, organization, model] = atob(signature).split("|");
    return seal === SEAL && organization !== undefined && model !== undefined ? { organization, model } : undefined;
  } catch {
    return undefined;
  }
}

function isThinking(block: Fields): boolean {
  return block.type === "thinking" || block.type === "redacted_thinking";
}

function addMessage(digest: Digest, message: Fields): void {
  digest.update(String(message.role));
  for (const block of blocksOf(message.content)) if (!isThinking(block)) digest.update(canonical(block));
}

/** JSON with sorted keys, without null fields and cache breakpoints. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null";
  const fields = value as Fields;
  const names = Object.keys(fields)
    .filter((name) => name !== "cache_control" && fields[name] !== null && fields[name] !== undefined)
    .sort();
  return `{${names.map((name) => `${JSON.stringify(name)}:${canonical(fields[name])}`).join(",")}}`;
}
