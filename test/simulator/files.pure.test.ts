/** What becomes of a file: its name, its life, who sees it, its place in the list, and messages that refer to it. */
import fc from "fast-check";
import { beforeEach, describe, expect, it } from "vitest";
import { isApiError } from "../../simulator/errors.ts";
import { Files, metadataOf, type StoredFile, type Upload, wrongFile } from "../../simulator/files.ts";
import type { Json } from "./support.ts";

let files: Files;
beforeEach(() => {
  files = new Files();
});

const upload: Upload = {
  name: "notes.txt",
  type: "text/plain",
  bytes: new Uint8Array([1, 2, 3]),
  lifeSeconds: null,
  downloadable: false,
};
function add(more: Partial<Upload> = {}, scope = "own", now = 0): StoredFile {
  const file = files.add(scope, { ...upload, ...more }, now);
  if (isApiError(file)) throw new Error(file.message);
  return file;
}
const page = (query: Record<string, string>): { data: Json[]; next_page: string | null } =>
  files.page("own", new URLSearchParams(query)) as never;

it("is told as the API does", () => {
  expect(metadataOf(add())).toEqual({
    id: expect.stringMatching(/^file_011sim[0-9a-f]{18}$/),
    type: "file",
    filename: "notes.txt",
    mime_type: "text/plain",
    size_bytes: 3,
    created_at: "1970-01-01T00:00:00.000Z",
    downloadable: false,
    expires_at: null,
  });
});

it.each([
  ["a/b\\c.txt", "text/plain; charset=utf-8", "c.txt", "text/plain"],
  ["", "application/pdf", "unnamed.pdf", "application/pdf"],
  ["", "application/x-own", "unnamed", "application/x-own"],
  ["PLAN.PDF", "", "PLAN.PDF", "application/pdf"],
  ["plan", "", "plan", "application/octet-stream"],
])("has a name and a type: %s of %s", (name, type, filename, mime) => {
  expect(metadataOf(add({ name, type }))).toMatchObject({ filename, mime_type: mime });
});

it.each([
  [{ name: "a?b" }, 400, "file: the filename contains forbidden characters"],
  [{ name: "x".repeat(256) }, 400, "file: the filename must have at most 255 characters"],
  [{ lifeSeconds: "3599" }, 400, "expires_in_seconds: must be from 3600 to 7776000"],
  [{ lifeSeconds: "7776001" }, 400, "expires_in_seconds: must be from 3600 to 7776000"],
  [{ lifeSeconds: "soon" }, 400, "expires_in_seconds: must be from 3600 to 7776000"],
  [{ bytes: new Uint8Array(32 * 1024 * 1024 + 1) }, 413, "file: must be at most 33554432 bytes here"],
] as [Partial<Upload>, number, string][])("is refused: %#", (more, status, message) => {
  expect(files.add("own", { ...upload, ...more }, 0)).toMatchObject({ status, message });
});

it("is refused when the storage is full, until something is deleted", () => {
  const bytes = new Uint8Array(32 * 1024 * 1024);
  const [first] = [add({ bytes }), add({ bytes })];
  expect(files.add("own", upload, 0)).toMatchObject({ status: 400, code: "storage_quota_exceeded" });
  files.delete(first);
  files.delete(first);
  add({ bytes });
  expect(files.add("own", upload, 0)).toMatchObject({ code: "storage_quota_exceeded" });
});

it("belongs to who uploaded it", () => {
  const file = add();
  expect(files.find("own", file.id)).toBe(file);
  expect(files.find("other", file.id)).toMatchObject({ status: 404, type: "not_found_error" });
  expect(files.page("other", new URLSearchParams())).toEqual({ data: [], next_page: null });
  files.delete(file);
  expect(files.find("own", file.id)).toMatchObject({ status: 404 });
});

