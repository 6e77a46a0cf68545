/**
 * Lays a policy over a body: what it must not hold is refused, what a detector finds is masked, refused or only counted.
 * Refusals say what and where, by the names of fields, tools, hosts and betas, and never repeat a text.
 */
import { matches, matchesHost } from "../patterns.ts";
import { asFields } from "../wire/anthropic/usage.ts";
import type { Failure } from "../wire/errors.ts";
import { parseJson } from "../wire/json.ts";
import { charsIn, textOf } from "./apply/json-text.ts";
import { type Counts, count, type Detect } from "./detector.ts";
import { countsOf, inspect, replaceFound } from "./mask.ts";
import type { Limits, Policy } from "./policy.ts";
import type { PlaceholderTable } from "./table.ts";
import {
  type BodyFacts,
  bodyFacts,
  type DocumentKind,
  placeOf,
  type Span,
  type TextSpan,
  type ToolFacts,
} from "./texts.ts";

type Kind = Extract<DocumentKind, "messages" | "batch">;

export type Request = {
  /** A body whose bytes have been proven well-formed. */
  readonly bytes: Uint8Array;
  readonly kind?: Kind;
  /** The `anthropic-beta` header; null: there is none. */
  readonly betas: string | null;
};

export type Guarded = {
  /** What goes upstream: the bytes that were given, if nothing was masked. */
  readonly bytes: Uint8Array;
  /**
   * For the audit, whether the request is refused or not: findings by their types, and what a policy that only counts
   * would have refused, by `COUNTED_NAMES`.
   */
  readonly counts: Counts;
  readonly done: "passed" | "masked" | "refused";
  /** Why the request must not go upstream; null: it may. */
  readonly refused: Failure | null;
};

/** How the audit calls what a limit would have refused; no type or own pattern has such a name. */
export const COUNTED_NAMES: { readonly [K in keyof Limits]: string } = {
  maxInputChars: "max_input_chars!",
  tools: "allow_tools!",
  urlHosts: "allow_url_sources!",
  betas: "betas!",
};

/** Everything a policy asks of a request. The table gets what is masked. */
export function guardRequest(policy: Policy, request: Request, detect: Detect, table: PlaceholderTable): Guarded {
  const { bytes, kind = "messages" } = request;
  const facts = bodyFacts(bytes, kind);
  const counts: Counts = {};
  for (const { limit } of broken(policy.counted, request, facts)) count(counts, COUNTED_NAMES[limit]);
  for (const { message } of broken(policy.enforced, request, facts)) {
    return { bytes, counts, done: "refused", refused: refusal(message()) };
  }
  const acts = Object.values(policy.input);
  if (acts.length === 0) return { bytes, counts, done: "passed", refused: null };
  const texts = fitting(facts.texts);
  const onlyCounts = acts.every((act) => act === "audit");
  if (texts.length < facts.texts.length && !onlyCounts) {
    return { bytes, counts, done: "refused", refused: TOO_LONG };
  }
  const inspected = inspect(bytes, texts, detect, MAX_FOUND);
  Object.assign(counts, countsOf(inspected));
  if (inspected.found.length > MAX_FOUND && !onlyCounts) return { bytes, counts, done: "refused", refused: TOO_MUCH };
  const blocking = inspected.found.find(({ type }) => policy.input[type] === "block");
  if (blocking) {
    const where = placeOf(bytes, blocking.start);
    const message = `${where}: holds what this key may not send (${blocking.type})`;
    return { bytes, counts, done: "refused", refused: refusal(message) };
  }
  const masked = replaceFound(bytes, inspected, table, (type) => policy.input[type] === "mask");
  return { bytes: masked, counts, done: masked === bytes ? "passed" : "masked", refused: null };
}

/**
 * What is looked through of one body. Twice what the longest context holds, and what an isolate of 128 MB and 5 s of CPU
 * bears whatever it says. Images and documents as bytes are no text.
 */
const MAX_TEXT_BYTES = 8 * 1024 * 1024;

/** Findings that are kept of one body: some 30 MB. */
const MAX_FOUND = 100_000;

/** The first texts, as many as are looked through. */
function fitting(texts: readonly TextSpan[]): readonly TextSpan[] {
  let bytes = 0;
  const last = texts.findIndex(({ start, end }) => {
    bytes += end - start;
    return bytes > MAX_TEXT_BYTES;
  });
  return last === -1 ? texts : texts.slice(0, last);
}

const TOO_LONG: Failure = {
  kind: "request_too_large",
  limitBytes: MAX_TEXT_BYTES,
  what: "The texts that guardrails look through are together",
};

const refusal = (message: string): Failure => ({ kind: "guardrails", message: `Guardrails: ${message}.` });

const TOO_MUCH = refusal(`the request holds more than ${MAX_FOUND} findings`);

/** Longest list of findings for the audit. */
const MAX_FINDINGS_CHARS = 4_096;

/** Counts as the audit keeps them, JSON text such as `{"EMAIL":2}`; null: there are none. */
export function findingsText(counts: Counts): string | null {
  let text = "";
  for (const [type, found] of Object.entries(counts)) {
    if (found === 0) continue;
    const entry = `${text === "" ? "{" : ","}${JSON.stringify(type)}:${found}`;
    if (text.length + entry.length >= MAX_FINDINGS_CHARS) break;
    text += entry;
  }
  return text === "" ? null : `${text}}`;
}

