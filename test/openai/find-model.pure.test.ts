/** When upstream is asked for its list on a call's way to its model: as seldom as can be. */
import { beforeEach, expect, it, vi } from "vitest";
import type { AppContext } from "../../src/context.ts";
import type { Caller } from "../../src/hotpath/authenticate.ts";
import { KEY_DEFAULTS } from "../../src/identity/key-record.ts";
import { describeFailure } from "../../src/wire/errors.ts";

let asked: number;
let find: (name: string, models?: readonly string[]) => Promise<string | number>;

vi.mock("../../src/hotpath/upstreams.ts", () => ({
  poolFor: async () => {
    asked++;
    return { ok: false, error: { kind: "upstream_unreachable" } };
  },
}));

beforeEach(async () => {
  vi.resetModules();
  asked = 0;
  const { findModel } = await import("../../src/openai/catalogue.ts");
  const c = { env: {}, var: { call: { settings: { modelAliases: { mine: "opus(low)" } } } } } as unknown as AppContext;
  find = async (name, models) => {
    const policy = { ...KEY_DEFAULTS, models: models ?? null };
    const found = await findModel(c, { policy, access: { background: () => {} } } as unknown as Caller, name);
    return found.ok ? found.value.id : describeFailure(found.error).status;
  };
});

it.each([
  ["claude-opus-5-5", "claude-opus-5-5"],
  ["opus(high)", "claude-opus-5-5"],
  ["mine", "claude-opus-5-5"],
  ["claude-haiku-4-5-20251001", "claude-haiku-4-5-20251001"],
  ["gpt-4o", 404],
  ["Opus", 404],
])("nobody is asked about %s", async (name, expected) => {
  expect(await find(name)).toBe(expected);
  expect(asked).toBe(0);
});

it("upstream is asked about a claude that nothing here knows, once, and it goes on without an answer", async () => {
  expect(await find("claude-new-7(high)")).toBe("claude-new-7");
  expect(await find("claude-new-8")).toBe("claude-new-8");
  expect(asked).toBe(1);
});

it("K-11 it is not asked about what the key may not use anyway", async () => {
  expect(await find("claude-new-7", ["claude-opus-*"])).toBe(403);
  expect(asked).toBe(0);
});
