/** `/v1/responses/:id`: what a key's stored responses can be asked for afterwards. Another key's are not found. */
import type { Caller } from "../hotpath/authenticate.ts";
import { type Prepared, type RelayRoute, relayed } from "../hotpath/relay.ts";
import type { CallRecord } from "../hotpath/settle.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { parseJson } from "../wire/json.ts";
import { listInputItems } from "../wire/openai/input-items.ts";
import { responses } from "./dialect.ts";
import { Memory } from "./memory.ts";

type Answer = (memory: Memory, id: string) => Promise<Result<string, Failure>>;
type Prepare = NonNullable<RelayRoute["prepare"]>;

const LOOK_UP = { scope: "messages", hasBody: false, billed: false, dialect: responses } as const;

/** `GET` and `DELETE /v1/responses/:id`: gives a response back as its client was told it, or ends it. */
export const storedResponse = relayed({
  ...LOOK_UP,
  name: "/v1/responses/:id",
  prepare: fromStore((c) => {
    if (c.req.raw.method === "DELETE") return ok(drop);
    return c.req.query("stream") === "true"
      ? err({ kind: "invalid_request", message: "A stored response is not streamed again.", param: "stream" })
      : ok(show);
  }),
});

/** `GET /v1/responses/:id/input_items?limit&order&after`: the items of its input, its ancestors' not among them. */
export const storedInput = relayed({
  ...LOOK_UP,
  name: "/v1/responses/:id/input_items",
  prepare: fromStore((c) => {
    const { limit, order, after } = c.req.query();
    return ok(async (memory, id) => {
      const items = await memory.part(id, "items");
      if (!items.ok) return items;
      if (items.value === null) return err(notFound(id));
      return listInputItems(id, parseJson(items.value), { limit, order, after });
    });
  }),
});

const show: Answer = async (memory, id) => {
  const object = await memory.part(id, "object");
  if (!object.ok) return object;
  return object.value === null ? err(notFound(id)) : ok(object.value);
};

const drop: Answer = async (memory, id) => {
  const dropped = await memory.forget(id);
  if (!dropped.ok) return dropped;
  return dropped.value ? ok(JSON.stringify({ id, object: "response", deleted: true })) : err(notFound(id));
};

/** Ids as they can be said back. */
const RESPONSE_ID = /^resp_[A-Za-z0-9_-]{1,128}$/;

function notFound(id: string): Failure {
  const named = RESPONSE_ID.test(id) ? ` with id '${id}'` : "";
  return { kind: "not_found", what: `Response${named} not found.` };
}

/** A call that is admitted as any other and answered from the key's own store. */
function fromStore(choose: (c: Parameters<Prepare>[0]) => Result<Answer, Failure>): Prepare {
  return async (c, { policy, access }: Caller, record: CallRecord): Promise<Result<Prepared, Failure>> => {
    const chosen = choose(c);
    if (!chosen.ok) return chosen;
    const memory = new Memory(c.env, policy.id, access.background);
    return ok({
      answer: async () => {
        const text = await chosen.value(memory, c.req.param("id") ?? "");
        if (!text.ok) return text;
        record.settle({ status: 200, outcome: "complete" });
        return ok(new Response(text.value, { headers: { "content-type": "application/json" } }));
      },
    });
  };
}
