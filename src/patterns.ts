/** Patterns of names as people write them, read in one way everywhere. Pure. */

/** Whether a pattern allows a name: exact, or a beginning and `*`; or all that another pattern does, where none has a `*` inside. */
export function matches(pattern: string, name: string): boolean {
  return pattern.endsWith("*") ? name.startsWith(pattern.slice(0, -1)) : pattern === name;
}

/** The same for hosts: exact, or `*.` and what all of them end in. `*.example.com` is not `example.com`. */
export function matchesHost(pattern: string, host: string): boolean {
  return pattern === host || (pattern.startsWith("*.") && host.endsWith(pattern.slice(1)));
}
