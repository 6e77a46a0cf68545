/** `/v1/files` and what is below it. A key sees what its workspace uploaded, and nothing else. */
import type { AppContext } from "../context.ts";
import type { Caller } from "../hotpath/authenticate.ts";
import { nobody } from "../hotpath/flow.ts";
import type { WholeAnswer } from "../hotpath/forward.ts";
import { queryOf, type RelayRoute, relayed } from "../hotpath/relay.ts";
import { err, ok, type Result } from "../result.ts";
import type { Failure } from "../wire/errors.ts";
import { preparePage } from "./list.ts";
import { making } from "./making.ts";
import { ownedOne, takeOne } from "./one.ts";
import { here } from "./where.ts";

const NAME = "/v1/files";
/** The largest file of the API, and what the form puts around it (wire notes §1.1). */
const MAX_UPLOAD_BYTES = 500 * 1024 * 1024 + 64 * 1024;

const route = (name: string, prepare: NonNullable<RelayRoute["prepare"]>) =>
  relayed({ name, scope: "files", hasBody: false, billed: false, prepare });

const asItIs = (): null => null;

/** `POST /v1/files`: the form goes through as it comes, and so is sent once. */
export const uploadFile = route(NAME, async (c, caller, record) => {
  const upload = uploadOf(c, caller);
  if (!upload.ok) return upload;
  const { body, tooLarge } = upload.value;
  const { discard, ...made } = making(here(c, record), "files", asItIs);
  return ok({
    path: NAME + queryOf(c.req.url),
    body,
    unique: true,
    duty: { kind: "files", row: null, origin: "" },
    // A workspace's files live together, so that one call can use them.
    wanted: { affinity: `${caller.policy.workspace} files` },
    ...made,
    unanswered: async (failure: Failure) => tooLarge() ?? made.unanswered(failure),
    // The runtime ends a broken body as if it were whole, so the upstream may have taken what came of it for a file.
    take: async (answer: WholeAnswer) => {
      const failure = tooLarge();
      if (!failure) return made.take(answer);
      await discard(answer);
      return err(failure);
    },
  });
});

/** `GET /v1/files`. */
export const listFiles = route(NAME, (c, caller, record) =>
  preparePage(c, { kind: "files", path: (id) => `${NAME}/${id}`, show: (text) => text }, caller, record),
);

/** `GET` and `DELETE /v1/files/:id`. */
export const oneFile = route(`${NAME}/:id`, async (c, caller, record) => {
  const row = await ownedOne(c, "files", caller);
  if (!row.ok) return row;
  return ok({
    path: `${NAME}/${row.value.id}${queryOf(c.req.url)}`,
    wanted: { pinned: row.value.upstream },
    take: takeOne(here(c, record), "files", { ...row.value, itself: true }, asItIs),
  });
});

/** `GET /v1/files/:id/content`. */
export const downloadFile = route(`${NAME}/:id/content`, async (c, caller, record) => {
  const row = await ownedOne(c, "files", caller);
  if (!row.ok) return row;
  return ok({
    path: `${NAME}/${row.value.id}/content${queryOf(c.req.url)}`,
    wanted: { pinned: row.value.upstream },
    take: takeOne(here(c, record), "files", { ...row.value, itself: false }, asItIs),
    flow: nobody,
  });
});

type Upload = { readonly body: ReadableStream<Uint8Array>; readonly tooLarge: () => Failure | null };

/** The body of an upload. One that tells its length is held to it by the runtime; another one is counted. */
function uploadOf(c: AppContext, { policy }: Caller): Result<Upload, Failure> {
  const { headers } = c.var.call;
  const limitBytes = Math.min(MAX_UPLOAD_BYTES, policy.limits.max_request_bytes ?? MAX_UPLOAD_BYTES);
  const { body } = c.req.raw;
  if (!/^multipart\/form-data\b/i.test(headers.get("content-type") ?? "") || !body) {
    return err({ kind: "unsupported_media_type", message: "A file must be sent as `multipart/form-data`." });
  }
  const failure: Failure = { kind: "request_too_large", limitBytes };
  const declared = headers.get("content-length");
  if (declared !== undefined) {
    return Number(declared) > limitBytes ? err(failure) : ok({ body, tooLarge: () => null });
  }
  let bytes = 0;
  const counted = new TransformStream<Uint8Array, Uint8Array>({
    transform(piece, controller) {
      bytes += piece.length;
      if (bytes > limitBytes) controller.error(new Error("The upload is too large."));
      else controller.enqueue(piece);
    },
  });
  return ok({ body: body.pipeThrough(counted), tooLarge: () => (bytes > limitBytes ? failure : null) });
}
