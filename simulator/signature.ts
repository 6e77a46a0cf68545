/**
 * Signatures of thinking blocks. A signature holds for one model and one exact prefix of the conversation, so an edited
 * history is found out. Where cache breakpoints stand is no part of the prefix: clients move them every turn.
 */
import { type ApiError, invalid } from "./errors.ts";
import { asList, asText, blocksOf, type Fields } from "./json.ts";

const SECRET = "sluice-simulator";

/** The signature of a thinking block that follows these messages and blocks. */
export async function sign(
  model: string,
  messages: readonly Fields[],
  before: readonly Fields[],
  thinking: string,
): Promise<string> {
  const text = JSON.stringify([SECRET, model, messages.map(plainMessage), before.map(plainBlock), thinking]);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  return btoa(`${model}|${String.fromCharCode(...digest)}`);
}

/**
 * Checks every thinking block of the history. Blocks of another model are not checked: the API ignores those. A block
 * whose text was omitted is signed over the text it would have had, which the signature's own prefix stands for.
 */
export async function verifySignatures(model: string, body: Fields): Promise<ApiError | undefined> {
  const messages = asList(body.messages) as readonly Fields[];
  for (const [i, message] of messages.entries()) {
    if (message.role !== "assistant") continue;
    const blocks = blocksOf(message.content);
    for (const [j, block] of blocks.entries()) {
      if (block.type !== "thinking") continue;
      const signature = asText(block.signature) ?? "";
      const wrong = invalid(`messages.${i}.content.${j}: Invalid \`signature\` in \`thinking\` block`);
      let signer: string | undefined;
      try {
        signer = atob(signature).split("|", 1)[0];
      } catch {
        return wrong;
      }
      if (!signer) return wrong;
      if (signer !== model) continue;
      const right = await sign(model, messages.slice(0, i), blocks.slice(0, j), asText(block.thinking) ?? "");
      if (signature !== right) return wrong;
    }
  }
  return undefined;
}

function plainMessage(message: Fields): unknown {
  return [message.role, blocksOf(message.content).map(plainBlock)];
}

function plainBlock(block: Fields): unknown {
  return { ...block, cache_control: undefined };
}
