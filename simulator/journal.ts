/** The last requests, as they arrived: how a test looks at the upstream side. Credentials are kept as their ends. */
import type { BodyEnd } from "./stream.ts";

const MAX_ENTRIES = 200;
const MAX_BODY_BYTES = 64 * 1024;

type Entry = {
  readonly id: string;
  readonly at: number;
  readonly method: string;
  readonly target: string;
  readonly headers: readonly (readonly [string, string])[];
  readonly body: Uint8Array;
  status: number;
  outcome: BodyEnd | "pending";
  ended_at: number | null;
};

const entries: Entry[] = [];

/** Notes a request; the entry is completed as its answer goes out. */
export function note(id: string, request: Request, body: Uint8Array): Entry {
  const entry: Entry = {
    id,
    at: Date.now(),
    method: request.method,
    target: request.url.slice(request.url.indexOf("/", 8)),
    headers: [...request.headers],
    body,
    status: 0,
    outcome: "pending",
    ended_at: null,
  };
  entries.push(entry);
  if (entries.length > MAX_ENTRIES) entries.shift();
  return entry;
}

export function forget(): void {
  entries.length = 0;
}

/** Newest first. A body is told whole up to 64 KB, and by its SHA-256 always. */
export async function recall(limit: number): Promise<unknown[]> {
  return Promise.all(
    entries
      .slice(-limit)
      .reverse()
      .map(async ({ body, headers, ...entry }) => ({
        ...entry,
        headers: headers.map(([name, value]) => [name, isCredential(name) ? `…${value.slice(-4)}` : value]),
        credentials: headers.filter(([name]) => isCredential(name)).length,
        body_bytes: body.length,
        body_sha256: [...new Uint8Array(await crypto.subtle.digest("SHA-256", body))]
          .map((byte) => byte.toString(16).padStart(2, "0"))
          .join(""),
        body: body.length <= MAX_BODY_BYTES ? new TextDecoder().decode(body) : null,
      })),
  );
}

function isCredential(name: string): boolean {
  return name === "authorization" || name === "x-api-key" || name === "api-key";
}
