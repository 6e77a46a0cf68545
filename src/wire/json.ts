/** The value of a JSON text, or undefined for a text that is none: JSON itself has no undefined. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * JSON for the Messages API. Half of a character that takes two units, as is left where a text is cut, would have it refuse
 * the whole conversation ("no low surrogate in string"): it is told as U+FFFD.
 */
export function wellFormedJson(value: unknown): string {
  const json = JSON.stringify(value);
  // Nothing but halves is written so, and backslashes in pairs before it.
  return json.includes("\\ud") ? json.replace(HALF, (found, half) => (half ? "\\ufffd" : found)) : json;
}

const HALF = /\\(?:\\|u(d[89a-f][0-9a-f]{2}))/g;
