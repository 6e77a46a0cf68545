/**
 * Images and files of an OpenAI body as Claude takes them. Nothing is fetched here: an address goes up as it is, and Claude
 * fetches it.
 */
import { err, ok, type Result } from "../../result.ts";
import { asFields, asText } from "../anthropic/usage.ts";
import type { Failure } from "../errors.ts";
import { type Block, type Fields, refuse } from "./draft.ts";
import { saysSomething } from "./fields.ts";

const IMAGE_TYPES = ["image/jpeg", "image/png", "image/gif", "image/webp"];
const PDF = "application/pdf";
/** Text under other names than `text/…`. */
const TEXT_TYPES = [
  "application/json",
  "application/xml",
  "application/yaml",
  "application/x-yaml",
  "application/toml",
  "application/javascript",
  "application/typescript",
  "application/x-sh",
  "application/sql",
];
/** Far more than any media type with its parameters has; keeps the search for the comma away from the data. */
const MAX_DATA_HEADER_CHARS = 512;
/** Ids of Anthropic's Files API; OpenAI's are `file-…`. */
const FILE_ID_PREFIX = "file_";

/** `image_url` of a Chat part (an object, or as some clients write it the address alone) and of Responses' `input_image`. */
export function readImage(part: Fields, param: string): Result<Block, Failure> {
  const holder = asFields(part.image_url);
  const url = asText(holder ? holder.url : part.image_url);
  const fileId = asText(part.file_id) ?? asText(holder?.file_id);
  if (url === null && fileId !== null) return fileSource("image", fileId, `${param}.file_id`);
  const at = holder ? `${param}.image_url.url` : `${param}.image_url`;
  return url === null ? err(refuse(`'${at}' must be a string.`, at)) : imageFrom(url, at);
}

/** `file` of a Chat part, or Responses' `input_file`, whose fields stand on the part itself. */
export function readFile(part: Fields, param: string): Result<Block, Failure> {
  const chat = asFields(part.file);
  const file = chat ?? part;
  const at = chat ? `${param}.file` : param;
  const name = asText(file.filename);
  const title = name !== null && saysSomething(name) ? { title: name } : {};
  const fileId = asText(file.file_id);
  if (typeof file.file_data === "string") return documentFrom(file.file_data, title, `${at}.file_data`);
  if (fileId !== null) return fileSource("document", fileId, `${at}.file_id`, title);
  if (typeof file.file_url === "string") {
    return isAddress(file.file_url)
      ? ok(documentAt(file.file_url, title))
      : err(refuse("A file's address must begin with http:// or https://.", `${at}.file_url`));
  }
  return err(refuse(`'${at}' needs file_data or file_id.`, at));
}

function imageFrom(url: string, at: string): Result<Block, Failure> {
  if (isAddress(url)) return ok({ type: "image", source: { type: "url", url } });
  const data = readDataUri(url);
  if (!data) return err(refuse("An image must be a data URI or an http(s) address.", at));
  return imageOf(data, at);
}

function imageOf({ type, base64, data }: DataUri, at: string): Result<Block, Failure> {
  if (!IMAGE_TYPES.includes(type)) {
    return err(
      refuse(
        `Images of type '${type.slice(0, 80)}' are not supported; use JPEG, PNG, GIF or WebP.`,
        at,
        "invalid_image_format",
      ),
    );
  }
  if (!base64 || data === "") return err(refuse("An image's data must be base64.", at, "invalid_image_format"));
  return ok({ type: "image", source: { type: "base64", media_type: type, data } });
}

const documentAt = (url: string, title: Fields): Block => ({
  type: "document",
  source: { type: "url", url },
  ...title,
});

function documentFrom(written: string, title: Fields, at: string): Result<Block, Failure> {
  if (isAddress(written)) return ok(documentAt(written, title));
  // Without a media type it is what clients send most.
  return documentOf(readDataUri(written) ?? { type: PDF, base64: true, data: withoutSpaces(written) }, title, at);
}

function documentOf(data: DataUri, title: Fields, at: string): Result<Block, Failure> {
  if (data.data === "") return err(refuse("The file is empty.", at));
  if (data.type.startsWith("image/")) return imageOf(data, at);
  if (data.type === PDF) {
    if (!data.base64) return err(refuse("A PDF's data must be base64.", at));
    return ok({ type: "document", source: { type: "base64", media_type: PDF, data: data.data }, ...title });
  }
  if (!isText(data.type)) {
    return err(refuse(`Files of type '${data.type.slice(0, 80)}' are not supported; use PDF or text.`, at));
  }
  const text = data.base64 ? fromBase64(data.data) : fromPercents(data.data);
  if (text === null) return err(refuse("The file's data can't be decoded.", at));
  return plainText(text, title, at);
}

function plainText(data: string, title: Fields, at: string): Result<Block, Failure> {
  if (!saysSomething(data)) return err(refuse("The file is empty.", at));
  return ok({ type: "document", source: { type: "text", media_type: "text/plain", data }, ...title });
}

