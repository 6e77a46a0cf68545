import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Block, Draft, Turn } from "../../../src/wire/openai/draft.ts";
import { endTurns, GO_ON, mergeTurns, placeSystem } from "../../../src/wire/openai/turns.ts";
import { assistant, call, draftOf, modelThat, result, system, text, user } from "../../support/drafts.ts";

const NATIVE = modelThat({ systemTurns: true });
const OLD = modelThat({ systemTurns: false, prefill: true });

function placed(turns: Turn[], model = NATIVE): Turn[] {
  const draft = draftOf({ turns });
  expect(placeSystem(draft, model)).toBeNull();
  mergeTurns(draft);
  return draft.turns;
}

describe("placeSystem", () => {
  it("leaves what stands in front there, a block for each message", () => {
    for (const model of [NATIVE, OLD]) {
      expect(placed([system("One."), system("Two.", "Three."), user("Hi")], model)).toEqual([
        system("One.", "Two.", "Three."),
        user("Hi"),
      ]);
    }
  });

  it("takes a later one to the front where the model knows no other place", () => {
    expect(placed([system("S"), user("a"), assistant("b"), system("T"), user("c")], OLD)).toEqual([
      system("S", "T"),
      user("a"),
      assistant("b"),
      user("c"),
    ]);
    expect(placed([user("a"), system("T"), user("b")], OLD)).toEqual([system("T"), user("a", "b")]);
  });

  it("leaves one between a user and an assistant, or at the end behind a user", () => {
    const turns = [user("a"), system("T"), assistant("b"), user("c"), system("U")];
    expect(placed(structuredClone(turns))).toEqual(turns);
  });

  it("puts one before a user behind that user, and several in their order", () => {
    expect(placed([user("a"), assistant("b"), system("T"), user("c"), system("U"), user("d"), assistant("e")])).toEqual(
      [user("a"), assistant("b"), user("c", "d"), system("T", "U"), assistant("e")],
    );
  });

  it("never comes between calls and their results", () => {
    const calls: Turn = { role: "assistant", content: [call("c1"), call("c2")] };
    const results: Turn[] = ["c1", "c2"].map((id) => ({ role: "user", content: [result(id)] }));
    expect(placed([user("a"), calls, system("T"), results[0] as Turn, system("U"), results[1] as Turn])).toEqual([
      user("a"),
      calls,
      { role: "user", content: [result("c1"), result("c2")] },
      system("T", "U"),
    ]);
  });

  it("makes it a user's text where there is no user before it and none behind", () => {
    expect(placed([user("a"), assistant("b"), system("T"), assistant("c")])).toEqual([
      user("a"),
      assistant("b"),
      user("T"),
      assistant("c"),
    ]);
    expect(placed([user("a"), assistant("b"), system("T", "U")])).toEqual([user("a"), assistant("b"), user("T", "U")]);
  });

  it("takes an assistant that ends with a server tool's result for a user", () => {
    const search: Block[] = [
      { type: "server_tool_use", id: "srvtoolu_1", name: "web_search", input: {} },
      { type: "web_search_tool_result", tool_use_id: "srvtoolu_1", content: [] },
    ];
    const searched: Turn = { role: "assistant", content: search };
    expect(placed([user("a"), searched, system("T")])).toEqual([user("a"), searched, system("T")]);
    const calling: Turn = { role: "assistant", content: [call("c"), ...search] };
    expect(placed([user("a"), calling, system("T")]).at(-1)).toEqual(user("T"));
  });

  it("makes a user of the last one if there is nothing else", () => {
    for (const model of [NATIVE, OLD]) {
      expect(placed([system("Say hi.")], model)).toEqual([user("Say hi.")]);
      expect(placed([system("S"), system("T", "U"), user(" ")], model)).toEqual([system("S"), user("T", "U")]);
    }
  });

  it("drops blanks, wherever they are, and keeps their cache breakpoint", () => {
    const cache_control = { type: "ephemeral" } as const;
    const blankEnd: Turn = { role: "user", content: [text("x"), { ...text(" \n"), cache_control }] };
    expect(placed([system(""), user(), blankEnd, assistant("  \n"), user("\u00a0", "y")])).toEqual([
      { role: "user", content: [{ ...text("x"), cache_control }, text("y")] },
    ]);
    const blankResults: Block[] = [
      { ...result("a"), content: [text(""), text("z")] },
      { ...result("b"), content: [text("")] },
      { ...result("c"), content: " " },
    ];
    expect(placed([{ role: "user", content: blankResults }])[0]?.content).toEqual([
      { ...result("a"), content: [text("z")] },
      result("b"),
      result("c"),
    ]);
  });

  it("drops thoughts that nothing follows", () => {
    const thinking = { type: "thinking", thinking: "hm", signature: "s" };
    const thought = (...content: Block[]): Turn => ({ role: "assistant", content: [thinking, ...content] });
    expect(placed([user("a"), system("S"), thought(text(" ")), user("b")])).toEqual([user("a", "b"), system("S")]);
    expect(placed([user("a"), thought(text("b"), thinking), user("c")])).toEqual([
      user("a"),
      thought(text("b")),
      user("c"),
    ]);
  });

  it("refuses a list that says nothing", () => {
    const failure = placeSystem(draftOf({ turns: [system(" "), user(""), assistant()] }), NATIVE);
    expect(failure).toMatchObject({ kind: "invalid_request", param: "messages" });
  });
});

