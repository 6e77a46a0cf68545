/** A wire between a client and a gateway: what breaks is the line, and the gateway goes on. */
import { connect, createServer, type Server, type Socket } from "node:net";

/** Can be cut and mended, as often as is wanted. Nothing comes through while it is cut. */
export class Wire {
  readonly #ends = new Set<Socket>();
  #cut = false;
  #server: Server | undefined;
  port = 0;

  async lay(to: number): Promise<void> {
    this.#server = createServer((from) => {
      if (this.#cut) {
        from.destroy();
        return;
      }
      const there = connect(to, "127.0.0.1");
      for (const [end, other] of [
        [from, there],
        [there, from],
      ] as const) {
        this.#ends.add(end);
        end.on("error", () => other.destroy());
        end.on("close", () => {
          this.#ends.delete(end);
          other.destroy();
        });
        end.pipe(other);
      }
    });
    await new Promise<void>((done) => this.#server?.listen(0, "127.0.0.1", done));
    const address = this.#server.address();
    this.port = typeof address === "object" && address !== null ? address.port : 0;
  }

  cut(): void {
    this.#cut = true;
    for (const end of this.#ends) end.destroy();
  }

  mend(): void {
    this.#cut = false;
  }

  async remove(): Promise<void> {
    this.cut();
    await new Promise((done) => this.#server?.close(done));
  }
}
