import { expect, it, vi } from "vitest";
import { type AppContext, open } from "../src/context.ts";
import { later } from "../src/later.ts";

const c = {} as AppContext;
const loads = () => Promise.resolve({ here: open(() => new Response("here")), limit: 1 });

it("says what it needs before anything is loaded, and loads once", async () => {
  const load = vi.fn(loads);
  const handle = later(load)("messages", "here");
  expect(handle.needs).toBe("messages");
  expect(load).not.toHaveBeenCalled();
  for (let call = 0; call < 3; call++) expect(await (await handle(c)).text()).toBe("here");
  expect(load).toHaveBeenCalledTimes(1);
});

it("fails one call with a load that fails, and the next one loads anew", async () => {
  const load = vi.fn(loads).mockRejectedValueOnce(new Error("no such module"));
  const handle = later(load)("nothing", "here");
  await expect(handle(c)).rejects.toThrow("no such module");
  expect(await (await handle(c)).text()).toBe("here");
});

it("serves calls that come while it loads, each from a load of its own", async () => {
  const handle = later(loads)("nothing", "here");
  const answers = await Promise.all([handle(c), handle(c), handle(c)]);
  expect(await Promise.all(answers.map((answer) => answer.text()))).toEqual(["here", "here", "here"]);
});
