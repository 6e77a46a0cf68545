/**
 * When a conversation has to be looked at. An object has one alarm: the earliest of all that it waits for. Nothing of this
 * is kept by itself: every time follows from what is stored, so a restart, or an alarm that comes twice, late, or for
 * nothing, changes nothing.
 */

/** An open turn is looked after this often, ms: should its object have died, somebody must take it up. */
export const GUARD_MS = 30_000;
/** The alarm is never set further ahead than this, ms: a clock that has leapt is noticed. */
export const MAX_AHEAD_MS = 86_400_000;

/** Times in ms since the epoch; null: not at all. */
export type Standing = {
  readonly now: number;
  /** A turn runs, is being prepared, or waits. */
  readonly busy: boolean;
  /** When its time to live is over. With a turn in it, it does not expire: the turn's end is activity. */
  readonly expiresAt: number | null;
  /** When a viewer may have fallen silent. */
  readonly heartbeatAt: number | null;
  /** When D1 is to be told what has changed. */
  readonly registryAt: number | null;
};

/** When the alarm is to ring; null: never. */
export function alarmAt({ now, busy, expiresAt, heartbeatAt, registryAt }: Standing): number | null {
  const times = [busy ? now + GUARD_MS : expiresAt, heartbeatAt, registryAt].filter((at) => at !== null);
  return times.length === 0 ? null : Math.min(...times, now + MAX_AHEAD_MS);
}