describe("mergeTurns", () => {
  it("puts an assistant's calls behind its text, unless it thought in between", () => {
    const turns: Turn[] = [{ role: "assistant", content: [text("a"), call("c")] }, assistant("b")];
    const draft = draftOf({ turns });
    mergeTurns(draft);
    expect(draft.turns).toEqual([{ role: "assistant", content: [text("a"), text("b"), call("c")] }]);

    const thinking = { type: "thinking", thinking: "", signature: "s" };
    const thought: Turn = { role: "assistant", content: [call("c"), thinking, text("b"), call("d")] };
    const kept = draftOf({ turns: [structuredClone(thought)] });
    mergeTurns(kept);
    expect(kept.turns).toEqual([thought]);
  });
});

describe("endTurns", () => {
  const ended = (turns: Turn[], model = OLD, more: Partial<Draft> = {}): Turn[] => {
    const draft = draftOf({ turns, ...more });
    endTurns(draft, model);
    return draft.turns;
  };

  it("lets a model that can go on from the assistant's last word, trimmed", () => {
    expect(ended([user("a"), assistant("The answer: \n")])).toEqual([user("a"), assistant("The answer:")]);
  });

  it("tells any other to go on", () => {
    expect(ended([user("a"), assistant("b ")], NATIVE)).toEqual([user("a"), assistant("b "), user(GO_ON)]);
  });

  it("tells it too where the model thinks, and where the answer has a format", () => {
    const turns = () => [user("a"), assistant("b")];
    for (const more of [
      { extra: { thinking: { type: "enabled", budget_tokens: 1024 } } },
      { format: { kind: "json_schema", schema: {}, param: "response_format" } } as const,
    ]) {
      expect(ended(turns(), OLD, more).at(-1)).toEqual(user(GO_ON));
    }
    expect(ended(turns(), OLD, { extra: { thinking: { type: "disabled" } } })).toEqual(turns());
  });

  it("sends back as it is what a server tool has left unfinished", () => {
    const turns: Turn[] = [
      user("a"),
      { role: "assistant", content: [{ type: "server_tool_use", id: "srvtoolu_1", name: "web_search", input: {} }] },
    ];
    expect(ended(structuredClone(turns), NATIVE)).toEqual(turns);
  });

  it("leaves every other end alone", () => {
    const turns = [user("a"), assistant("b"), user("c"), system("d")];
    expect(ended(structuredClone(turns), NATIVE)).toEqual(turns);
    expect(ended([])).toEqual([]);
  });
});

