/** What a schema of variables declares: names, and what may stand under them. Pure. */
export const KINDS = ["string", "number", "integer", "boolean", "null", "object", "array"] as const;
export type Kind = (typeof KINDS)[number];

/** What is declared of a value. */
export type Shape = {
  /** Null: it may be anything. */
  readonly kinds: ReadonlySet<Kind> | null;
  readonly properties: ReadonlyMap<string, Shape>;
  readonly items: Shape;
  readonly fallback: { readonly value: unknown } | null;
};

export const NO_PROPERTIES: Shape["properties"] = new Map();

class Anything implements Shape {
  readonly kinds = null;
  readonly properties = NO_PROPERTIES;
  readonly items = this;
  readonly fallback = null;
}
export const ANYTHING: Shape = new Anything();

/** A shape that holds beside another: as well, in one of several ways (`group`), or for its names alone. */
export type Joined = {
  readonly how: "all" | "any" | "names" | "nothing";
  readonly shape: Shape;
  readonly group?: string;
};

export function joinAll(own: Shape, joined: readonly Joined[]): Shape {
  if (joined.length === 0) return own;
  let shape = own;
  for (const { how, shape: other } of joined) {
    if (how === "all") shape = join(shape, other, both);
    // What holds under a condition says nothing for certain.
    else if (how === "names") shape = { ...join(shape, other, either), kinds: shape.kinds };
  }
  for (const group of ["anyOf", "oneOf"]) {
    const shapes = joined.filter((each) => each.group === group).map((each) => each.shape);
    if (shapes.length === 0) continue;
    shape = join(shape, anyOf(shapes), both);
  }
  return shape;
}

/** One of several: every name that one of them declares. */
export function anyOf([first = ANYTHING, ...others]: readonly Shape[]): Shape {
  return others.reduce((shape, other) => join(shape, other, either), first);
}

type Combine = (a: Shape["kinds"], b: Shape["kinds"]) => Shape["kinds"];

function join(a: Shape, b: Shape, combine: Combine): Shape {
  const properties = new Map(a.properties);
  for (const [name, shape] of b.properties) {
    const other = properties.get(name);
    properties.set(name, other ? join(other, shape, combine) : shape);
  }
  return {
    kinds: combine(a.kinds, b.kinds),
    properties,
    items: a.items === ANYTHING ? b.items : b.items === ANYTHING ? a.items : join(a.items, b.items, combine),
    fallback: a.fallback ?? b.fallback,
  };
}

function both(a: Shape["kinds"], b: Shape["kinds"]): Shape["kinds"] {
  if (!a || !b) return a ?? b;
  const kinds = new Set([...a].filter((kind) => b.has(kind)));
  // Every integer is a number.
  if ((a.has("integer") && b.has("number")) || (b.has("integer") && a.has("number"))) kinds.add("integer");
  return kinds;
}

function either(a: Shape["kinds"], b: Shape["kinds"]): Shape["kinds"] {
  return a && b ? new Set([...a, ...b]) : null;
}