function fileSource(type: "image" | "document", id: string, at: string, title: Fields = {}): Result<Block, Failure> {
  if (!id.startsWith(FILE_ID_PREFIX)) {
    return err(
      refuse(`'${at}' must name a file of Anthropic's Files API (file_…); other files must be sent as data.`, at),
    );
  }
  return ok({ type, source: { type: "file", file_id: id }, ...title });
}

/**
 * A Messages block of an image or a document, as Cursor sends them in a Chat body. What Claude would not take of it is
 * refused, or left out where nobody misses it.
 */
export function readNativeMedia(block: Fields, param: string): Result<Block, Failure> {
  const at = `${param}.source`;
  const source = asFields(block.source);
  const { type, media_type: mediaType, data, url, file_id: fileId } = source ?? {};
  if (block.type === "image") {
    if (type === "base64" && typeof mediaType === "string" && typeof data === "string") {
      return imageOf({ type: properType(mediaType), base64: true, data }, at);
    }
    if (type === "url" && typeof url === "string") return imageFrom(url, `${at}.url`);
    if (type === "file" && typeof fileId === "string") return fileSource("image", fileId, `${at}.file_id`);
    return err(refuse(`'${at}' is no image source.`, at));
  }
  const made = documentBy(source ?? {}, at);
  if (!made.ok || made.value.type !== "document") return made;
  for (const field of ["title", "context"]) {
    const text = asText(block[field]);
    if (text !== null && saysSomething(text)) made.value[field] = text;
  }
  const enabled = asFields(block.citations)?.enabled;
  if (typeof enabled === "boolean") made.value.citations = { enabled };
  return made;
}

function documentBy({ type, media_type: of, data, url, file_id: id, content }: Fields, at: string) {
  if (type === "base64" && typeof of === "string" && typeof data === "string") {
    return documentOf({ type: properType(of), base64: true, data }, {}, at);
  }
  if (type === "text" && typeof data === "string") return plainText(data, {}, at);
  if (type === "url" && typeof url === "string" && isAddress(url)) return ok(documentAt(url, {}));
  if (type === "file" && typeof id === "string") return fileSource("document", id, `${at}.file_id`);
  if (type === "content" && isDocumentContent(content))
    return ok<Block>({ type: "document", source: { type, content } });
  return err(refuse(`'${at}' is no document source.`, at));
}

/** A document of parts has texts and images. */
function isDocumentContent(content: unknown): boolean {
  if (typeof content === "string") return saysSomething(content);
  if (!Array.isArray(content) || content.length === 0) return false;
  return content.every((each) => {
    const { type, text, source } = asFields(each) ?? {};
    return type === "text" ? typeof text === "string" && saysSomething(text) : type === "image" && !!asFields(source);
  });
}

type DataUri = { readonly type: string; readonly base64: boolean; readonly data: string };

/** A `data:` URI (RFC 2397); null for anything else. Parameters such as `;charset` are passed over. */
function readDataUri(uri: string): DataUri | null {
  if (uri.slice(0, 5).toLowerCase() !== "data:") return null;
  const comma = uri.slice(0, MAX_DATA_HEADER_CHARS).indexOf(",");
  if (comma < 0) return null;
  const [type = "", ...parameters] = uri.slice(5, comma).split(";");
  const base64 = parameters.some((each) => each.trim().toLowerCase() === "base64");
  const data = uri.slice(comma + 1);
  return { type: properType(type) || "text/plain", base64, data: base64 ? withoutSpaces(data) : data };
}

function properType(type: string): string {
  const bare = type.split(";", 1)[0]?.trim().toLowerCase() ?? "";
  return bare === "image/jpg" ? "image/jpeg" : bare;
}

const isText = (type: string): boolean =>
  type.startsWith("text/") || TEXT_TYPES.includes(type) || type.endsWith("+json") || type.endsWith("+xml");

const isAddress = (url: string): boolean => {
  const scheme = url.slice(0, 8).toLowerCase();
  return (scheme.startsWith("http://") || scheme === "https://") && url.length > 8;
};

const BREAKS = ["\n", "\r", " "] as const;

/** Base64 as some encoders write it, broken into lines; the search for a break costs next to nothing. */
function withoutSpaces(base64: string): string {
  return BREAKS.some((space) => base64.includes(space)) ? base64.replace(/[\n\r ]+/g, "") : base64;
}

const utf8 = new TextDecoder();

/** The text in base64, read as UTF-8; null where it is no base64. */
function fromBase64(data: string): string | null {
  let binary: string;
  try {
    binary = atob(data);
  } catch {
    return null;
  }
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return utf8.decode(bytes);
}

function fromPercents(data: string): string | null {
  try {
    return decodeURIComponent(data);
  } catch {
    return null;
  }
}
