/**
 * A version made ready: its texts read, its tags held against its schema. Done when a version is saved, and once in an
 * isolate for one that is used. Whoever renders or saves imports this late: it brings Mustache and the validator along.
 * Pure.
 */
import { type Content, textsOf } from "./content.ts";
import { checkValues, type Variables } from "./schema.ts";
import { readSchema } from "./schema-reader.ts";
import type { Shape } from "./shape.ts";
import { NAME, type ParsedText, parseText, type Token } from "./text.ts";

/** Tags of one version, over all texts. */
const MAX_TAGS_IN_ALL = 10_000;
const MAX_PROBLEMS = 20;

export type Compiled = {
  readonly variables: Variables;
  /** By place. */
  readonly texts: ReadonlyMap<string, ParsedText>;
  /** Which variable a tag means: `variables.items.*.name`. */
  readonly meant: ReadonlyMap<Token, string>;
};

/** What is wrong with a version is added to `problems`. A version that was saved has none. */
export function compile(content: Content, problems: string[]): Compiled {
  const found: string[] = [];
  const variables = readSchema(content.variables, found);
  const texts = new Map<string, ParsedText>();
  const isSchemaRight = found.length === 0;
  const meant = new Map<Token, string>();
  const outermost = [{ shape: variables.shape, path: "variables" }];
  for (const { text, path } of textsOf(content)) {
    const parsed = parseText(text, (problem, at) => found.push(`${path}: ${problem} (at character ${at + 1})`));
    texts.set(path, parsed);
    if (isSchemaRight) new Tags(path, meant, found).check(parsed.tokens, outermost);
  }
  if (meant.size > MAX_TAGS_IN_ALL) found.push(`the texts have more than ${MAX_TAGS_IN_ALL} tags`);
  if (isSchemaRight) found.push(...wrongDefaults(variables));
  const different = [...new Set(found)];
  problems.push(...different.slice(0, MAX_PROBLEMS));
  if (different.length > MAX_PROBLEMS) problems.push(`and ${different.length - MAX_PROBLEMS} more`);
  return { variables, texts, meant };
}

const compiled = new WeakMap<Content, Compiled>();

/** As above, of a version that is stored: the same content is made ready once. */
export function ready(content: Content): Compiled {
  const known = compiled.get(content);
  if (known) return known;
  const made = compile(content, []);
  compiled.set(content, made);
  return made;
}

/** A default must be what its own schema allows. What is missing beside it is no fault of its. */
function wrongDefaults(variables: Variables): readonly string[] {
  const own = new Set([...variables.shape.properties].flatMap(([name, { fallback }]) => (fallback ? [name] : [])));
  if (own.size === 0) return [];
  return checkValues(variables, {})
    .problems.filter((problem) => own.has(/^variables\.([^.:]+)/.exec(problem)?.[1] ?? ""))
    .map((problem) => `${problem}, by its default`);
}

type Scope = { readonly shape: Shape; readonly path: string };

/** Holds the tags of one text against what is declared, and notes what they mean. */
class Tags {
  readonly #path: string;
  readonly #meant: Map<Token, string>;
  readonly #problems: string[];

  constructor(path: string, meant: Map<Token, string>, problems: string[]) {
    this.#path = path;
    this.#meant = meant;
    this.#problems = problems;
  }

  /** `scopes`: outermost first, as sections are entered. */
  check(tokens: readonly Token[], scopes: readonly Scope[]): void {
    for (const token of tokens) {
      const [kind, name, start, , inside = []] = token;
      // A name that is none has been told of.
      if (kind === "text" || !NAME.test(name)) continue;
      const found = find(name, scopes);
      if (!found) {
        this.#complain(start, `\`${name.slice(0, 200)}\` is not declared in variables`);
        continue;
      }
      this.#meant.set(token, found.path);
      if ((kind === "name" || kind === "&") && isNoText(found.shape)) {
        this.#complain(start, `\`${name}\` is an object or a list, which can't be filled in`);
      }
      this.check(inside, kind === "#" ? [...scopes, ...entered(found)] : scopes);
    }
  }

  #complain(start: number, problem: string): void {
    this.#problems.push(`${this.#path}: ${problem} (at character ${start + 1})`);
  }
}

/** What a name means: its first part in the innermost scope that declares it, the rest inside of that. */
function find(name: string, scopes: readonly Scope[]): Scope | undefined {
  if (name === ".") return scopes.at(-1);
  const parts = name.split(".");
  const [first = ""] = parts;
  const scope = scopes.findLast(({ shape }) => shape.properties.has(first));
  if (!scope) return undefined;
  let shape: Shape | undefined = scope.shape;
  for (const part of parts) shape = shape?.properties.get(part);
  return shape && { shape, path: `${scope.path}.${name}` };
}

/** The scope inside of a section: a list's items, or the value itself. Something that may be either is both. */
function entered(value: Scope): readonly Scope[] {
  const { kinds, items } = value.shape;
  const item = { shape: items, path: `${value.path}.*` };
  if (kinds?.has("array") && kinds.size === 1) return [item];
  return kinds === null || kinds.has("array") ? [value, item] : [value];
}

/** An object or a list for certain: what may also be a text is looked at when it is known. */
function isNoText({ kinds, properties }: Shape): boolean {
  if (kinds === null) return properties.size > 0;
  return [...kinds].every((kind) => kind === "object" || kind === "array");
}
