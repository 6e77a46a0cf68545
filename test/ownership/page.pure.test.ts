/** What a list is asked, and what its page looks like. */
import { describe, expect, it } from "vitest";
import { isObjectId, pageText, readPageRequest } from "../../src/ownership/page.ts";

const ask = (kind: "batches" | "files", query: string) => readPageRequest(`https://g/v1/x?${query}`, kind);

describe("X-04 a list's query", () => {
  it.each([
    ["batches", "", { limit: 20, start: null, ids: null }],
    ["batches", "limit=1000&beta=true", { limit: 1_000, start: null }],
    ["batches", "after_id=b_1&limit=1", { limit: 1, start: { direction: "older", id: "b_1" } }],
    ["batches", "before_id=b_1", { start: { direction: "newer", id: "b_1" } }],
    ["batches", "page=b_1&ids=b_2", { start: null, ids: null }],
    ["batches", "after_id=&limit=", { limit: 20, start: null }],
    ["files", "page=f_1", { start: { direction: "older", id: "f_1" } }],
    ["files", "ids%5B%5D=a&ids%5B%5D=b&ids=a", { ids: ["b", "a"] }],
  ] as const)("%s?%s", (kind, query, expected) => {
    const asked = ask(kind, query);
    expect(asked).toMatchObject({ ok: true });
    if (!asked.ok) return;
    const { ids } = asked.value;
    expect({ ...asked.value, ids: ids && [...ids].sort().reverse() }).toMatchObject(expected);
  });

  it.each([
    ["batches", "limit=0"],
    ["batches", "limit=1001"],
    ["batches", "limit=-1"],
    ["batches", "limit=1e2"],
    ["batches", "limit=5&limit=6"],
    ["batches", "after_id=a&before_id=b"],
    ["batches", "after_id=a/b"],
    ["batches", "after_id=a&after_id=a"],
    ["files", "page=a&after_id=b"],
    ["files", "page=%F0%9F%98%80"],
    ["files", `page=${"a".repeat(129)}`],
    ["files", "ids=a&limit=3"],
    ["files", "ids=a&page=b"],
    ["files", "scope_id=session_1"],
    ["files", Array.from({ length: 101 }, (_, i) => `ids=f${i}`).join("&")],
  ] as const)("%s?%s is refused", (kind, query) => {
    expect(ask(kind, query)).toMatchObject({ ok: false, error: { kind: "invalid_request" } });
  });
});

it("P-02 ids are letters, digits, `_` and `-`, 128 at the most", () => {
  for (const id of ["a", "msgbatch_01-x", "a".repeat(128)]) expect(isObjectId(id)).toBe(true);
  for (const id of [
    "",
    "a/b",
    "a?x",
    "a#x",
    "..%2Fm",
    "..",
    "a b",
    "é",
    "😀",
    "a\n",
    "a".repeat(129),
    "a".repeat(1024),
  ]) {
    expect(isObjectId(id)).toBe(false);
  }
});

it("a page is what the SDKs read, objects byte for byte", () => {
  const objects = [
    { id: "b2", text: '{ "id": "b2" }' },
    { id: "b1", text: '{"id":"b1"}' },
  ];
  expect(pageText("batches", objects, true)).toBe(
    '{"data":[{ "id": "b2" },{"id":"b1"}],"has_more":true,"first_id":"b2","last_id":"b1"}',
  );
  expect(JSON.parse(pageText("files", objects, true))).toMatchObject({ next_page: "b1", has_more: true });
  expect(JSON.parse(pageText("files", objects, false))).toMatchObject({ next_page: null, has_more: false });
  expect(JSON.parse(pageText("batches", [], false))).toEqual({
    data: [],
    has_more: false,
    first_id: null,
    last_id: null,
  });
});
