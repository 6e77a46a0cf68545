/** A detector for the tests of what is done with findings: simple patterns, each with the edges a real one has. */
import type { Finding } from "../../src/guardrails/detect/finding.ts";
import type { Counts, Detect } from "../../src/guardrails/detector.ts";
import { countsOf, inspect, replaceFound } from "../../src/guardrails/mask.ts";
import type { PlaceholderTable } from "../../src/guardrails/table.ts";
import { textsOf } from "../../src/guardrails/texts.ts";

const RULES: readonly (readonly [string, RegExp])[] = [
  ["EMAIL", /(?<![\w.+-])[a-z0-9é😀][\w.+é😀-]{0,40}@[a-z0-9-]{1,30}(?:\.[a-z]{2,8}){1,3}(?![\w@-])/giu],
  ["US_SSN", /(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])/g],
  ["SECRET", /(?<!\S)sk-[A-Za-z0-9]{8,}(?!\S)/g],
];

export const standIn: Detect = (text) => {
  const found: Finding[] = [];
  for (const [type, rule] of RULES) {
    for (const { index, 0: value } of text.matchAll(rule))
      found.push({ start: index, end: index + value.length, type });
  }
  return found.toSorted((a, b) => a.start - b.start || b.end - a.end);
};

export const nothing: Detect = () => [];

export const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);
export const textOfBytes = (bytes: Uint8Array): string =>
  new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
export const jsonBytes = (value: unknown): Uint8Array => bytesOf(JSON.stringify(value));

/** Masks a document: all that is found, or what is of some types. */
export function maskBody(
  bytes: Uint8Array,
  detect: Detect,
  table: PlaceholderTable,
  masks?: (type: string) => boolean,
): { readonly bytes: Uint8Array; readonly counts: Counts } {
  const inspected = inspect(bytes, textsOf(bytes, "messages"), detect);
  return { bytes: replaceFound(bytes, inspected, table, masks), counts: countsOf(inspected) };
}
