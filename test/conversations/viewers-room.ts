import { Viewer } from "../../src/conversations/viewer.ts";
import { Viewers } from "../../src/conversations/viewers.ts";
import { event, FakeSocket, MemoryLog, StandIn, sender } from "./viewers-stand-ins.ts";

/** A conversation's room with sockets in it, which can be put to sleep. */
export class Room {
  readonly conversation: StandIn;
  readonly sockets: FakeSocket[] = [];
  readonly aside: Promise<unknown>[] = [];
  now = 1_000_000;
  viewers: Viewers;

  constructor(log = new MemoryLog()) {
    this.conversation = new StandIn(log);
    this.viewers = this.#made();
  }

  #made(): Viewers {
    const { conversation } = this;
    return new Viewers({
      ctx: {
        acceptWebSocket: () => {},
        getWebSockets: () => this.sockets.map((socket) => socket.asSocket),
        getWebSocketAutoResponseTimestamp: (socket) => (socket as unknown as FakeSocket).pinged,
        setWebSocketAutoResponse: () => {},
        waitUntil: (work) => void this.aside.push(work),
      },
      log: conversation.log,
      commands: conversation,
      check: conversation.check,
      now: () => this.now,
    });
  }

  /** The object is made anew, with nothing but what lies beside its sockets. */
  sleep(): void {
    this.viewers = this.#made();
  }

  join(who = sender()): FakeSocket {
    const socket = new FakeSocket();
    Viewer.begin(socket.asSocket, who, this.conversation.log.lastSeq, this.now, { size: 1 });
    this.sockets.push(socket);
    this.sleep();
    return socket;
  }

  say(socket: FakeSocket, frame: unknown): Promise<void> {
    const text = typeof frame === "string" || frame instanceof ArrayBuffer ? frame : JSON.stringify(frame);
    return this.viewers.message(socket.asSocket, text);
  }

  tell(...entries: Parameters<MemoryLog["append"]>): void {
    this.viewers.publish(this.conversation.log.append(...entries));
  }

  /** Events with numbers of four digits, all of one size. */
  tellEvents(count: number): void {
    for (let n = 0; n < count; n++) this.tell(event("x".repeat(10)));
  }

  ping(socket: FakeSocket): void {
    socket.pinged = new Date(this.now);
  }
}
