// The floor of a conversation: an object that writes each event of an upstream's stream down, tells its sockets, and does
// nothing else. No key, no limit, no ledger, no message, nothing that would survive.
import { DurableObject } from "cloudflare:workers";

export class BareObject extends DurableObject {
  #seq = 0;

  constructor(ctx, env) {
    super(ctx, env);
    ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS log (seq INTEGER PRIMARY KEY, data TEXT NOT NULL)");
  }

  fetch() {
    const { 0: client, 1: server } = new WebSocketPair();
    this.ctx.acceptWebSocket(server);
    server.send(`{"type":"ready","seq":${this.#seq}}`);
    return new Response(null, { status: 101, webSocket: client, headers: { "sec-websocket-protocol": "sluice.v1" } });
  }

  webSocketMessage(_socket, text) {
    if (text.startsWith('{"type":"send"')) this.ctx.waitUntil(this.#turn(JSON.parse(text).options.model));
  }

  async #turn(model) {
    const body = JSON.stringify({ model, max_tokens: 1024, stream: true, messages: [] });
    const headers = { "content-type": "application/json" };
    const response = await fetch(`${this.env.UPSTREAM_URL}/v1/messages`, { method: "POST", headers, body });
    const decoder = new TextDecoder();
    let rest = "";
    for await (const bytes of response.body) {
      const events = (rest + decoder.decode(bytes, { stream: true })).split("\n\n");
      rest = events.pop();
      for (const event of events) this.#tell("event", event.slice(event.indexOf("data: ") + 6));
    }
    this.#tell("turn.completed", "{}");
  }

  #tell(type, data) {
    const seq = ++this.#seq;
    this.ctx.storage.sql.exec("INSERT INTO log (seq, data) VALUES (?, ?)", seq, data);
    const frame = `{"type":"${type}","seq":${seq},"event":${data}}`;
    for (const socket of this.ctx.getWebSockets()) socket.send(frame);
  }
}

export default {
  fetch(request, env) {
    const [, , , id] = new URL(request.url).pathname.split("/");
    if (id === undefined) return Response.json({ id: crypto.randomUUID() });
    return env.BARE_OBJECT.getByName(id).fetch(request);
  },
};
