import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { err, ok } from "../../../src/result.ts";
import { type Block, type Draft, refuse } from "../../../src/wire/openai/draft.ts";
import { MAX_REFERRED_CHARS, resolveReferences } from "../../../src/wire/openai/item-reference.ts";
import { responsesAnswer } from "../../../src/wire/openai/responses-answer.ts";
import { assistant, call, draftOf, messageOf, tellingOf, text } from "../../support/drafts.ts";

const thinking: Block = { type: "thinking", thinking: "T", signature: "SIG" };
const ANSWER = [thinking, text("a"), text("b"), call("toolu_1"), text("c"), call("toolu_2")];

const naming = (...ids: string[]): Draft => {
  const content = ids.map((data, i): Block => ({ type: "item_reference", data, param: `input[${i}]` }));
  return draftOf({ turns: [assistant(...content)] });
};
const stored = async (id: string) =>
  id === "resp_01CASE" ? ok({ answer: ANSWER }) : err(refuse("Previous response not found.", "previous_response_id"));

describe("resolveReferences", () => {
  it("puts an answer back but for its thinking, by the ids that the client was told", async () => {
    const message = messageOf(ANSWER, { id: "msg_01CASE" });
    const name = { id: "req_1", created: 1 };
    const told = JSON.parse(await responsesAnswer(message, name, tellingOf(), async () => ""));
    expect(told.id).toBe("resp_01CASE");
    const draft = naming(...told.output.map(({ id }: { id: string }) => id));
    expect(await resolveReferences(draft, stored)).toBeNull();
    expect(draft.turns[0]?.content).toEqual(ANSWER.slice(1));
  });

  it("leaves nothing of a refusal, and takes no text twice", async () => {
    const silent: Block = { type: "thinking", thinking: "", signature: "SIG" };
    const lookUp = async () => ok({ answer: [text("a"), silent, text("b")] });
    const contentOf = async (...ids: string[]) => {
      const draft = naming(...ids);
      expect(await resolveReferences(draft, lookUp)).toBeNull();
      return draft.turns[0]?.content;
    };
    expect(await contentOf("msg_x_3")).toEqual([]);
    expect(await contentOf("msg_x_0")).toEqual([text("a"), text("b")]);
    expect(await contentOf("msg_x_0", "rs_x_1", "msg_x_2")).toEqual([text("a"), text("b")]);
  });

  it("asks for each response once, and for none where nothing is referred to", async () => {
    const asked: string[] = [];
    const lookUp = (id: string) => {
      asked.push(id);
      return stored(id);
    };
    expect(
      await resolveReferences({ turns: [{ role: "user", content: [text("x")] }] } as unknown as Draft, lookUp),
    ).toBeNull();
    expect(asked).toEqual([]);
    await resolveReferences(naming("fc_01CASE_0", "fc_01CASE_1"), lookUp);
    expect(asked).toEqual(["resp_01CASE"]);
  });

  it.each(["fc_01CASE_2", "rs_01CASE_1", "msg_01CASE_0", "msg_01OTHER_0", "msg_abc", "", "x".repeat(500)])(
    "refuses %j, which is no item of it",
    async (id) => {
      const failure = await resolveReferences(naming("fc_01CASE_0", id), stored);
      expect(failure).toMatchObject({ kind: "invalid_request", param: "input[1]" });
    },
  );

  it("refuses what anybody makes up, without failing", async () => {
    await fc.assert(
      fc.asyncProperty(fc.string(), async (id) => {
        expect(await resolveReferences(naming(id), stored)).toMatchObject({ kind: "invalid_request" });
      }),
    );
  });

  it("says that the store is away, and looks up no more than it may", async () => {
    const away = { kind: "unavailable", what: "The store of responses", retryAfterMs: 1_000 } as const;
    expect(await resolveReferences(naming("fc_01CASE_0"), async () => err(away))).toEqual(away);
    const many = (n: number) => naming(...Array.from({ length: n }, (_, i) => `fc_${i}_0`));
    const all = async () => ok({ answer: ANSWER });
    expect(await resolveReferences(many(200), all)).toBeNull();
    expect(await resolveReferences(many(201), all)).toMatchObject({ param: "input" });
    const long = async () => ok({ answer: [text("x".repeat(MAX_REFERRED_CHARS / 4))] });
    const often = (n: number) => naming(...Array.from({ length: n }, () => "msg_01CASE_0"));
    expect(await resolveReferences(often(4), long)).toBeNull();
    expect(await resolveReferences(often(5), long)).toMatchObject({ param: "input" });
  });
});
