/**
 * A digest that grows with its input: the cumulative keys of the prompt cache and the prefixes that thinking is bound
 * to. Synchronous and cheap; it tells prompts apart and keeps no secrets.
 */

export class Digest {
  #a = 0x811c9dc5;
  #b = 0x1b873593;

  update(text: string): void {
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      this.#a = Math.imul(this.#a ^ code, 0x01000193);
      this.#b = Math.imul(this.#b + code, 0xcc9e2d51) ^ (this.#b >>> 15);
    }
    // A mark between two updates, so that "ab" + "c" is not "a" + "bc".
    this.#a = Math.imul(this.#a ^ 0x10000, 0x01000193);
    this.#b = Math.imul(this.#b + 0x10000, 0xcc9e2d51) ^ (this.#b >>> 15);
  }

  /** The digest of all that came so far: 16 hexadecimal digits. */
  get hex(): string {
    return [this.#a, this.#b].map((half) => (half >>> 0).toString(16).padStart(8, "0")).join("");
  }
}
