/** `/v1/files` over HTTP. */
import { answerWhole, type KnownCall } from "./answer.ts";
import { type ApiError, apiError, invalid, isApiError, messageOfType } from "./errors.ts";
import type { Faults } from "./faults.ts";
import { Files, MAX_FILE_BYTES, metadataOf, type Upload } from "./files.ts";

/** The largest body of an upload: a file, and what the form puts around it. */
export const MAX_UPLOAD_BYTES = MAX_FILE_BYTES + 64 * 1024;

export const files = new Files();

/** `POST /v1/files`. */
export async function uploadFile(call: KnownCall, faults: Faults, body: Uint8Array): Promise<Response | ApiError> {
  const upload = await readUpload(call.request.headers.get("content-type"), body);
  if (isApiError(upload)) return upload;
  const file = files.add(
    call.caller.organization.id,
    { ...upload, downloadable: faults.downloadable === true },
    call.now,
  );
  return isApiError(file) ? file : answerWhole(call, JSON.stringify(metadataOf(file)), faults);
}

/** `GET /v1/files`. */
export function listFiles(call: KnownCall, faults: Faults, query: URLSearchParams): Response | ApiError {
  const page = files.page(call.caller.organization.id, query);
  return isApiError(page) ? page : answerWhole(call, JSON.stringify(page), faults);
}

/** `GET` and `DELETE /v1/files/{id}`, and `GET /v1/files/{id}/content`. */
export function answerFile(call: KnownCall, faults: Faults, id: string, isContent: boolean): Response | ApiError {
  const scope = call.caller.organization.id;
  const file = isContent ? files.findAlive(scope, id, call.now) : files.find(scope, id);
  if (isApiError(file)) return file;
  if (call.request.method === "DELETE") {
    files.delete(file);
    return answerWhole(call, JSON.stringify({ id, type: "file_deleted" }), faults);
  }
  if (!isContent) return answerWhole(call, JSON.stringify(metadataOf(file)), faults);
  if (!file.downloadable) {
    const error = invalid(`File ${id} is not downloadable: only files that a tool has made are.`);
    return { ...error, code: "file_not_downloadable" };
  }
  const response = answerWhole(call, file.bytes, faults, file.type);
  response.headers.set("content-disposition", `attachment; filename*=UTF-8''${encodeURIComponent(file.name)}`);
  return response;
}

/** The form's file and fields. */
async function readUpload(
  contentType: string | null,
  body: Uint8Array,
): Promise<Omit<Upload, "downloadable"> | ApiError> {
  if (!contentType?.toLowerCase().startsWith("multipart/form-data")) {
    return invalid("The request body must be multipart/form-data.");
  }
  const form = await new Response(body, { headers: { "content-type": contentType } }).formData().catch(() => undefined);
  if (!form) return invalid("The request body is not valid multipart/form-data.");
  const file = form.get("file");
  if (file === null) return invalid("file: Field required");
  const life = form.get("expires_in_seconds");
  if (life !== null && typeof life !== "string") return invalid("expires_in_seconds: Input should be a valid integer");
  // A part without a filename is text to the form's parser.
  if (typeof file === "string") {
    return { name: "", type: "text/plain", bytes: new TextEncoder().encode(file), lifeSeconds: life };
  }
  if (file.size > MAX_FILE_BYTES) return apiError(413, messageOfType("request_too_large"));
  return { name: file.name, type: file.type, bytes: await file.bytes(), lifeSeconds: life };
}
