/** The isolate's one lease book, and the clock that everything on the hot path decides by. */
import { type Clock, LeaseBook } from "../ledger/lease-book.ts";

export const clock: Clock = { now: () => Date.now(), wait: (ms) => scheduler.wait(ms) };

export const leaseBook = new LeaseBook(clock);