it("expires: its metadata stays, its content does not", () => {
  const file = add({ lifeSeconds: "3600" }, "own", 1000);
  expect(metadataOf(file)).toMatchObject({ expires_at: "1970-01-01T01:00:01.000Z" });
  expect(files.findAlive("own", file.id, 3_600_999)).toBe(file);
  expect(files.findAlive("own", file.id, 3_601_000)).toMatchObject({ status: 404, code: "file_expired" });
  expect(files.find("own", file.id)).toBe(file);
});

describe("the list", () => {
  it("has each file once, newest first, whatever is deleted or added between two pages", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 30 }),
        fc.integer({ min: 1, max: 7 }),
        fc.array(fc.nat(29), { maxLength: 10 }),
        (count, limit, deleted) => {
          files = new Files();
          const all = Array.from({ length: count }, () => add());
          const seen: unknown[] = [];
          const gone = new Set<unknown>();
          let cursor: string | null = null;
          do {
            const { data, next_page } = page({ limit: String(limit), ...(cursor === null ? {} : { page: cursor }) });
            expect(data.length).toBeLessThanOrEqual(limit);
            seen.push(...data.map((file) => file.id));
            cursor = next_page;
            const file = all[deleted.pop() ?? -1];
            if (file) {
              files.delete(file);
              gone.add(file.id);
            }
            add();
          } while (cursor !== null);
          const expected = all.map((file) => file.id).reverse();
          const isThere = (id: unknown): boolean => !gone.has(id);
          expect(new Set(seen).size).toBe(seen.length);
          expect(seen.filter(isThere)).toEqual(expected.filter(isThere));
        },
      ),
    );
  });

  it("is just the files of ids[], without those that are not there", () => {
    const [first, , third] = [add(), add(), add()];
    const query = new URLSearchParams([first.id, third?.id ?? "", "file_none", first.id].map((id) => ["ids[]", id]));
    const { data, next_page } = files.page("own", query) as never as { data: Json[]; next_page: null };
    expect([data.map((file) => file.id), next_page]).toEqual([[third?.id, first.id], null]);
  });

  it.each([
    { limit: "0" },
    { limit: "1001" },
    { page: "x" },
    { page: `page_${btoa("after 1")}` },
    { ids: "x", limit: "1" },
  ])("refuses the query %o", (query) => {
    expect(page(query as Record<string, string>)).toMatchObject({ status: 400 });
  });
});

describe("a message that refers to a file", () => {
  const refer = (block: Json): Json => ({
    messages: [{ role: "user", content: [{ type: "text", text: "x" }, block] }],
  });
  const wrong = (block: Json, now = 0): unknown => wrongFile(files, "own", refer(block), now);

  it("needs a file of this account that is alive and fits", () => {
    const text = add({ lifeSeconds: "3600" });
    const image = add({ name: "a.png", type: "image/png" });
    const foreign = add({}, "other");
    const source = (file: StoredFile): Json => ({ type: "file", file_id: file.id });
    expect(wrong({ type: "document", source: source(text) })).toBeUndefined();
    expect(wrong({ type: "image", source: source(image) })).toBeUndefined();
    expect(wrong({ type: "container_upload", file_id: text.id })).toBeUndefined();
    expect(wrong({ type: "document", source: source(text) }, 3_600_000)).toMatchObject({ code: "file_expired" });
    expect(wrong({ type: "document", source: source(image) })).toMatchObject({ status: 400 });
    expect(wrong({ type: "image", source: source(text) })).toMatchObject({ status: 400 });
    const missing = { status: 404, type: "not_found_error", message: `File not found: ${foreign.id}` };
    for (const block of [
      { type: "document", source: source(foreign) },
      { type: "container_upload", file_id: foreign.id },
      { type: "tool_result", content: [{ type: "image", source: source(foreign) }] },
    ]) {
      expect(wrong(block)).toMatchObject(missing);
    }
  });

  it("is left alone when it refers to none", () => {
    expect(wrongFile(files, "own", { messages: "x" }, 0)).toBeUndefined();
    expect(wrong({ type: "image", source: { type: "url", url: "https://example.com/a.png" } })).toBeUndefined();
  });
});
