/** From a publication to a body, in the runtime that serves it, with what renders loaded late. */
import { env } from "cloudflare:workers";
import { expect, it } from "vitest";
import { readCall } from "../../src/templates/call.ts";
import { findVersion } from "../../src/templates/find.ts";
import { readPublication } from "../../src/templates/input.ts";
import { Shelf, type Shelves } from "../../src/templates/shelf.ts";
import { publish } from "../../src/templates/store.ts";

it("a template is published, found and rendered", async () => {
  const shelf = new Shelf();
  const shelves: Shelves = { kv: env.TEMPLATES, db: env.DB, now: Date.now, background: () => {} };
  const { parseVersion } = await import("../../src/templates/version.ts");
  const given = readPublication({
    model: "claude-haiku-4-5",
    max_tokens: 64,
    system: "You help {{team}}.",
    variables: { type: "object", properties: { team: { type: "string", pattern: "^\\w+$" } }, required: ["team"] },
    labels: ["production"],
    note: "first",
  });
  if (!given.ok) throw new Error(given.error.kind);
  const content = parseVersion(given.value.content);
  if (!content.ok) throw new Error(content.error.kind);
  const stored = await publish(
    env.DB,
    { ...given.value, name: "help", content: content.value, by: "admin" },
    Date.now(),
  );
  if (!stored.ok) throw new Error(stored.error.kind);
  const record = stored.value;
  expect(
    await shelf.bring(shelves, record, { template: "help", version: record.newest, content: content.value }),
  ).toEqual({
    ok: true,
  });

  const call = readCall({ variables: { team: "Ops" }, stream: true, messages: [{ role: "user", content: "Hi" }] });
  if (!call.ok) throw new Error(call.error.kind);
  const found = await findVersion(new Shelf(), shelves, "help", call.value.wish, { workspace: "w", who: "key_1" });
  if (!found.ok) throw new Error(found.error.kind);
  const { render } = await import("../../src/templates/render.ts");
  const rendered = render(found.value, call.value.variables, call.value.fields);
  if (!rendered.ok) throw new Error(rendered.error.kind);
  expect(new TextDecoder().decode(rendered.value.body)).toBe(
    '{"model":"claude-haiku-4-5","max_tokens":64,"stream":true,"system":"You help Ops.","messages":[{"role":"user","content":"Hi"}]}',
  );
  expect(rendered.value).toMatchObject({ template: "help", version: 1 });
});
