/**
 * What the names mean that OpenAI clients use for models. Pure.
 *
 * A name may carry prefixes (`sluice-`, `anthropic/`) and suffixes (an effort, `-thinking`, `[1m]`, each once, in any
 * order). It is looked up as it stands, then with less and less of these: among the key's own aliases, then the gateway's,
 * then the models at hand and the short names that follow from their ids. So an alias may have a name like any of these,
 * and counts for more. What an alias leads to is looked up among the models alone: one level.
 *
 * Names are compared exactly. One in upper case, with a space or of look-alike letters names nothing.
 */
import type { Alias, Aliases } from "../identity/key-record.ts";
import { isKnownModel, KNOWN_MODELS } from "../wire/anthropic/model-facts.ts";
import { EFFORTS, type Effort, type Fields } from "../wire/openai/draft.ts";

/** A model as upstream's list tells it, with all its fields. */
export type ModelInfo = Fields & { readonly id: string };

/** Upstream's list; null: not at hand. */
export type ModelsAtHand = readonly ModelInfo[] | null;

/** Longest name that is looked at. */
const MAX_NAME_CHARS = 200;

const PREFIXES = ["sluice-", "anthropic/"] as const;
const SUFFIX = new RegExp(`(?:\\((?<effort>${EFFORTS.join("|")})\\)|(?<thinking>-thinking)|(?<long>\\[1m\\]))$`);
/** As upstream may call a model one day: visible ASCII. */
const CLAUDE_ID = /^claude-[\x21-\x7e]+$/;
const SHORT_ID = /^([a-z]+)-\d{1,2}(?:-\d{1,2})?(?:-\d{8})?$/;

/** An id as upstream makes them: line, version, and for some of the older ones a date. */
const MODEL_NAME = /^claude-([a-z]+)-(\d{1,2})(?:-(\d{1,2}))?(-\d{8})?$/;

/** The name as it is taken apart at one moment. */
type Reading = {
  readonly name: string;
  readonly effort: Effort | null;
  readonly thinking: boolean;
  readonly long: boolean;
};

/** A name's meaning. */
type Meaning = Omit<Reading, "name"> & { readonly id: string; readonly isKnown: boolean };

/** Whether a name tries to be a model's without being one: other letters that look alike, upper case, spaces. */
export function looksLikeClaude(asked: string): boolean {
  return asked.slice(0, MAX_NAME_CHARS).normalize("NFKC").toLowerCase().includes("claude");
}

/** What a name means; null: nothing. `aliases`: those that count for more come first. */
export function meaningOf(asked: string, aliases: readonly Aliases[], models: ModelsAtHand): Meaning | null {
  if (asked.length > MAX_NAME_CHARS) return null;
  const readings = readingsOf(asked);
  for (const reading of readings) {
    const alias = aliases.flatMap((some) => aliasOf(some, reading.name) ?? [])[0];
    if (alias !== undefined) return behind(alias, reading, models);
    const id = knownId(reading.name, models);
    if (id !== null) return { ...reading, id, isKnown: true };
  }
  return unheardOf(readings, models);
}

/** The models' own names, with suffixes: what an alias may lead to. */
function behind(alias: Alias, asked: Reading, models: ModelsAtHand): Meaning | null {
  const { model, thinking = false } = typeof alias === "string" ? { model: alias } : alias;
  const meaning = meaningOf(model, [], models);
  return (
    meaning && {
      ...meaning,
      effort: asked.effort ?? meaning.effort,
      thinking: asked.thinking || meaning.thinking || thinking,
      long: asked.long || meaning.long,
    }
  );
}

function aliasOf(aliases: Aliases, name: string): Alias | undefined {
  return Object.hasOwn(aliases, name) ? aliases[name] : undefined;
}

/** A name with all that it carries, then with less and less of it. */
export function readingsOf(asked: string): readonly Reading[] {
  const readings: Reading[] = [];
  for (let rest: Reading | null = { name: asked, effort: null, thinking: false, long: false }; rest; rest = cut(rest)) {
    for (const name of withoutPrefixes(rest.name)) readings.push({ ...rest, name });
  }
  return readings;
}

/** Without its last suffix; null: it has none, or one of a kind that it had before. */
function cut(reading: Reading): Reading | null {
  const match = SUFFIX.exec(reading.name);
  const name = reading.name.slice(0, match?.index);
  const { effort, thinking, long } = match?.groups ?? {};
  if (effort !== undefined) return reading.effort === null ? { ...reading, name, effort: effort as Effort } : null;
  if (thinking !== undefined) return reading.thinking ? null : { ...reading, name, thinking: true };
  if (long !== undefined) return reading.long ? null : { ...reading, name, long: true };
  return null;
}

function withoutPrefixes(name: string): readonly string[] {
  const names = [name];
  const left = new Set<string>(PREFIXES);
  for (let rest = name; ; ) {
    const prefix = [...left].find((one) => rest.startsWith(one));
    if (prefix === undefined) return names;
    left.delete(prefix);
    rest = rest.slice(prefix.length);
    names.push(rest);
  }
}

/** The model of the lists that a bare name stands for: its id, its id without `claude-`, or its line. */
function knownId(name: string, models: ModelsAtHand): string | null {
  for (const id of [name, `claude-${name}`]) if (isKnown(id, models)) return id;
  return newestOf(name, models);
}

function isKnown(id: string, models: ModelsAtHand): boolean {
  return isKnownModel(id) || (models?.some((model) => model.id === id) ?? false);
}

/** What an id says of its model; null: nothing. */
export function readModelName(id: string): { readonly line: string; readonly rank: number } | null {
  const match = MODEL_NAME.exec(id);
  if (!match) return null;
  const [, line = "", major, minor = "0", date] = match;
  // Of one version the name without a date comes first.
  return { line, rank: Number(major) * 1_000 + Number(minor) * 10 + (date === undefined ? 1 : 0) };
}

/** The newest model of a line: as upstream has it, or, where it lacks the line or is not at hand, as this release does. */
function newestOf(line: string, models: ModelsAtHand): string | null {
  for (const list of [models ?? [], KNOWN_MODELS]) {
    let newest: { readonly id: string; readonly rank: number } | null = null;
    for (const { id } of list) {
      const name = readModelName(id);
      if (name?.line === line && (!newest || name.rank > newest.rank)) newest = { id, rank: name.rank };
    }
    if (newest) return newest.id;
  }
  return null;
}

/** A `claude-…` of none of the lists, with or without its prefix: of all readings the barest. */
function unheardOf(readings: readonly Reading[], models: ModelsAtHand): Meaning | null {
  for (const reading of [...readings].reverse()) {
    const { name } = reading;
    if (CLAUDE_ID.test(name)) return { ...reading, id: name, isKnown: false };
    const line = SHORT_ID.exec(name)?.[1];
    if (line !== undefined && newestOf(line, models)) return { ...reading, id: `claude-${name}`, isKnown: false };
  }
  return null;
}

/** Models, newest first, as upstream lists them, or as this release knows them. */
export function listedModels(models: ModelsAtHand): readonly ModelInfo[] {
  return models ?? KNOWN_MODELS;
}
