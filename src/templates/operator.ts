/** What of a body is the operator's: fields that a version keeps for itself. Pure, and small: conversations hold to it, too. */
import { asFields } from "../wire/anthropic/usage.ts";
import type { Content, Fields } from "./content.ts";

/** What gives the model tools, whatever its name. */
const COVERED: Readonly<Record<string, string>> = { mcp_servers: "tools" };
const ROLES: readonly unknown[] = ["user", "assistant"];

/** What is wrong with a caller's fields: those that are the operator's, and what no body can have. Empty: nothing. */
export function wrongFields({ operator }: Pick<Content, "operator">, fields: Fields): string[] {
  const isOperators = (name: string) =>
    operator.includes(Object.hasOwn(COVERED, name) ? (COVERED[name] ?? name) : name);
  const problems = Object.keys(fields).flatMap((name) => {
    if (name === "__proto__") return ["__proto__: can't be the name of a field"];
    return isOperators(name) ? [`${name.slice(0, 64)}: is the template's, and can't be set by a caller`] : [];
  });
  const { messages } = fields;
  if (messages === undefined || isOperators("messages")) return problems;
  if (!Array.isArray(messages)) return [...problems, "messages: must be a list of messages"];
  messages.forEach((message: unknown, i) => {
    const role = asFields(message)?.role;
    if (ROLES.includes(role)) return;
    // A system message in the middle says what `system` says.
    if (role === "system" && !isOperators("system")) return;
    problems.push(
      role === "system"
        ? `messages.${i}.role: system is the template's, and can't be set by a caller`
        : `messages.${i}.role: must be user or assistant`,
    );
  });
  return problems;
}
