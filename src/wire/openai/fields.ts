/** Typed readers of what an OpenAI body says. Whatever is wrong is refused with its `param`, in OpenAI's notation. */
import { err, ok, type Result } from "../../result.ts";
import { asFields } from "../anthropic/usage.ts";
import type { Failure } from "../errors.ts";
import { parseJson } from "../json.ts";
import { MAX_JSON_DEPTH, scanJson } from "../json-scan.ts";
import { type CacheControl, type Fields, FREE_FORM_FIELD, refuse } from "./draft.ts";

/** A call's input stands five levels deep in a Messages body: the body, its list, a turn, the turn's list, the block. */
const MAX_INPUT_DEPTH = MAX_JSON_DEPTH - 5;
/** JSON in a text is parsed at once up to here; longer ones are looked through first. */
const MAX_UNSCANNED_CHARS = 64 * 1024;
const encoder = new TextEncoder();

/**
 * Reads the fields of one object. `null` stands for absent, as everywhere in OpenAI's bodies. The first field that is not
 * what it should be is kept as `failure`, and reads as absent: who has read all fields asks once whether there is one.
 */
export class FieldReader {
  readonly fields: Fields;
  readonly #at: string;
  /** Who keeps the failure. */
  readonly #outermost: FieldReader;
  #failure: Failure | null = null;

  /** `at`: where the object stands, with its dot: `""` or `"tools[0]."`. */
  constructor(fields: Fields, at = "", outer?: FieldReader) {
    this.fields = fields;
    this.#at = at;
    this.#outermost = outer ? outer.#outermost : this;
  }

  get failure(): Failure | null {
    return this.#outermost.#failure;
  }

  refuse(name: string, message: string, code: string | null = null): null {
    this.#outermost.#failure ??= refuse(message, this.#at + name, code);
    return null;
  }

  missing(name: string): null {
    return this.refuse(name, `Missing required parameter: '${this.#at}${name}'.`, "missing_required_parameter");
  }

  /** Reads what a field holds; what is wrong in there is a failure of the whole. */
  inner(name: string): FieldReader {
    return new FieldReader(this.object(name) ?? {}, `${this.#at}${name}.`, this);
  }

  /** A text that must be there. */
  required(name: string): string {
    return this.text(name) || (this.missing(name) ?? "");
  }

  text(name: string): string | null {
    const value = this.fields[name] ?? null;
    return value === null || typeof value === "string" ? value : this.#wrong(name, "a string");
  }

  flag(name: string): boolean | null {
    const value = this.fields[name] ?? null;
    return value === null || typeof value === "boolean" ? value : this.#wrong(name, "a boolean");
  }

  number(name: string): number | null {
    const value = this.fields[name] ?? null;
    // JSON writes numbers beyond a double's range too (1e999), and they read as Infinity.
    return value === null || (typeof value === "number" && Number.isFinite(value))
      ? value
      : this.#wrong(name, "a number");
  }

  /** A whole number, `least` or more. */
  whole(name: string, least: number): number | null {
    const value = this.number(name);
    if (value === null) return null;
    return Number.isSafeInteger(value) && value >= least
      ? value
      : this.#wrong(name, `a whole number, ${least} or more`);
  }

  oneOf<T extends string>(name: string, values: readonly T[]): T | null {
    const value = this.text(name);
    if (value === null) return null;
    return values.find((each) => each === value) ?? this.#wrong(name, `one of ${values.map(quoted).join(", ")}`);
  }

  object(name: string): Fields | null {
    const value = this.fields[name] ?? null;
    return value === null ? null : (asFields(value) ?? this.#wrong(name, "an object"));
  }

  list(name: string): readonly unknown[] | null {
    const value = this.fields[name] ?? null;
    return value === null || Array.isArray(value) ? value : this.#wrong(name, "an array");
  }

  /** One text, or a list of them. */
  texts(name: string): readonly string[] | null {
    const value = this.fields[name] ?? null;
    if (typeof value === "string") return [value];
    const list = value === null || Array.isArray(value) ? value : this.#wrong(name, "a string or an array of strings");
    if (list === null) return null;
    const wrong = list.findIndex((each) => typeof each !== "string");
    return wrong < 0 ? list : this.#wrong(`${name}[${wrong}]`, "a string");
  }

  #wrong(name: string, what: string): null {
    return this.refuse(name, `Invalid type or value for '${this.#at}${name}': expected ${what}.`, "invalid_type");
  }
}

const quoted = (text: string): string => `'${text}'`;

/** Whether a text says anything: Claude refuses text blocks and stop sequences that don't. */
export function saysSomething(text: string): boolean {
  const first = text.charCodeAt(0);
  return (first > 0x20 && first < 0x7f) || text.trim() !== "";
}

/**
 * The cache breakpoint that an object carries, in Anthropic's words or in OpenAI's (`prompt_cache_breakpoint`). `param` names
 * the object; "": the body itself.
 */
export function readCacheControl(from: Fields, param: string): Result<CacheControl | null, Failure> {
  const written = from.cache_control ?? null;
  if (written === null) {
    return ok(asFields(from.prompt_cache_breakpoint)?.mode === "explicit" ? { type: "ephemeral" } : null);
  }
  const { type, ttl = null } = asFields(written) ?? {};
  const at = param === "" ? "cache_control" : `${param}.cache_control`;
  if (type !== "ephemeral") return err(refuse(`'${at}.type' must be 'ephemeral'.`, at));
  if (ttl === null) return ok({ type });
  if (ttl !== "5m" && ttl !== "1h") return err(refuse(`'${at}.ttl' must be '5m' or '1h'.`, `${at}.ttl`));
  return ok({ type, ttl });
}

/**
 * The input of a tool call in the history. Whatever a model or a client once wrote there becomes an object, because Claude
 * takes nothing else: what is no JSON object is wrapped as text, and that is also how a free-form tool's text goes up.
 */
export function toolInput(written: unknown, freeForm = false): Fields {
  if (typeof written !== "string") {
    if (written === undefined || written === null) return {};
    return asFields(written) ?? { [FREE_FORM_FIELD]: JSON.stringify(written) };
  }
  if (freeForm) return { [FREE_FORM_FIELD]: written };
  if (!saysSomething(written)) return {};
  const value = parseArguments(written);
  if (value === null) return {};
  const fields = asFields(value);
  // The body's own depth has been limited, but not that of a JSON text inside it, which would have to be written out again.
  return fields && isShallow(fields, MAX_INPUT_DEPTH) ? fields : { [FREE_FORM_FIELD]: written };
}

/** Undefined: no JSON, or more of it than a body may have itself. A text of brackets alone takes a hundred times its size to parse. */
function parseArguments(text: string): unknown {
  return text.length > MAX_UNSCANNED_CHARS && !scanJson(encoder.encode(text)).ok ? undefined : parseJson(text);
}

function isShallow(value: unknown, levels: number): boolean {
  if (typeof value !== "object" || value === null) return true;
  if (levels === 0) return false;
  for (const each of Object.values(value)) if (!isShallow(each, levels - 1)) return false;
  return true;
}
