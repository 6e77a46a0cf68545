/**
 * The last requests, as they arrived and as they ended: how a test looks at the upstream side. Credentials are kept as
 * the last four characters of the key. In the isolate's memory; the oldest entries go first.
 */
import { splitName } from "./faults.ts";

const MAX_ENTRIES = 200;
/** Longer bodies are told by their length and digest only. */
const MAX_BODY_BYTES = 64 * 1024;
const CREDENTIALS = ["authorization", "x-api-key", "api-key"];

/** How an answer ended. `pending`: it has not. */
export type Outcome = "pending" | "complete" | "cut" | "client_gone";

/** What happened to an answer after its headers; written to by whoever sends the body. */
export class Entry {
  status = 0;
  /** Whole events written, for answers that are streams. */
  events = 0;
  #outcome: Outcome = "pending";
  #endedAt: number | null = null;
  readonly #at = Date.now();
  readonly #id: string;
  readonly #request: {
    readonly method: string;
    readonly target: string;
    readonly headers: readonly (readonly [string, string])[];
  };
  #bodyBytes = 0;
  #body: Uint8Array | undefined;
  #sha256: ArrayBuffer | undefined;

  constructor(id: string, request: Request) {
    this.#id = id;
    this.#request = {
      method: request.method,
      target: request.url.slice(request.url.indexOf("/", 8)),
      headers: [...request.headers].map(([name, value]) => [
        name,
        CREDENTIALS.includes(name) ? `…${splitName(value).id.slice(-4)}` : value,
      ]),
    };
  }

  /** Notes the body: the bytes of a short one, the digest of a long one. */
  async received(body: Uint8Array): Promise<void> {
    this.#bodyBytes = body.length;
    if (body.length <= MAX_BODY_BYTES) this.#body = body;
    else this.#sha256 = await crypto.subtle.digest("SHA-256", body);
  }

  /** The first end counts: a client that leaves after the last byte has got everything. */
  end(outcome: Exclude<Outcome, "pending">): void {
    if (this.#outcome !== "pending") return;
    this.#outcome = outcome;
    this.#endedAt = Date.now();
  }

  async tell(): Promise<Record<string, unknown>> {
    const digest = this.#sha256 ?? (await crypto.subtle.digest("SHA-256", this.#body ?? new Uint8Array(0)));
    return {
      id: this.#id,
      at: this.#at,
      ...this.#request,
      credentials: this.#request.headers.filter(([name]) => CREDENTIALS.includes(name)).length,
      body_bytes: this.#bodyBytes,
      body_sha256: [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join(""),
      body: this.#body ? new TextDecoder().decode(this.#body) : null,
      status: this.status,
      events: this.events,
      outcome: this.#outcome,
      ended_at: this.#endedAt,
    };
  }
}

const entries: Entry[] = [];

export function note(entry: Entry): void {
  entries.push(entry);
  if (entries.length > MAX_ENTRIES) entries.shift();
}

/** `GET /sim/requests?limit=`, newest first, and `DELETE /sim/requests`. */
export async function journal(request: Request, url: URL): Promise<Response> {
  if (request.method === "DELETE") {
    entries.length = 0;
    return new Response(null, { status: 204 });
  }
  const limit = Number(url.searchParams.get("limit") ?? MAX_ENTRIES);
  if (!Number.isInteger(limit) || limit < 1) return new Response("limit: must be a whole number", { status: 400 });
  return Response.json({
    data: await Promise.all(
      entries
        .slice(-limit)
        .reverse()
        .map((entry) => entry.tell()),
    ),
  });
}
