/**
 * Viewers that follow conversations while their sockets, the objects and the whole runtime are killed: what each has joined
 * must be what the upstream sent, and what the gateway's log says afterwards, number by number.
 */
import type { ChildProcess } from "node:child_process";
import type { ServerFrame } from "../clients/typescript/protocol.ts";
import { framesOf, isTaken, type Talk, talk } from "../test/support/conversations.ts";
import { eventsIn, type Followed, follow, Joined, startLine } from "../test/support/socket.ts";
import { gate, startTellingClaude, type TellingClaude } from "../test/support/telling-claude.ts";
import { SubjectFailed } from "./load.ts";
import { kill } from "./processes.ts";
import type { Ready } from "./serve.ts";
import { account, makePayer, type Paid, type Payer } from "./session-money.ts";
import { ABORT_PATH } from "./watched.ts";

export type KillPlan = {
  readonly conversations: number;
  readonly viewers: number;
  readonly sockets: number;
  readonly objects: number;
  readonly processes: number;
};

export type Survived = {
  readonly kills: { readonly sockets: number; readonly objects: number; readonly processes: number };
  readonly frames: number;
  readonly connections: number;
  readonly turns: { readonly completed: number; readonly interrupted: number };
  /** What the upstream's calls were booked as; rejects when one was free, or paid for twice. */
  paid(): Promise<Paid>;
};

/** Starts the gateway before an upstream, on a port (0: any), with its state kept. */
export type StartGateway = (upstreamUrl: string, port: number) => Promise<{ child: ChildProcess; ready: Ready }>;

const BETWEEN_PROCESSES_MS = 1_500;
/** All of it takes no longer, however busy the machine is. */
const FOLLOW_MS = 180_000;

const isEnd = ({ type }: { readonly type: string }): boolean => type === "turn.completed" || type === "turn.failed";
const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

/** Ends the last words in each conversation. */
const LAST = " and goodbye!";

/** Knows the end of the last turn, over whatever number of connections. */
function endOfLast(): (frame: ServerFrame) => boolean {
  let last: string | null = null;
  return (frame) => {
    if (frame.type === "turn.started" && String(frame.content).endsWith(LAST)) last = frame.turn;
    return isEnd(frame) && "turn" in frame && frame.turn === last;
  };
}

/** Rejects with SubjectFailed when a viewer, the log, the upstream and the audit do not agree. */
export async function kills(plan: KillPlan, start: StartGateway): Promise<Survived> {
  const claude = await startTellingClaude();
  claude.plan = ({ asked }) => ({
    say: [asked, ...Array.from({ length: 60 }, (_, n) => ` ${n}`)],
    paceMs: 5 + Math.random() * 20,
  });
  let gateway = await start(claude.url, 0);
  const { ready } = gateway;
  const { port } = ready;
  const url = `http://127.0.0.1:${port}`;
  // Whoever watches and reads does so with another key than whoever speaks, on whose account are its turns alone.
  const who = talk(url, { id: "", key: ready.key });
  const line = await startLine(port);
  const killed = { objects: 0, processes: 0 };
  let over = false;
  line.breakAfter = () =>
    line.broken < plan.sockets ? 200 + Math.floor(Math.random() * 20_000) : Number.POSITIVE_INFINITY;
  const ids: string[] = [];
  const payers: Payer[] = [];
  for (let n = 0; n < plan.conversations; n++) {
    ids.push((await who.create()).id);
    payers.push(await makePayer(ready));
  }
  // Nobody knocks while it starts.
  const door = gate();
  door.open();
  const speaking = Promise.all(
    ids.map((id, n) => {
      const payer = talk(url, { id: "", key: payers[n]?.key ?? "" });
      return speak(
        { ...payer, send: (...words) => door.passed.then(() => payer.send(...words)) },
        id,
        wordsOf(n),
        () => over,
      );
    }),
  );
  const following = ids.flatMap((id) =>
    Array.from({ length: plan.viewers }, () =>
      follow(() => door.passed.then(() => who.socket(id, {}, line.url)), endOfLast(), new Joined(), FOLLOW_MS),
    ),
  );
  const followed = Promise.all(following);
  const all = inTime(Promise.all([followed, speaking])).catch((error: unknown) => {
    over = true;
    throw new SubjectFailed(`under kills: ${error}`);
  });
  all.catch(() => {});
  for (let nth = 0; nth < plan.processes && !over; nth++) {
    for (let n = 0; n < plan.objects / plan.processes; n++) {
      await pause(BETWEEN_PROCESSES_MS / (plan.objects / plan.processes));
      const at = Math.floor(Math.random() * ids.length);
      const response = await fetch(`${url}${ABORT_PATH}${ids[at]}`);
      const payer = payers[at];
      if (response.status !== 204 || !payer) continue;
      payer.kills++;
      killed.objects++;
    }
    await kill(gateway.child);
    for (const payer of payers) payer.kills++;
    killed.processes++;
    gateway = await start(claude.url, port);
  }
  // Whoever has never been cut is cut now.
  while (line.broken < plan.sockets && !over) {
    line.breakAll();
    await pause(100);
  }
  const sockets = line.broken;
  over = true;
  const [seen] = await all;
  const survived = await compare(who, ids, seen, plan.viewers, claude);
  await line.stop();
  await claude.stop();
  const paid = (): Promise<Paid> =>
    account(
      gateway.ready,
      payers.map((payer, n) => ({ ...payer, calls: claude.of(wordsOf(n)) })),
    );
  return { kills: { sockets, ...killed }, ...survived, paid };
}

