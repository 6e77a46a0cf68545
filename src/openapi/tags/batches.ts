import { answer, type Parameter, type Tag } from "../operation.ts";
import { flag, just, list, object, orNull, ref, text } from "../schema.ts";
import { HELLO, IDEMPOTENCY, VERSION_HEADER } from "./messages.ts";

export const IDS_PAGE: Readonly<Record<string, Parameter>> = {
  limit: { schema: { type: "integer", minimum: 1, maximum: 1000, default: 20 }, example: 10 },
  after_id: { schema: text, description: "The last id of the page before." },
  before_id: { schema: text, description: "The first id of the page behind." },
};
const ONE = answer("The batch, as upstream has it.", ref("Batch"));

export const batches: Tag = {
  name: "Batches",
  description: "Batches of messages. What a key makes belongs to its workspace.",
  docs: "docs/api.md#batches-and-files",
  operations: [
    {
      id: "createBatch",
      route: "POST /v1/messages/batches",
      summary: "Makes a batch",
      headers: { ...VERSION_HEADER, ...IDEMPOTENCY },
      body: {
        schema: object({ requests: list(object({ custom_id: text, params: ref("MessagesRequest") })) }),
        example: { requests: [{ custom_id: "first", params: HELLO }] },
      },
      answers: { 200: ONE },
      errors: [409, 422, 502, 504],
    },
    {
      id: "listBatches",
      route: "GET /v1/messages/batches",
      summary: "The workspace's batches, newest first",
      headers: VERSION_HEADER,
      query: IDS_PAGE,
      answers: {
        200: answer(
          "A page of them.",
          object({ data: list(ref("Batch")), has_more: flag, first_id: orNull(text), last_id: orNull(text) }),
        ),
      },
      errors: [502, 504],
    },
    {
      id: "readBatch",
      route: "GET /v1/messages/batches/:id",
      summary: "One",
      headers: VERSION_HEADER,
      answers: { 200: ONE },
      errors: [502, 504],
    },
    {
      id: "deleteBatch",
      route: "DELETE /v1/messages/batches/:id",
      summary: "Deletes it",
      headers: VERSION_HEADER,
      answers: { 200: answer("It is gone.", object({ id: text, type: just("message_batch_deleted") })) },
      errors: [502, 504],
    },
    {
      id: "cancelBatch",
      route: "POST /v1/messages/batches/:id/cancel",
      summary: "Cancels it",
      headers: { ...VERSION_HEADER, ...IDEMPOTENCY },
      answers: { 200: ONE },
      errors: [409, 422, 502, 504],
    },
    {
      id: "readBatchResults",
      route: "GET /v1/messages/batches/:id/results",
      summary: "Its results",
      headers: VERSION_HEADER,
      answers: {
        200: { description: "JSON lines, as they come.", content: { "application/x-jsonl": { schema: text } } },
      },
      errors: [502, 504],
    },
  ],
  schemas: { Batch: object({ id: text, type: just("message_batch"), processing_status: text }) },
};
