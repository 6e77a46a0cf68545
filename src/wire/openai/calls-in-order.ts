/**
 * Names calls that have no id, and finds the call that a result without one answers: `function_call` and the role `function`
 * know no ids, and some clients leave them out. The first call of its name that is still open is meant, else the first of all.
 * Every list is walked once, however long the history is.
 */
type Call = { readonly id: string; answered: boolean };
type Line = { readonly calls: Call[]; next: number };

/** Short enough for a tool id, and nobody else's form. */
const MADE_UP_ID = "call_nr_";

export class CallsInOrder {
  #made = 0;
  /** The calls of the last assistant that called: results follow their calls. */
  #all: Line = { calls: [], next: 0 };
  #byName = new Map<string, Line>();
  #byId = new Map<string, Call>();

  /** Another assistant calls: whatever was still open stays unanswered. */
  begin(): void {
    this.#all = { calls: [], next: 0 };
    this.#byName.clear();
    this.#byId.clear();
  }

  /** Notes a call and gives its id, made up where it has none. */
  add(id: string | null, name: string): string {
    const call = { id: id ?? this.#makeUp(), answered: false };
    this.#all.calls.push(call);
    const named = this.#byName.get(name);
    if (named) named.calls.push(call);
    else this.#byName.set(name, { calls: [call], next: 0 });
    this.#byId.set(call.id, call);
    return call.id;
  }

  /** The id that a result belongs to; made up where there is no call that it could answer. */
  answer(id: string | null, name: string | null): string {
    const call = id !== null ? this.#byId.get(id) : this.#nextOf(name);
    if (call) call.answered = true;
    return id ?? call?.id ?? this.#makeUp();
  }

  #nextOf(name: string | null): Call | undefined {
    return openIn(name === null ? undefined : this.#byName.get(name)) ?? openIn(this.#all);
  }

  #makeUp(): string {
    return `${MADE_UP_ID}${this.#made++}`;
  }
}

function openIn(line: Line | undefined): Call | undefined {
  if (!line) return undefined;
  while (line.calls[line.next]?.answered) line.next++;
  return line.calls[line.next];
}
