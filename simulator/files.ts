/**
 * The files of the organizations (Files API, SDK 1.11.0 resources/files.ts), in the isolate's memory. Uploads cannot be
 * downloaded again, as on the real API, unless the upload asked for that. Nothing is forgotten to make room: an upload
 * that does not fit is refused, as when the real API's storage is full.
 */
import { type ApiError, apiError, invalid, isApiError } from "./errors.ts";
import { asFields, asList, asText, type Fields } from "./json.ts";
import { limitOf } from "./paging.ts";

/** Of one file. The real API takes 500 MB; a Worker has 128 MB of memory. */
export const MAX_FILE_BYTES = 32 * 1024 * 1024;
/** Of all files of all organizations. */
const MAX_HELD_BYTES = 64 * 1024 * 1024;
const MAX_FILES = 10_000;
const MAX_IDS = 100;
const MIN_LIFE_SECONDS = 3600;
const MAX_LIFE_SECONDS = 7_776_000;
const MAX_NAME_CHARS = 255;
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are among what a name may not have
const FORBIDDEN_IN_NAMES = /[<>:"|?*\u0000-\u001f]/;

const EXTENSIONS: Readonly<Record<string, string>> = {
  csv: "text/csv",
  gif: "image/gif",
  jpeg: "image/jpeg",
  jpg: "image/jpeg",
  json: "application/json",
  md: "text/markdown",
  pdf: "application/pdf",
  png: "image/png",
  txt: "text/plain",
  webp: "image/webp",
};
const UNKNOWN_TYPE = "application/octet-stream";

export type StoredFile = {
  readonly id: string;
  readonly scope: string;
  /** Counts the uploads: the order of the list, and where a page goes on. */
  readonly number: number;
  readonly name: string;
  readonly type: string;
  readonly bytes: Uint8Array;
  /** In ms. */
  readonly createdAt: number;
  readonly expiresAt: number | undefined;
  readonly downloadable: boolean;
};

/** What an upload brings. `lifeSeconds`: the text of `expires_in_seconds`. */
export type Upload = {
  readonly name: string;
  readonly type: string;
  readonly bytes: Uint8Array;
  readonly lifeSeconds: string | null;
  readonly downloadable: boolean;
};

export class Files {
  readonly #files = new Map<string, StoredFile>();
  #heldBytes = 0;
  #uploads = 0;

  add(scope: string, upload: Upload, now: number): StoredFile | ApiError {
    const { bytes, downloadable } = upload;
    const life = lifeOf(upload.lifeSeconds);
    if (typeof life === "string") return invalid(life);
    const named = nameOf(upload);
    if (typeof named === "string") return invalid(named);
    if (bytes.length > MAX_FILE_BYTES) return apiError(413, `file: must be at most ${MAX_FILE_BYTES} bytes here`);
    if (this.#files.size >= MAX_FILES || this.#heldBytes + bytes.length > MAX_HELD_BYTES) {
      const error = invalid("The storage of the simulator is full: delete files, then upload again.");
      return { ...error, code: "storage_quota_exceeded" };
    }
    const file: StoredFile = {
      id: `file_011sim${crypto.randomUUID().replaceAll("-", "").slice(0, 18)}`,
      scope,
      number: ++this.#uploads,
      ...named,
      bytes,
      createdAt: now,
      expiresAt: life === undefined ? undefined : now + life * 1000,
      downloadable,
    };
    this.#files.set(file.id, file);
    this.#heldBytes += bytes.length;
    return file;
  }

  /** A file that this organization has. */
  find(scope: string, id: string): StoredFile | ApiError {
    const file = this.#files.get(id);
    return file?.scope === scope ? file : noSuchFile(id);
  }

  /** What can be downloaded of a file, and used in a message: everything until it expires. */
  findAlive(scope: string, id: string, now: number): StoredFile | ApiError {
    const file = this.find(scope, id);
    if (isApiError(file) || file.expiresAt === undefined || file.expiresAt > now) return file;
    return { ...apiError(404, `File ${id} has expired.`), code: "file_expired" };
  }

  delete(file: StoredFile): void {
    if (this.#files.delete(file.id)) this.#heldBytes -= file.bytes.length;
  }

  /** A page of the list, newest first: by `limit` and `page`, or just the files of `ids[]`. */
  page(scope: string, query: URLSearchParams): Fields | ApiError {
    const own = [...this.#files.values()].filter((file) => file.scope === scope).reverse();
    const ids = new Set([...query.getAll("ids[]"), ...query.getAll("ids")]);
    if (ids.size > 0) {
      if (query.has("page") || query.has("limit")) return invalid("ids: cannot be used with page or limit");
      if (ids.size > MAX_IDS) return invalid(`ids: must be at most ${MAX_IDS}`);
      return { data: own.filter((file) => ids.has(file.id)).map(metadataOf), next_page: null };
    }
    const limit = limitOf(query);
    if (typeof limit === "string") return invalid(limit);
    const cursor = query.get("page");
    const before = cursor === null ? Number.POSITIVE_INFINITY : readCursor(cursor);
    if (before === undefined) return invalid("page: is no cursor of this list");
    const rest = own.filter((file) => file.number < before);
    const data = rest.slice(0, limit);
    const last = data.at(-1);
    return {
      data: data.map(metadataOf),
      next_page: last && data.length < rest.length ? `page_${btoa(`before ${last.number}`).replaceAll("=", "")}` : null,
    };
  }
}

/** A file as the API tells it. */
export function metadataOf(file: StoredFile): Fields {
  return {
    id: file.id,
    type: "file",
    filename: file.name,
    mime_type: file.type,
    size_bytes: file.bytes.length,
    created_at: new Date(file.createdAt).toISOString(),
    downloadable: file.downloadable,
    expires_at: file.expiresAt === undefined ? null : new Date(file.expiresAt).toISOString(),
  };
}

/** The first reference in a message to a file that is not there, or that does not fit its block. */
export function wrongFile(files: Files, scope: string, body: Fields, now: number): ApiError | undefined {
  for (const message of asList(body.messages)) {
    for (const block of blocksWithin(asFields(message)?.content)) {
      const source = asFields(block.source);
      const id = asText(block.type === "container_upload" ? block.file_id : source?.file_id);
      if (id === undefined || (source && source.type !== "file")) continue;
      const file = files.findAlive(scope, id, now);
      if (isApiError(file)) return file;
      const fits = block.type === "image" ? /^image\// : block.type === "document" ? /^application\/pdf$|^text\// : /./;
      if (!fits.test(file.type))
        return invalid(`File ${id} of type ${file.type} cannot be used in a ${block.type} block.`);
    }
  }
  return undefined;
}

/** The blocks of a content, and those within its tool results. */
function* blocksWithin(content: unknown): Generator<Fields, void, void> {
  for (const item of asList(content)) {
    const block = asFields(item);
    if (!block) continue;
    yield block;
    if (block.type === "tool_result") yield* blocksWithin(block.content);
  }
}

const noSuchFile = (id: string): ApiError => apiError(404, `File not found: ${id}`);

/** Seconds that a file lives, undefined for good, or what is wrong with them. */
function lifeOf(text: string | null): number | string | undefined {
  if (text === null) return undefined;
  const seconds = Number(text);
  if (Number.isInteger(seconds) && seconds >= MIN_LIFE_SECONDS && seconds <= MAX_LIFE_SECONDS) return seconds;
  return `expires_in_seconds: must be from ${MIN_LIFE_SECONDS} to ${MAX_LIFE_SECONDS}`;
}

/** The last component of the path and the type, each from the other where it is missing, or what is wrong with them. */
function nameOf({ name: path, type: given }: Upload): { readonly name: string; readonly type: string } | string {
  const name = path.split(/[/\\]/).at(-1) ?? "";
  const type = given.split(";")[0]?.trim() || (EXTENSIONS[name.split(".").at(-1)?.toLowerCase() ?? ""] ?? UNKNOWN_TYPE);
  if (name === "") {
    const extension = Object.keys(EXTENSIONS).find((key) => EXTENSIONS[key] === type);
    return { name: extension === undefined ? "unnamed" : `unnamed.${extension}`, type };
  }
  if (name.length > MAX_NAME_CHARS) return `file: the filename must have at most ${MAX_NAME_CHARS} characters`;
  return FORBIDDEN_IN_NAMES.test(name) ? "file: the filename contains forbidden characters" : { name, type };
}

function readCursor(cursor: string): number | undefined {
  try {
    const number = /^before (\d+)$/.exec(atob(cursor.replace(/^page_/, "")))?.[1];
    return number === undefined ? undefined : Number(number);
  } catch {
    return undefined;
  }
}
