/** A client that says exactly how its answer ended, and may be slow, or leave. */
import { request } from "node:http";

export type Manners = {
  /** Leaves after so many ms, or once so many bytes of the body are there. */
  readonly leave?: { readonly afterMs: number } | { readonly afterBytes: number };
  /** Waits so long after each piece that it reads, ms. */
  readonly slowMs?: number;
  /** Gives up after so long, and says `hung`. */
  readonly deadlineMs?: number;
};

/** `clean`: all of the body, as HTTP wants it. `broken`: the connection went away. `hung`: the deadline passed. */
export type End = "clean" | "broken" | "hung" | "left";

export type Answer = {
  /** 0: none came. */
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
  readonly end: End;
  /** ms from sending to the end. */
  readonly ms: number;
  /** ms since the epoch. */
  readonly startedAt: number;
  readonly leftAt: number | null;
};

const DEADLINE_MS = 15_000;

export function call(
  url: string,
  headers: Record<string, string>,
  body: string | Buffer,
  { leave, slowMs, deadlineMs = DEADLINE_MS }: Manners = {},
): Promise<Answer> {
  return new Promise((resolve) => {
    const startedAt = Date.now();
    const pieces: Buffer[] = [];
    let bytes = 0;
    let status = 0;
    let received: Record<string, string> = {};
    let over = false;
    const timers: NodeJS.Timeout[] = [];
    const done = (end: End): void => {
      if (over) return;
      over = true;
      for (const timer of timers) clearTimeout(timer);
      const now = Date.now();
      resolve({
        status,
        headers: received,
        body: Buffer.concat(pieces),
        end,
        ms: now - startedAt,
        startedAt,
        leftAt: end === "left" || end === "hung" ? now : null,
      });
      if (end !== "clean") sent.socket?.resetAndDestroy();
    };
    const sent = request(url, {
      method: "POST",
      headers: { ...headers, "content-length": Buffer.byteLength(body) },
      agent: false,
    });
    sent.on("error", () => done("broken"));
    sent.on("response", (response) => {
      status = response.statusCode ?? 0;
      received = Object.fromEntries(Object.entries(response.headers).map(([name, value]) => [name, String(value)]));
      response.on("error", () => done("broken"));
      response.on("aborted", () => done("broken"));
      response.on("data", (piece: Buffer) => {
        pieces.push(piece);
        bytes += piece.length;
        if (leave && "afterBytes" in leave && bytes >= leave.afterBytes) return done("left");
        if (slowMs) {
          response.pause();
          timers.push(setTimeout(() => response.resume(), slowMs));
        }
      });
      response.on("end", () => done(response.complete ? "clean" : "broken"));
      response.on("close", () => done("broken"));
    });
    timers.push(setTimeout(() => done("hung"), deadlineMs));
    if (leave && "afterMs" in leave) timers.push(setTimeout(() => done("left"), leave.afterMs));
    sent.end(body);
  });
}
