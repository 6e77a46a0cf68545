/**
 * The making of a batch or a file. Its row is announced before the upstream is asked and gets its id before the answer goes
 * out, so nobody is ever given what nobody owns. Where the id can't be written down, what was made is taken back at the
 * upstream as well as that goes, the caller gets a 503 in place of the answer, and the log names what was made
 * (`made_unregistered`). A call whose end nobody saw leaves its row without an id.
 */
import type { WholeAnswer } from "../hotpath/forward.ts";
import { clock } from "../hotpath/leases.ts";
import { err, ok, type Result } from "../result.ts";
import { asFields, asText } from "../wire/anthropic/usage.ts";
import type { Failure } from "../wire/errors.ts";
import { parseJson } from "../wire/json.ts";
import { askHolder } from "./holder.ts";
import { isObjectId } from "./page.ts";
import { announce, asked, type Kind, register, withdraw } from "./store.ts";
import type { Where } from "./where.ts";

/** How often it is tried to write down an id. */
const ATTEMPTS = 3;

/** How what was made is taken back: a batch can't be deleted while it is processed. */
const UNDO = {
  batches: (id: string) => ({ method: "POST", path: `/v1/messages/batches/${id}/cancel` }),
  files: (id: string) => ({ method: "DELETE", path: `/v1/files/${id}` }),
} as const;

const UNREGISTERED: Record<Kind, Failure> = {
  batches: {
    kind: "register_away",
    what: "The batch could not be entered as this workspace's. It has been cancelled; make it again later.",
  },
  files: {
    kind: "register_away",
    what: "The file could not be entered as this workspace's. It has been deleted; upload it again later.",
  },
};

/** The hooks of a call that makes one; `show` rewrites the answer that tells of it. */
export function making(where: Where, kind: Kind, show: (text: string, id: string) => string | null) {
  const { env, record } = where;
  const { requestId, startedAt, workspace, keyId } = record.facts;
  let seq: number | undefined;
  /** Takes back what the upstream has made. Returns how that went. */
  const undo = async (id: string, upstream: string): Promise<string | number> => {
    const { method, path } = UNDO[kind](id);
    const taken = await askHolder(where, upstream, method, path);
    return taken.ok ? taken.value.status : taken.error.kind;
  };
  const unannounce = async (): Promise<void> => {
    if (seq !== undefined) await asked(withdraw(env.DB, kind, seq));
  };
  return {
    readOn: true,
    async begin(): Promise<Failure | null> {
      const announced = await asked(announce(env.DB, kind, { workspace, keyId }, requestId, startedAt));
      if (!announced.ok) return announced.error;
      seq = announced.value;
      return null;
    },
    async unanswered(failure: Failure): Promise<Failure> {
      if (record.attempts === 0) await unannounce();
      return failure;
    },
    /** The answer tells of something that should not have been made. */
    async discard({ status, text, upstream }: WholeAnswer): Promise<void> {
      const id = madeIn(status, text);
      if (id !== null) await undo(id, upstream);
      await unannounce();
    },
    async take({ status, text, upstream }: WholeAnswer): Promise<Result<string | null, Failure>> {
      const id = madeIn(status, text);
      if (id === null) {
        await unannounce();
        return ok(null);
      }
      for (let attempt = 1; seq !== undefined && attempt <= ATTEMPTS; attempt++) {
        const registered = await asked(register(env.DB, kind, seq, id, upstream));
        if (!registered.ok) continue;
        return registered.value ? ok(show(text, id)) : err({ kind: "upstream_id_taken" });
      }
      const undone = await undo(id, upstream);
      const line = { level: "error", msg: "made_unregistered", request_id: requestId, kind, id, upstream, undone };
      console.error(JSON.stringify({ ...line, key_id: keyId, workspace, at: clock.now() }));
      return err(UNREGISTERED[kind]);
    },
  };
}

/** The id of what was made, if anything was. */
function madeIn(status: number, text: string): string | null {
  const id = status < 300 ? asText(asFields(parseJson(text))?.id) : null;
  return id !== null && isObjectId(id) ? id : null;
}
