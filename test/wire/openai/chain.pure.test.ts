/** Conversations that are gone on from: what is kept of a response, and what a draft becomes with it. */
import { describe, expect, it } from "vitest";
import { goOn, type Link, linkText, ownTurns } from "../../../src/wire/openai/chain.ts";
import type { Draft, Turn } from "../../../src/wire/openai/draft.ts";
import {
  assistant,
  call,
  draftOf,
  messageOf,
  result,
  system,
  tellingOf,
  text,
  thought,
  user,
} from "../../support/drafts.ts";

const asking = (turns: Turn[], instructions: string | null = null): Draft => {
  return draftOf({ turns, telling: tellingOf({ echo: { instructions } }) });
};
const linkOf = (own: Draft, ...content: Parameters<typeof messageOf>[0][number][]): Link =>
  JSON.parse(linkText(ownTurns(own), messageOf(content), "org-1", own.telling));

describe("a chain of responses", () => {
  it("goes on where it ended, thinking and signatures included, behind the new instructions", () => {
    const first = linkOf(
      asking([system("Be brief."), system("You are a cook."), user(text("w?"))], "Be brief."),
      thought("t"),
      call("toolu_1"),
    );
    const second = linkOf(asking([user(result("toolu_1"))]), text("4C"));
    const draft = asking([system("Be kind."), user(text("and now?"))], "Be kind.");
    goOn(draft, [first, second], "claude-opus-5");
    expect(draft.turns).toEqual([
      system("Be kind."),
      system("You are a cook."),
      user(text("w?")),
      { ...assistant(thought("t"), call("toolu_1")), organization: "org-1" },
      user(result("toolu_1")),
      assistant(text("4C")),
      user(text("and now?")),
    ]);
  });

  it("inherits no instructions, and takes none that is the client's own turn for them", () => {
    const cook = system("You are a cook.");
    expect(JSON.parse(ownTurns(asking([cook, user(text("w?"))], "Be brief.")))).toEqual([cook, user(text("w?"))]);
    expect(JSON.parse(ownTurns(asking([cook, user(text("w?"))], null)))).toEqual([cook, user(text("w?"))]);
    expect(JSON.parse(ownTurns(asking([cook], "You are a cook.")))).toEqual([]);
  });

  it("keeps what a draft said before any step has changed it", () => {
    const draft = asking([user(text("w?"))]);
    const own = ownTurns(draft);
    draft.turns[0]?.content.push(text("changed"));
    expect(JSON.parse(own)).toEqual([user(text("w?"))]);
  });

  it("calls tools as the client does, as the rest of its history", () => {
    const draft = asking([user(text("w?"))]);
    draft.telling.tools.set("get_weather", { name: "get.weather", freeForm: false });
    expect(linkOf(draft, call("toolu_1"), { ...call("toolu_2"), name: "other" }).answer).toEqual([
      { ...call("toolu_1"), name: "get.weather" },
      { ...call("toolu_2"), name: "other" },
    ]);
  });

  it("gives another model what was said and not what was thought; an answer of nothing is no turn", () => {
    const links = [
      linkOf(asking([user(text("1"))]), thought("t"), text("one")),
      linkOf(asking([user(text("2"))]), thought("u")),
    ];
    const draft = asking([user(text("3"))]);
    goOn(draft, links, "claude-sonnet-5");
    expect(draft.turns).toEqual([user(text("1")), assistant(text("one")), user(text("2")), user(text("3"))]);
  });
});
