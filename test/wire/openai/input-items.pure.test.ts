/** Pages of a stored response's input. */
import { describe, expect, it } from "vitest";
import { listInputItems } from "../../../src/wire/openai/input-items.ts";

const list = (input: unknown, query = {}) => {
  const page = listInputItems("resp_01", input, query);
  return page.ok ? JSON.parse(page.value) : page.error;
};
const many = Array.from({ length: 45 }, (_, nth) => ({ id: `i${nth}`, type: "function_call_output", output: "" }));

describe("input items", () => {
  it("are written out, with ids that stay the same", () => {
    const input = [
      { role: "user", content: "w?" },
      { type: "message", role: "assistant", content: "hm" },
      { id: "msg_own", role: "user", content: [{ type: "input_image", image_url: "u" }] },
      { type: "function_call_output", call_id: "toolu_1", output: "4C" },
    ];
    const user = { type: "message", role: "user" };
    expect(list(input, { order: "asc" })).toEqual({
      object: "list",
      data: [
        { ...user, id: "msg_01_0", status: "completed", content: [{ type: "input_text", text: "w?" }] },
        {
          ...user,
          id: "msg_01_1",
          role: "assistant",
          status: "completed",
          content: [{ type: "output_text", text: "hm" }],
        },
        { ...user, id: "msg_own", content: [{ type: "input_image", image_url: "u" }] },
        { id: "msg_01_3", type: "function_call_output", call_id: "toolu_1", output: "4C" },
      ],
      first_id: "msg_01_0",
      last_id: "msg_01_3",
      has_more: false,
    });
    expect(list("w?").data).toEqual([
      { ...user, id: "msg_01_0", status: "completed", content: [{ type: "input_text", text: "w?" }] },
    ]);
    expect(list([])).toEqual({ object: "list", data: [], first_id: null, last_id: null, has_more: false });
  });

  it("come in pages that leave none out, newest first unless asked otherwise", () => {
    for (const order of ["asc", "desc", undefined]) {
      const seen: string[] = [];
      for (let after: string | undefined; ; ) {
        const page = list(many, { order, after });
        seen.push(...page.data.map(({ id }: { id: string }) => id));
        expect(page.data.length).toBeLessThanOrEqual(20);
        if (!page.has_more) break;
        after = page.last_id;
      }
      const ids = many.map(({ id }) => id);
      expect(seen).toEqual(order === "asc" ? ids : ids.reverse());
    }
    expect(list(many, { limit: "100" }).data).toHaveLength(45);
    expect(list(many, { limit: "45" }).has_more).toBe(false);
  });

  it("refuse a query that means nothing", () => {
    for (const limit of ["0", "101", "1.5", "x"]) expect(list(many, { limit })).toMatchObject({ param: "limit" });
    expect(list(many, { order: "up" })).toMatchObject({ param: "order" });
    expect(list(many, { after: "none" })).toMatchObject({ param: "after" });
  });
});
