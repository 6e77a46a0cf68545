/** What the heap holds, by what can still be reached: a bound on memory that no timing decides. Node only. */
import { getHeapStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { EventReader, type StreamEvent } from "../../src/wire/anthropic/events.ts";

const WORD = "Twenty characters it";
const EVENT = `event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"${WORD}"}}\n\n`;
const EVENTS_READ = 100;
const READS = 400;

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/** Reads many pieces of one text from a stream, and tells what whoever is given them holds then, in bytes. */
export function heldOf(take: (event: StreamEvent) => void): { readonly text: string; readonly held: number } {
  const reader = new EventReader();
  const bytes = new TextEncoder().encode(EVENT.repeat(EVENTS_READ));
  const before = heldBytes();
  for (let n = 0; n < READS; n++) for (const event of reader.read(bytes)) take(event);
  return { held: heldBytes() - before, text: WORD.repeat(EVENTS_READ * READS) };
}

function heldBytes(): number {
  collectGarbage();
  return getHeapStatistics().used_heap_size;
}
