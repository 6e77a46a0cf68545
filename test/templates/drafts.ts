/** Versions for tests: short to write, and read as a publisher's would be. */
import type { Content, Version } from "../../src/templates/content.ts";
import { parseVersion } from "../../src/templates/version.ts";

export const TEXT = { type: "string" };

/** A schema of variables that must all be there. */
export function variables(properties: Record<string, unknown>): Record<string, unknown> {
  return { type: "object", properties, required: Object.keys(properties) };
}

export function saved(json: Record<string, unknown>): Content {
  const parsed = parseVersion({ model: "claude-haiku-4-5", max_tokens: 100, ...json });
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.error));
  return parsed.value;
}

export function version(json: Record<string, unknown>): Version {
  return { template: "greeting", version: 3, content: saved(json) };
}

/** What is wrong with a version, or with anything; empty for nothing. */
export function problemOf(result: { ok: true } | { ok: false; error: { kind: string; message?: string } }): string {
  return result.ok ? "" : (result.error.message ?? result.error.kind);
}

/** Nearly as large as a version may be, with as many variables as it may have, and values for them. */
export function largest(): { readonly large: Version; readonly given: Record<string, unknown> } {
  const names = Array.from({ length: 500 }, (_, i) => `v${i}`);
  const line = "Some words that stand for what templates hold, as many as fit a line of text. ";
  const block = (first: number) => ({
    type: "text",
    text: Array.from({ length: 500 }, (_, i) => `${line}${i % 4 === 0 ? `{{v${(first + i) % 500}}}` : ""}\n`).join(""),
  });
  const large = version({
    messages: [{ role: "user", content: [0, 1, 2, 3, 4, 5].map(block) }],
    variables: variables(Object.fromEntries(names.map((name) => [name, TEXT]))),
  });
  return { large, given: Object.fromEntries(names.map((name) => [name, "value of it"])) };
}
