/** D1's interface over SQLite in memory, with this release's migration: so much of it as the stores of this room use. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync, type SQLInputValue } from "node:sqlite";

type Statement = { readonly sql: string; readonly values: readonly SQLInputValue[] };
type Answer = { readonly results: readonly unknown[]; readonly meta: { readonly changes: number } };

export type D1InNode = {
  readonly db: D1Database;
  readonly raw: DatabaseSync;
  /** What each statement waits for before it is done; it may throw, or never resolve. */
  before: () => Promise<void>;
  /** How many statements, or batches, there were. */
  asked: number;
};

export function d1InNode(): D1InNode {
  const raw = new DatabaseSync(":memory:");
  raw.exec(readFileSync(join(import.meta.dirname, "../../../migrations/0009_tokens_and_issuers.sql"), "utf8"));
  const execute = ({ sql, values }: Statement): Answer => {
    const statement = raw.prepare(sql);
    if (/^\s*SELECT/i.test(sql)) return { results: statement.all(...values), meta: { changes: 0 } };
    return { results: [], meta: { changes: Number(statement.run(...values).changes) } };
  };
  const ask = async <T>(work: () => T): Promise<T> => {
    made.asked++;
    await made.before();
    return work();
  };
  const prepared = (statement: Statement) => ({
    ...statement,
    bind: (...values: SQLInputValue[]) => prepared({ ...statement, values }),
    all: () => ask(() => execute(statement)),
    run: () => ask(() => execute(statement)),
    first: () => ask(() => execute(statement).results[0] ?? null),
  });
  const db = {
    prepare: (sql: string) => prepared({ sql, values: [] }),
    batch: (statements: readonly Statement[]) =>
      ask(() => {
        raw.exec("BEGIN");
        const answers = statements.map(execute);
        raw.exec("COMMIT");
        return answers;
      }),
  };
  const made: D1InNode = { db: db as unknown as D1Database, raw, before: () => Promise.resolve(), asked: 0 };
  return made;
}
