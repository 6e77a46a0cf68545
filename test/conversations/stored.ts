/** An object's storage with the tables of a conversation in it, and nothing else of a conversation. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { History } from "../../src/conversations/history.ts";
import { EventLog } from "../../src/conversations/log.ts";
import { Tables } from "../../src/conversations/schema.ts";
import type { TurnStore } from "../../src/openai/turn-store.ts";

let named = 0;
/** An object of some class, since any has the same storage. */
export const emptyObject = (): DurableObjectStub<TurnStore> => env.TURN_STORE.getByName(`key_stored_${++named}`);

/** As the object itself would find it when it starts. */
export function opened(storage: DurableObjectStorage) {
  const tables = new Tables(storage);
  return { tables, log: new EventLog(tables), history: new History(tables) };
}

export const inside = <T>(
  stub: DurableObjectStub<TurnStore>,
  run: (storage: DurableObjectStorage) => T | Promise<T>,
): Promise<T> => runInDurableObject(stub, (_, { storage }) => run(storage));

export const rowsOf = (storage: DurableObjectStorage, statement: string) =>
  storage.sql.exec<Record<string, SqlStorageValue>>(statement).toArray();

/** Runs something that is rolled back at its end. */
export function inVain(tables: Tables, act: () => void): void {
  const over = new Error("rolled back");
  try {
    tables.transaction(() => {
      act();
      throw over;
    });
  } catch (error) {
    if (error !== over) throw error;
  }
}