/** Stands before the types of what was found in an answer; no type or own pattern has a dot. */
const IN_ANSWER = "output.";

/** What is noted of a request, with what was found in its answer beside it. */
export function findingsWith(noted: string | null, inAnswer: Counts): string | null {
  const counts: Counts = {};
  for (const [name, found] of Object.entries(asFields(parseJson(noted ?? "")) ?? {})) {
    if (typeof found === "number") counts[name] = found;
  }
  for (const [type, found] of Object.entries(inAnswer)) counts[IN_ANSWER + type] = found;
  return findingsText(counts);
}

/** `message`: made for the one that is told, since it takes a walk to its place. */
type Broken = { readonly limit: keyof Limits; readonly message: () => string };

/** What of a request goes beyond some limits. */
function* broken(limits: Limits, request: Request, facts: BodyFacts): Generator<Broken> {
  const { bytes } = request;
  if (limits.maxInputChars !== null) {
    const max = limits.maxInputChars;
    if (isLonger(bytes, facts.texts, max)) {
      yield { limit: "maxInputChars", message: () => `the texts of the request have more than ${max} characters` };
    }
  }
  if (limits.tools !== null) {
    for (const tool of facts.tools) {
      const refused = refusedName(tool, limits.tools);
      if (refused === null) continue;
      const message = () =>
        `${placeOf(bytes, tool.at)}: this key may not use the ${tool.server ? "MCP server" : "tool"} ${refused}`;
      yield { limit: "tools", message };
    }
  }
  if (limits.urlHosts !== null) {
    for (const { start, end } of facts.urls) {
      const host = hostOf(textOf(bytes, start, end));
      if (host !== null && limits.urlHosts.some((allowed) => matchesHost(allowed, host))) continue;
      const from = host === null ? "such an address" : shown(host);
      yield {
        limit: "urlHosts",
        message: () => `${placeOf(bytes, start)}: this key may not have anything fetched from ${from}`,
      };
    }
  }
  if (limits.betas !== null) {
    const { betas: allowed } = limits;
    for (const { name, where } of betasOf(request, facts.betas)) {
      if (allowed.some((pattern) => matches(pattern, name))) continue;
      yield { limit: "betas", message: () => `${where()}: this key may not use the beta ${shown(name)}` };
    }
  }
}

function isLonger(bytes: Uint8Array, texts: readonly Span[], max: number): boolean {
  let chars = 0;
  for (const { start, end } of texts) {
    chars += charsIn(bytes, start, end);
    if (chars > max) return true;
  }
  return false;
}

/**
 * What a tool that is not allowed is called; null: it is allowed. A client's tool goes by its name, a server's by its type
 * or its name, an MCP server by its name. A field that occurs twice must be allowed each time.
 */
function refusedName({ types, names, server }: ToolFacts, allowed: readonly string[]): string | null {
  const isAllowed = (name: string) => allowed.some((pattern) => matches(pattern, name));
  const namesAllowed = names.length > 0 && names.every(isAllowed);
  const kinds = server ? [] : types.filter((type) => type !== "custom");
  const fits = kinds.length > 0 ? namesAllowed || kinds.every(isAllowed) : namesAllowed;
  // What is a client's tool in one reading and a server's in another goes by its name.
  const isEither = kinds.length > 0 && kinds.length < types.length;
  if (fits && (!isEither || namesAllowed)) return null;
  return shown(names.find((name) => !isAllowed(name)) ?? kinds[0] ?? "");
}

/**
 * What others than a browser may read otherwise: spaces and signs that it passes over, a name before the host, and in the
 * host what is escaped, invisible, or was spelled in another way by older rules for names.
 */
const PLAIN_ADDRESS = /^https?:\/\/[^/\\\s\p{Cc}@?#%\p{DI}ßς]+(?:[/?#][^\\\s\p{Cc}]*)?$/iu;

/** The host of an address that is fetched over HTTP, in the form that policies have; null: not everybody would find one. */
function hostOf(address: string): string | null {
  const url = PLAIN_ADDRESS.test(address) ? URL.parse(address) : null;
  if (url === null || url.username !== "" || url.password !== "") return null;
  // A name may end in a dot, and is the same name.
  return url.hostname.replace(/\.$/, "").toLowerCase();
}

function* betasOf(
  request: Request,
  inBody: readonly Span[],
): Generator<{ readonly name: string; readonly where: () => string }> {
  for (const part of (request.betas ?? "").split(",")) {
    const name = part.trim();
    if (name !== "") yield { name, where: () => "anthropic-beta" };
  }
  for (const { start, end } of inBody) {
    // In one entry there may be several, as in the header.
    for (const part of textOf(request.bytes, start, end).split(",")) {
      yield { name: part.trim(), where: () => placeOf(request.bytes, start) };
    }
  }
}

const SHOWABLE = /^[A-Za-z0-9_.:-]{1,128}$/;

/** A name as far as it is one; what a caller wrote in a name's place is not repeated. */
const shown = (name: string): string => (SHOWABLE.test(name) ? `\`${name}\`` : "of this name");
