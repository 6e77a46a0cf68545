/** What this tab remembers until it is closed: the key, the open conversation, and what was typed and not sent. */

const KEY = "sluice.key";
const OPEN = "sluice.open";
const DRAFT = "sluice.draft.";

/** A browser may refuse to store anything; then a reload asks for the key again. */
function keep(name: string, value: string | null): void {
  try {
    if (value === null) sessionStorage.removeItem(name);
    else sessionStorage.setItem(name, value);
  } catch {
    // Full, or not allowed: nothing is remembered.
  }
}

function kept(name: string): string | null {
  try {
    return sessionStorage.getItem(name);
  } catch {
    return null;
  }
}

export const tab = {
  get key(): string | null {
    return kept(KEY);
  },
  set key(key: string | null) {
    keep(KEY, key);
  },
  get open(): string | null {
    return kept(OPEN);
  },
  set open(id: string | null) {
    keep(OPEN, id);
  },
  /** What was typed into a conversation and not sent. */
  draft(conversation: string): string {
    return kept(DRAFT + conversation) ?? "";
  },
  keepDraft(conversation: string, words: string): void {
    keep(DRAFT + conversation, words === "" ? null : words);
  },
  forgetEverything(): void {
    try {
      sessionStorage.clear();
    } catch {
      // Nothing was remembered.
    }
  },
};
