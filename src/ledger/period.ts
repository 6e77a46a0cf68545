/** Budget periods. Money is kept by UTC day, so that a budget may change its period and still know what was spent. */
import type { Budget } from "../identity/key-record.ts";

const DAY_MS = 86_400_000;
/** 1 January 1970 was a Thursday: days since then, and three more, begin their weeks on Mondays. */
const MONDAY_OFFSET = 3;

/** Days since the epoch, UTC. */
export function dayOf(now: number): number {
  return Math.floor(now / DAY_MS);
}

/** The first day of the period that holds a moment. */
export function firstDay(period: Budget["period"], now: number): number {
  const day = dayOf(now);
  switch (period) {
    case "day":
      return day;
    case "week":
      // The remainder of a day before 1970 would be negative.
      return day - ((((day + MONDAY_OFFSET) % 7) + 7) % 7);
    case "month": {
      const date = new Date(now);
      return dayOf(Date.UTC(date.getUTCFullYear(), date.getUTCMonth(), 1));
    }
    case "total":
      return Number.NEGATIVE_INFINITY;
  }
}

/** When the period ends and its budget begins anew, ms since the epoch; null for a budget that never does. */
export function periodEnd(period: Budget["period"], now: number): number | null {
  switch (period) {
    case "day":
      return (dayOf(now) + 1) * DAY_MS;
    case "week":
      return (firstDay("week", now) + 7) * DAY_MS;
    case "month": {
      const date = new Date(now);
      return Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1, 1);
    }
    case "total":
      return null;
  }
}
