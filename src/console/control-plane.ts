/** The control plane as the page of administrators speaks to it: by a session, whose cookie no script can read. */
import type { Change } from "./change-list.ts";

export type Session = {
  /** `admin-token`, the id of a key, or for whom another issuer's token speaks. */
  readonly actor: string;
  /** Null: everything. */
  readonly scopes: readonly string[] | null;
  readonly expires_at: string | null;
  /** What a call that changes something must show beside the cookie. */
  readonly csrf_token: string | null;
};

export type Page<T> = { readonly data: readonly T[]; readonly next_cursor: string | null };

/** What was refused, in words for whoever is at the page. */
export class Refused extends Error {
  /** HTTP status; 0: there was no answer. */
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

const WORDS: Readonly<Record<number, string>> = {
  401: "This is no credential of an administrator, or not any more.",
  403: "This may not read the control plane.",
};

/** Trades a credential for a session. The credential goes nowhere else. */
export async function signIn(credential: string): Promise<Session> {
  if (!/^[\x21-\x7e]+$/.test(credential)) throw new Refused(401, WORDS[401] ?? "");
  await ask("POST", "session", { authorization: `Bearer ${credential}` });
  const session = await currentSession();
  if (session) return session;
  throw new Refused(0, "Your browser has not kept the session's cookie. It does so over https, and on localhost.");
}

/** The session that this browser has; null: none, or not any more. */
export async function currentSession(): Promise<Session | null> {
  try {
    return (await (await ask("GET", "session")).json()) as Session;
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return null;
    throw error;
  }
}

export async function signOut({ csrf_token }: Session): Promise<void> {
  await ask("DELETE", "session", { "x-sluice-csrf": csrf_token ?? "" });
}

export async function readChanges(limit: number, cursor: string | null): Promise<Page<Change>> {
  const query = new URLSearchParams({ limit: String(limit), ...(cursor === null ? {} : { cursor }) });
  return (await (await ask("GET", `changes?${query}`)).json()) as Page<Change>;
}

async function ask(method: string, path: string, headers: Record<string, string> = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(`/admin/${path}`, { method, headers, cache: "no-store" });
  } catch {
    throw new Refused(0, "The gateway cannot be reached.");
  }
  if (response.ok) return response;
  const body = (await response.json().catch(() => null)) as { error?: { message?: unknown } } | null;
  const said = String(body?.error?.message ?? `The gateway answered ${response.status}.`);
  throw new Refused(response.status, WORDS[response.status] ?? said);
}
