/** An upstream that does exactly what a test says, down to the socket, and remembers every byte it was sent. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";

export type Received = {
  readonly method: string;
  readonly target: string;
  readonly headers: readonly (readonly [string, string])[];
  readonly body: Buffer;
  /** When the connection was closed by the other side before the answer was complete; undefined until then. */
  goneAt?: number;
};

export type Script = (response: ServerResponse & { socket: Socket }, request: Received) => void | Promise<void>;

export type ScriptedUpstream = {
  readonly url: string;
  readonly received: Received[];
  /** What happens to the requests from now on. */
  script: Script;
  /** Connections that were opened, used or not. */
  connections: number;
  stop(): Promise<void>;
};

export async function startScriptedUpstream(): Promise<ScriptedUpstream> {
  const server = createServer((request: IncomingMessage, response) => {
    const pieces: Buffer[] = [];
    request.on("data", (piece: Buffer) => pieces.push(piece));
    request.on("error", () => {});
    response.on("error", () => {});
    request.on("end", () => {
      const headers: (readonly [string, string])[] = [];
      for (let i = 0; i < request.rawHeaders.length; i += 2) {
        headers.push([String(request.rawHeaders[i]).toLowerCase(), String(request.rawHeaders[i + 1])]);
      }
      const received: Received = {
        method: request.method ?? "",
        target: request.url ?? "",
        headers,
        body: Buffer.concat(pieces),
      };
      if (received.target.startsWith("/api/hello")) return void response.end();
      upstream.received.push(received);
      response.on("close", () => {
        if (!response.writableFinished) received.goneAt = Date.now();
      });
      void upstream.script(response as ServerResponse & { socket: Socket }, received);
    });
  });
  server.on("connection", () => {
    upstream.connections++;
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const upstream: ScriptedUpstream = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    received: [],
    connections: 0,
    script: (response) => void response.end("{}"),
    stop: () =>
      new Promise((done) => {
        server.close(() => done());
        server.closeAllConnections();
      }),
  };
  return upstream;
}

export const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

/** Sends a body as an event stream in pieces of one size, each on its way before the next. */
export async function sendInPieces(response: ServerResponse, bytes: Uint8Array, size: number): Promise<void> {
  response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "request-id": "req_upstream" });
  response.socket?.setNoDelay(true);
  for (let at = 0; at < bytes.length; at += size) {
    response.write(bytes.subarray(at, at + size));
    await new Promise((done) => setImmediate(done));
  }
  response.end();
}