async function inTime<T>(work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("not everything came to its end")), FOLLOW_MS);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/** Begins whatever is said in a conversation, and in no other. */
const wordsOf = (nth: number): string => `talk ${nth}-`;

/** Says one thing after another until it is over, each until it has been taken. The last one says so. */
async function speak(who: Talk, id: string, words: string, isOver: () => boolean): Promise<void> {
  for (let turn = 0; ; turn++) {
    const isLast = isOver();
    for (;;) {
      const sent = await who
        .send(id, { content: `${words}${turn}${isLast ? LAST : "!"}`, id: `c${turn}` })
        .catch(() => null);
      if (sent && isTaken(sent)) {
        break;
      }
      if (sent && sent.status < 500) throw new SubjectFailed(`sending: ${sent.status} ${sent.text}`);
      await pause(100);
    }
    if (isLast) return;
  }
}

async function compare(
  who: Talk,
  ids: readonly string[],
  all: readonly Followed[],
  viewers: number,
  claude: TellingClaude,
): Promise<Pick<Survived, "frames" | "connections" | "turns">> {
  const turns = { completed: 0, interrupted: 0 };
  let frames = 0;
  for (const [n, id] of ids.entries()) {
    // A log that no longer begins with 1 has been compacted: what is left of it must agree.
    const log = framesOf((await who.log(id)).filter(({ event }) => event !== "history"));
    const whole = log.map((frame) => JSON.stringify(frame));
    for (const { joined } of all.slice(n * viewers, (n + 1) * viewers)) {
      frames += joined.frames.length;
      const own = joined.frames.slice(-whole.length).map((frame) => JSON.stringify(frame));
      const wrong = own.findIndex((frame, at) => frame !== whole[at]);
      if (wrong !== -1)
        throw new SubjectFailed(`a viewer of ${id} has ${own[wrong]} where the log has ${whole[wrong]}`);
    }
    const reference = all[n * viewers]?.joined.frames ?? [];
    for (const frame of reference) {
      if (frame.type !== "turn.started") continue;
      const end = reference.find((other) => isEnd(other) && other.turn === frame.turn);
      const shown = eventsIn(reference, frame.turn);
      const calls = claude.of(String(frame.content));
      const original = calls.find(({ events }) => shown.every((event, at) => event === events[at]));
      if (!end || !original) throw new SubjectFailed(`${frame.turn} of ${id} is not what the upstream sent`);
      if (end.type === "turn.completed") {
        if (shown.length !== original.events.length) throw new SubjectFailed(`${frame.turn} of ${id} is not whole`);
        turns.completed++;
      } else if (end.type === "turn.failed" && end.state === "interrupted") {
        turns.interrupted++;
      } else {
        throw new SubjectFailed(`${frame.turn} of ${id}: ${JSON.stringify(end)}`);
      }
    }
  }
  return { frames, connections: all.reduce((sum, { connections }) => sum + connections, 0), turns };
}
