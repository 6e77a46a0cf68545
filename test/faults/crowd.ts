/** Many composed calls at the same time, and what the invariants say of them. */
import { compose } from "./composer.ts";
import { endingOf, judge, type Played } from "./oracle.ts";
import { canariesOf, type Lane, RULES, type World } from "./world.ts";

export type Summary = {
  readonly calls: number;
  /** How many calls ended in which way. */
  readonly endings: Readonly<Record<string, number>>;
  /** How many calls took so many attempts. */
  readonly attempts: Readonly<Record<number, number>>;
  readonly slowestMs: number;
  /** One line for each call that broke a rule; the seed and the index play its script again. */
  readonly wrong: readonly string[];
};

/** Keys whose calls go different ways: plainly, through what reads on for leavers, and after a wait for a slot. */
export function crowdedKey(lane: number): Record<string, unknown> {
  return [{}, { on_disconnect: "drain" }, { limits: { concurrent_requests: 1 } }, { on_revoke: "cut" }][lane % 4] ?? {};
}

type Piece = { readonly index: number; readonly lane: Lane; readonly played: Played };

/** Plays the scripts `from` up to `from + calls` of a seed, `atOnce` at the same time. */
export async function playCrowd(
  world: World,
  { seed, calls, atOnce, from = 0 }: { seed: number; calls: number; atOnce: number; from?: number },
): Promise<Summary> {
  const pieces: Piece[] = [];
  let next = from;
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      while (next < from + calls) {
        const index = next++;
        const { stream, each, manners, session } = compose(seed, index);
        const laneNumber = index % world.lanes.length;
        const lane = world.lanes[laneNumber];
        if (!lane) throw new Error("no lanes");
        const played = await world.play(lane, stream, { each }, { manners, session: `${laneNumber}-${session}` });
        pieces.push({ index, lane, played });
      }
    }),
  );
  const wrong: string[] = [];
  for (const lane of world.lanes) {
    const own = pieces.filter((piece) => piece.lane === lane);
    wrong.push(...(await judgeLane(world, lane, own, seed)));
  }
  const exported = await world.gateway.admin("audit.ndjson");
  const answers = pieces.map(({ played }) => played.answer);
  wrong.push(...(await canariesOf(world, answers, await exported.text())));
  const endings: Record<string, number> = {};
  const attempts: Record<number, number> = {};
  for (const { played } of pieces) {
    const ending = endingOf(played);
    const kind = ending.kind === "refused" ? `refused ${ending.status}` : ending.kind;
    endings[kind] = (endings[kind] ?? 0) + 1;
    attempts[played.attempts.length] = (attempts[played.attempts.length] ?? 0) + 1;
  }
  const slowestMs = Math.max(0, ...pieces.map(({ played }) => played.answer.ms));
  return { calls: pieces.length, endings, attempts, slowestMs, wrong };
}

/** Each call of a lane, and its key's books as a whole. */
async function judgeLane(world: World, lane: Lane, pieces: readonly Piece[], seed: number): Promise<string[]> {
  const { gateway } = world;
  const told = (piece: Piece, what: string): string =>
    `seed ${seed} script ${piece.index} (${lane.model}, stream: ${piece.played.stream}): ${what}`;
  const rows = await world.rowsOf(
    lane,
    pieces.map(({ played }) => played),
  );
  const wrong = pieces.flatMap((piece) => {
    const { played } = piece;
    const about = rows.get(played.call) ?? [];
    // A call whose client left before its head was read never came to be one.
    const neverCame = about.length === 0 && played.answer.end === "left" && played.attempts.length === 0;
    return judge(played, neverCame ? null : about, RULES).map((what) => told(piece, what));
  });
  try {
    const { budget } = await gateway.settled(lane.key);
    const booked = [...rows.values()].flat().reduce((sum, row) => sum + Number(row.cost_micro_usd), 0);
    if (budget?.spent_micro_usd !== booked) {
      wrong.push(`${lane.model}: ${budget?.spent_micro_usd} µUSD spent, and ${booked} in the audit`);
    }
  } catch (error) {
    wrong.push(`${lane.model}: ${error}`);
  }
  return wrong;
}
