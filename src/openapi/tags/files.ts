import { answer, type Tag } from "../operation.ts";
import { flag, just, list, object, orNull, ref, text } from "../schema.ts";
import { IDS_PAGE } from "./batches.ts";
import { IDEMPOTENCY, VERSION_HEADER } from "./messages.ts";

const ONE = answer("The file, as upstream has it.", ref("File"));
const HEADERS = VERSION_HEADER;

export const files: Tag = {
  name: "Files",
  description: "Files for messages. What a key uploads belongs to its workspace.",
  docs: "docs/api.md#batches-and-files",
  operations: [
    {
      id: "uploadFile",
      route: "POST /v1/files",
      summary: "Uploads a file",
      headers: { ...HEADERS, ...IDEMPOTENCY },
      body: {
        type: "multipart/form-data",
        schema: object({ file: { type: "string", contentMediaType: "application/octet-stream" } }),
      },
      answers: { 200: ONE },
      errors: [409, 422, 502, 504],
    },
    {
      id: "listFiles",
      route: "GET /v1/files",
      summary: "The workspace's files, newest first",
      headers: HEADERS,
      query: {
        ...IDS_PAGE,
        page: { schema: text, description: "`next_page` of the page before, in place of `after_id`." },
        ids: { schema: text, description: "At most 100, all on one page." },
      },
      answers: {
        200: answer(
          "A page of them.",
          object(
            { data: list(ref("File")), has_more: flag },
            { first_id: orNull(text), last_id: orNull(text), next_page: orNull(text) },
          ),
        ),
      },
      errors: [502, 504],
    },
    {
      id: "readFile",
      route: "GET /v1/files/:id",
      summary: "One",
      headers: HEADERS,
      answers: { 200: ONE },
      errors: [502, 504],
    },
    {
      id: "deleteFile",
      route: "DELETE /v1/files/:id",
      summary: "Deletes it",
      headers: HEADERS,
      answers: { 200: answer("It is gone.", object({ id: text, type: just("file_deleted") })) },
      errors: [502, 504],
    },
    {
      id: "downloadFile",
      route: "GET /v1/files/:id/content",
      summary: "Its bytes",
      headers: HEADERS,
      answers: {
        200: {
          description: "The file itself.",
          content: { "application/octet-stream": { schema: { contentMediaType: "application/octet-stream" } } },
        },
      },
      errors: [502, 504],
    },
  ],
  schemas: { File: object({ id: text, type: just("file"), filename: text }) },
};
