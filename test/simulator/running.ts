/** A simulator of the built bundle, spoken to over HTTP. */
import { connect } from "node:net";
import { build } from "../../scripts/build.ts";
import { type LocalWorker, startLocalWorker } from "../../scripts/local-runtime.ts";
import type { Json } from "./support.ts";

export const KEY = "sk-ant-of-the-tests";

export type Running = LocalWorker & {
  post(body: unknown, headers?: Record<string, string>, path?: string): Promise<Response>;
  /** The newest entries of the journal. */
  journal(limit?: number): Promise<Json[]>;
  /** One call over a bare socket: every byte of the body that came, and whether the body was ended properly. */
  raw(
    body: Json,
    leave?: { after: number; how: "fin" | "reset" },
    fault?: string,
  ): Promise<{ bytes: Buffer; ended: boolean }>;
};

export async function startSimulator(): Promise<Running> {
  build();
  const worker = await startLocalWorker({ config: "simulator/wrangler.toml", bundle: "dist/simulator" });
  return {
    ...worker,
    post: (body, headers = {}, path = "/v1/messages") =>
      fetch(`${worker.url}${path}`, {
        method: "POST",
        redirect: "manual",
        headers: {
          "x-api-key": KEY,
          "anthropic-version": "2026-10-21",
          "content-type": "application/json",
          ...headers,
        },
        body: typeof body === "string" || body instanceof Uint8Array ? (body as BodyInit) : JSON.stringify(body),
      }),
    async journal(limit = 1) {
      const response = await fetch(`${worker.url}/sim/requests?limit=${limit}`);
      return ((await response.json()) as { data: Json[] }).data;
    },
    raw: (body, leave, fault = "") =>
      new Promise((resolve) => {
        const text = JSON.stringify(body);
        const pieces: Buffer[] = [];
        const socket = connect(worker.port, "127.0.0.1", () => {
          socket.write(
            `POST /v1/messages HTTP/1.1\r\nhost: sim\r\nconnection: close\r\nx-api-key: ${KEY}\r\nanthropic-version: 2026-10-21\r\nanthropic-sim-fault: ${fault}\r\ncontent-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
          );
          if (leave) setTimeout(() => (leave.how === "fin" ? socket.destroy() : socket.resetAndDestroy()), leave.after);
        });
        socket.on("data", (piece) => pieces.push(piece));
        socket.on("error", () => {});
        socket.on("close", () => resolve(unchunk(Buffer.concat(pieces))));
      }),
  };
}

/** The body of a chunked response. It ended properly when its last chunk, the empty one, came. */
function unchunk(response: Buffer): { bytes: Buffer; ended: boolean } {
  const chunks: Buffer[] = [];
  let at = response.indexOf("\r\n\r\n") + 4;
  for (;;) {
    const lineEnd = response.indexOf("\r\n", at);
    if (lineEnd === -1) return { bytes: Buffer.concat(chunks), ended: false };
    const size = Number.parseInt(response.subarray(at, lineEnd).toString(), 16);
    if (size === 0) return { bytes: Buffer.concat(chunks), ended: true };
    chunks.push(response.subarray(lineEnd + 2, lineEnd + 2 + size));
    at = lineEnd + 2 + size + 2;
  }
}