/** Any turns, texts told apart by a number; some blank, with calls and their results next to each other. */
const anyTurns = fc
  .array(
    fc.record({
      role: fc.constantFrom<Turn["role"] | "calls">("system", "user", "assistant", "calls"),
      texts: fc.array(fc.boolean(), { maxLength: 3 }),
    }),
    { maxLength: 24 },
  )
  .map((written) => {
    let count = 0;
    const texts = (spoken: readonly boolean[]) => spoken.map((said) => text(said ? `t${count++}` : " "));
    return written.flatMap(({ role, texts: spoken }): Turn[] => {
      if (role !== "calls") return [{ role, content: texts(spoken) }];
      const id = `c${count++}`;
      return [
        { role: "assistant", content: [...texts(spoken), call(id)] },
        ...(count % 3 === 0 ? [system(`t${count++}`)] : []),
        { role: "user", content: [result(id)] },
      ];
    });
  });

const textsOf = (turns: readonly Turn[], roles: readonly Turn["role"][]): unknown[] =>
  turns.flatMap(({ role, content }) =>
    roles.includes(role) ? content.filter((b) => b.type === "text" && b.text !== " ").map((b) => b.text) : [],
  );
const isSubsequence = (part: readonly unknown[], whole: readonly unknown[]): boolean => {
  let at = 0;
  for (const each of whole) if (each === part[at]) at++;
  return at === part.length;
};

describe("placeSystem, mergeTurns and endTurns together", () => {
  it("keep every invariant of the list of messages, for any turns", () => {
    fc.assert(
      fc.property(anyTurns, fc.boolean(), fc.boolean(), (turns, systemTurns, prefill) => {
        const before = structuredClone(turns);
        const draft = draftOf({ turns });
        const model = modelThat({ systemTurns, prefill });
        const failure = placeSystem(draft, model);
        const all = textsOf(before, ["system", "user", "assistant"]);
        const calls = before.flatMap(({ content }) => content.filter(({ type }) => type !== "text"));
        if (failure) {
          expect([...all, ...calls]).toEqual([]);
          return;
        }
        mergeTurns(draft);
        const once = structuredClone(draft.turns);
        mergeTurns(draft);
        expect(draft.turns).toEqual(once);
        endTurns(draft, model);
        const after = draft.turns.filter(({ content }) => content[0]?.text !== GO_ON);

        // Nothing is lost, nothing comes twice, and what one role says keeps its order.
        expect(textsOf(after, ["system", "user", "assistant"]).sort()).toEqual(all.sort());
        expect(after.flatMap(({ content }) => content.filter(({ type }) => type !== "text"))).toEqual(calls);
        for (const role of ["user", "assistant"] as const) {
          expect(isSubsequence(textsOf(before, [role]), textsOf(after, [role]))).toBe(true);
        }
        const systemTexts = textsOf(before, ["system"]);
        expect(systemTexts.filter((text) => textsOf(after, ["system"]).includes(text))).toEqual(
          textsOf(after, ["system"]),
        );

        // Nothing is empty, nobody speaks twice in a row.
        draft.turns.forEach((turn, i) => {
          expect(turn.content.length).toBeGreaterThan(0);
          for (const { type, text } of turn.content) if (type === "text") expect(String(text).trim()).not.toBe("");
          expect(turn.role).not.toBe(draft.turns[i - 1]?.role);
        });

        // System turns stand only where Claude takes them.
        const messages = draft.turns[0]?.role === "system" ? draft.turns.slice(1) : draft.turns;
        expect(messages.length).toBeGreaterThan(0);
        messages.forEach((turn, i) => {
          if (turn.role === "system") {
            expect(systemTurns).toBe(true);
            expect(messages[i - 1]?.role).toBe("user");
            expect(messages[i + 1]?.role ?? "assistant").toBe("assistant");
          }
          // Results come right behind their calls.
          if (turn.content.some(({ type }) => type === "tool_use")) {
            expect(messages[i + 1]?.content.some(({ type }) => type === "tool_result")).toBe(true);
          }
        });
        if (!prefill) expect(messages.at(-1)?.role).not.toBe("assistant");
      }),
      { numRuns: 500 },
    );
  });
});
