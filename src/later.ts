/** What the hot path does not need is loaded by the first call that does: a chunk of its own in what is deployed. */
import { type Guarded, guarded } from "./context.ts";
import type { Needs } from "./identity/scopes.ts";

type RoutesOf<Module> = {
  [Name in keyof Module]: Module[Name] extends Guarded ? Name : never;
}[keyof Module];

/**
 * Routes of a module that is loaded by the first call to one of them, and kept. What each needs of its caller is said
 * here, so that the table of routes is whole from the start; the handler itself sees to it. A load that fails is a bug like
 * any other: 500, and the next call loads anew.
 */
export function later<Module extends object>(
  load: () => Promise<Module>,
): (needs: Needs, name: RoutesOf<Module>) => Guarded {
  let loaded: Module | null = null;
  return (needs, name) =>
    guarded(needs, async (c) => {
      loaded ??= await load();
      return (loaded[name] as Guarded)(c);
    });
}
