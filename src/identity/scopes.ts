/** Rights that a key can hold (design §4), and what the routes ask for. Pure. */

/** The admin scopes open the control plane, the others the data plane. `admin` is `admin:read` and `admin:write`. */
export const SCOPES = [
  "messages",
  "conversations",
  "templates:read",
  "templates:write",
  "batches",
  "files",
  "tasks",
  "metrics",
  "admin",
  "admin:read",
  "admin:write",
] as const;
export type Scope = (typeof SCOPES)[number];

/** Those that open the control plane. */
export const CONTROL_SCOPES: readonly Scope[] = ["admin", "admin:read", "admin:write"];

export const DEFAULT_SCOPES: readonly Scope[] = ["messages", "conversations", "templates:read"];

/**
 * What a route needs of its caller: a scope; `key`, any live one; `nothing`, not even that. `admin` is `admin:read` where
 * the method only reads, else `admin:write`.
 */
export type Needs = Scope | "key" | "nothing";

/** What a scope holds beside itself. Metrics are read by whoever may read the control plane. */
const HOLDS: Readonly<Partial<Record<Scope, readonly Scope[]>>> = {
  admin: ["admin:read", "admin:write", "metrics", "templates:write"],
  "admin:read": ["metrics"],
  "admin:write": ["templates:write"],
};

/** Whether these scopes hold that one. */
export function holds(scopes: readonly Scope[], needed: Scope): boolean {
  if (scopes.includes(needed)) return true;
  if (needed === "admin") return holds(scopes, "admin:read") && holds(scopes, "admin:write");
  return scopes.some((scope) => HOLDS[scope]?.includes(needed));
}

/** Whether these scopes may use a route of the control plane that needs that one. `admin:read` reads all of it. */
export function mayControl(scopes: readonly Scope[], method: string, needed: Scope): boolean {
  return holds(scopes, neededFor(method, needed)) || (onlyReads(method) && holds(scopes, "admin:read"));
}

/** The scope that a call of this method needs where its route needs that. */
export function neededFor(method: string, scope: Scope): Scope {
  if (scope !== "admin") return scope;
  return onlyReads(method) ? "admin:read" : "admin:write";
}

const onlyReads = (method: string): boolean => method === "GET" || method === "HEAD";
