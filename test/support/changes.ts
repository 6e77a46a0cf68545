import type { Change } from "../../src/changes/change.ts";

/** The change of a write in a test that is not about changes. */
export const SOME_CHANGE: Change = {
  author: { actor: "a test", requestId: null },
  at: 1,
  action: "key.change",
  target: "any",
  before: null,
  after: null,
};
