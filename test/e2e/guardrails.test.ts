/** Guardrails on the real bundle: what a Claude hears, and what its callers read, in calls and over turns. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { framesOf, MODEL, talk } from "../support/conversations.ts";
import { ADMIN_TOKEN, type Gateway, type Key, startGateway, withKey } from "../support/gateway.ts";
import { textIn } from "../support/socket.ts";
import { startTellingClaude, type TellingClaude } from "../support/telling-claude.ts";

const EMAIL = "ada@example.com";
const OTHER = "bob@example.org";
const SECRET = "sk-ant-api03-AbCdEf0123456789AbCdEf0123456789AbCdEf0123456789";
/** What Claude asks for: names as it has been told them. */
const CALL = { type: "tool_use", id: "toolu_mail", name: "mail", input: { to: ['"[EMAIL_2]"'] } };
const CALLS_FIRST = { ...CALL, input: { to: ['"[EMAIL_1]"'] } };

let claude: TellingClaude;
let gateway: Gateway;
let stateDir: string;

beforeAll(async () => {
  stateDir = mkdtempSync(join(tmpdir(), "sluice-guardrails-"));
  claude = await startTellingClaude();
  gateway = await startGateway(claude.url, { bindings: { MAX_ATTEMPTS: "1", LEDGER_DEADLINE_MS: "5000" }, stateDir });
});
afterAll(async () => {
  await gateway?.stop();
  await claude?.stop();
  rmSync(stateDir, { recursive: true, force: true });
});

const post = (key: Key, path: string, body: object, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(`${gateway.url}${path}`, {
    method: "POST",
    headers: withKey(key, { "content-type": "application/json", ...headers }),
    body: JSON.stringify(body),
  });

/** Runs something, and gives everything that upstream was sent meanwhile. */
async function heard(act: () => Promise<unknown>): Promise<string> {
  const { received } = claude.upstream;
  const before = received.length;
  await act();
  return received
    .slice(before)
    .map(({ headers, body }) => JSON.stringify(headers) + body.toString())
    .join("\n");
}

it("a stream is masked on its way out, and has its values on its way back", async () => {
  const key = await gateway.makeKey({ guardrails: { redact: ["EMAIL"], unmask: true } });
  claude.plan = () => ({ say: ["To [EM", "AIL_1] and ", "[EMAIL_2", "]."] });
  const before = claude.told.length;
  const response = await fetch(`${gateway.url}/v1/messages`, {
    method: "POST",
    headers: withKey(key),
    body: JSON.stringify({
      ...{ model: MODEL, max_tokens: 50, stream: true },
      messages: [{ role: "user", content: `${EMAIL} or ${OTHER}?` }],
    }),
  });
  const text = await response.text();
  expect(response.status).toBe(200);
  const words = [...text.matchAll(/"text":"([^"]*)"/g)].map(([, word]) => word).join("");
  expect(words).toBe(`To ${EMAIL} and ${OTHER}.`);
  expect(text).toContain("message_stop");
  expect(claude.told[before]?.asked).toBe("[EMAIL_1] or [EMAIL_2]?");
});

it("a conversation keeps its placeholders over turns, and shows its people nothing of them", async () => {
  const key = await gateway.makeKey({ guardrails: { redact: ["EMAIL"], unmask: true } });
  const who = talk(gateway.url, key);
  const { id } = await who.create({ model: MODEL });
  const before = claude.told.length;
  claude.plan = () => ({ say: ["I wrote to [EMAIL", "_1]."] });
  expect((await who.send(id, `Write to ${EMAIL}.`)).status).toBeLessThan(300);
  claude.plan = () => ({ say: ["And [EMAIL_2], after [EMAIL_1]."] });
  expect((await who.send(id, `Now ${OTHER}.`)).status).toBeLessThan(300);

  const heard = claude.told.slice(before).map(({ body }) => JSON.stringify(body.messages));
  expect(heard).toHaveLength(2);
  expect(heard[0]).toContain("Write to [EMAIL_1].");
  expect(heard[1]).toContain("Write to [EMAIL_1].");
  expect(heard[1]).toContain("I wrote to [EMAIL_1].");
  expect(heard[1]).toContain("Now [EMAIL_2].");
  expect(heard.join("")).not.toMatch(/ada@|bob@/);

  const shown = JSON.stringify([(await who.messages(id)).data, await who.log(id)]);
  for (const text of [`Write to ${EMAIL}.`, `I wrote to ${EMAIL}.`, `And ${OTHER}, after ${EMAIL}.`]) {
    expect(JSON.stringify((await who.messages(id)).data)).toContain(text);
  }
  expect(shown).not.toContain("[EMAIL_");
});

it("a message that a key may not send leaves no turn that went out", async () => {
  const key = await gateway.makeKey({ guardrails: { block: ["EMAIL"] } });
  const who = talk(gateway.url, key);
  const { id } = await who.create({ model: MODEL });
  const before = claude.told.length;
  const refused = await who.send(id, `Write to ${EMAIL}.`);
  expect(refused.status).toBe(400);
  expect(refused.text).toContain("EMAIL");
  expect(refused.text).not.toContain(EMAIL);
  expect(claude.told.length).toBe(before);
});

it("a conversation's viewers all see the values, over sockets and after a break; its counts and summaries are masked", async () => {
  const key = await gateway.makeKey({ guardrails: { redact: ["EMAIL"], unmask: true } });
  const who = talk(gateway.url, key);
  const context = { strategy: "summarize", max_input_tokens: 300, keep_turns: 1 } as const;
  const { id } = await who.create({ model: MODEL, context, system: `You write to ${OTHER}.` });
  const viewer = await who.socket(id);
  const sent = await heard(async () => {
    claude.plan = () => ({ say: ["Dear [EMA", "IL_2]", " and [EMAIL_1", "]."], blocks: [CALL] });
    const live = await who.stream(id, `Write to ${EMAIL}.`);
    await live.ended;
    expect(textIn(framesOf(live.events))).toBe(`Dear ${EMAIL} and ${OTHER}.`);
    claude.plan = () => ({ say: ["Yes, [EMAIL_2]."] });
    const result = { type: "tool_result", tool_use_id: CALL.id, content: `sent to ${EMAIL}` };
    expect((await who.send(id, { content: [result] })).status).toBe(200);
    for (let turn = 0; turn < 3; turn++) {
      expect((await who.send(id, `${EMAIL}: ${"word ".repeat(150)}`)).status).toBe(200);
    }
  });
  expect(sent).not.toMatch(/ada@|bob@/);
  // Numbers stay, from turn to turn and into the summary.
  expect(sent).toContain("You write to [EMAIL_1].");
  expect(sent).not.toContain("[EMAIL_3]");
  expect(claude.upstream.received.some(({ target }) => target.includes("count_tokens"))).toBe(true);

  const log = await who.log(id);
  expect(JSON.stringify(log)).toContain("context.cut");
  expect(JSON.stringify(log)).not.toContain("[EMAIL_");
  const input = log.map(({ data }) => (data.delta as { partial_json?: string })?.partial_json ?? "").join("");
  expect(JSON.parse(input)).toEqual({ to: [`"${EMAIL}"`] });
  // Whoever comes back has the same bytes again, from any number on.
  const last = log.at(-1)?.id ?? 0;
  for (const after of [0, 1, Math.floor(last / 2), last - 1]) {
    const again = await who.events(id, "", { "last-event-id": String(after) });
    await again.ended;
    expect(again.events).toEqual(log.slice(after));
  }
  await viewer.frame((frame) => "seq" in frame && frame.seq >= last);
  expect(textIn(viewer.frames)).toContain(`Dear ${EMAIL} and ${OTHER}.`);
  expect(JSON.stringify(viewer.frames)).not.toContain("[EMAIL_");
  await viewer.close();
});

it("both of OpenAI's ways, templates and counts are guarded, whole and streamed", async () => {
  const key = await gateway.makeKey({ guardrails: { redact: ["EMAIL"], unmask: true, output: { redact: ["IBAN"] } } });
  const template = {
    ...{ model: MODEL, max_tokens: 50, system: "You help {{who}}.", labels: ["production"] },
    variables: { type: "object", properties: { who: { type: "string" } }, required: ["who"] },
  };
  expect((await gateway.admin("templates/guarded", { json: template })).status).toBe(201);
  const messages = [{ role: "user", content: `I am ${EMAIL}` }];
  const input = [{ role: "user", content: `I am ${EMAIL}` }];
  const calls: readonly (readonly [string, object])[] = [
    ["/v1/messages", { model: MODEL, max_tokens: 50, messages }],
    ["/v1/chat/completions", { model: MODEL, messages }],
    ["/v1/responses", { model: MODEL, input }],
    ["/v1/templates/guarded/messages", { variables: { who: EMAIL }, messages }],
  ];
  claude.plan = () => ({ say: ["Hi [EMAIL", "_1], pay DE8937040044", "0532013000."], blocks: [CALLS_FIRST] });
  for (const [path, body] of calls) {
    for (const stream of [false, true]) {
      let text = "";
      const sent = await heard(async () => {
        text = await (await post(key, path, { ...body, stream })).text();
      });
      expect([path, stream, sent.includes("ada@"), sent.includes("[EMAIL_1]")]).toEqual([path, stream, false, true]);
      expect([path, stream, text.includes("0532013000"), text.includes("[EMAIL_")]).toEqual([
        path,
        stream,
        false,
        false,
      ]);
      expect([path, stream, text.includes("ada@example.com"), text.includes("[IBAN_1]")]).toEqual([
        path,
        stream,
        true,
        true,
      ]);
    }
  }
  const counted = await heard(async () => {
    const response = await post(key, "/v1/messages/count_tokens", { model: MODEL, messages });
    expect(await response.json()).toHaveProperty("input_tokens");
  });
  expect(counted).toContain("I am [EMAIL_1]");
});

it("a turn whose answer is withheld fails once, and nobody pays for it twice", async () => {
  const key = await gateway.makeKey({ guardrails: { output: { secrets: "block" } } });
  const who = talk(gateway.url, key);
  for (const say of [
    [`${SECRET} `, "and more", " and more"],
    ["It begins well. ".repeat(20), `${SECRET} `, "and on"],
  ]) {
    const { id } = await who.create({ model: MODEL });
    claude.plan = () => ({ say });
    const before = claude.told.length;
    const reply = await who.send(id, "Tell me.");
    expect(claude.told.length).toBe(before + 1);
    expect(reply.text).toContain("withheld");
    expect(reply.text).not.toContain(SECRET);
    expect(JSON.stringify(await who.log(id))).not.toContain(SECRET);
  }
  const rows = await gateway.rows(key, 2, "/v1/conversations/:id/turn");
  for (const row of rows)
    expect(row).toMatchObject({ outcome: "error", denial: "guardrails", findings: '{"output.SECRET":1}' });
});

it("a batch goes out masked, and its results come back redacted line by line", async () => {
  const key = await gateway.makeKey({
    scopes: ["batches"],
    guardrails: { redact: ["EMAIL"], unmask: true, output: { redact: ["EMAIL"], secrets: "block" } },
  });
  const message = (text: string) => ({
    ...{ id: "msg_b", type: "message", role: "assistant", model: MODEL, stop_reason: "end_turn" },
    ...{ content: [{ type: "text", text }], usage: { input_tokens: 3, output_tokens: 4 } },
  });
  const lines = [
    { custom_id: "plain", result: { type: "succeeded", message: message("[EMAIL_1] is fine") } },
    { custom_id: "ada@b.org", result: { type: "succeeded", message: message(`${OTHER} and ${EMAIL} and ${OTHER}`) } },
    { custom_id: "secret", result: { type: "succeeded", message: message(`it is ${SECRET}`) } },
    { custom_id: "lost", result: { type: "expired" } },
  ].map((line) => JSON.stringify(line));
  const usual = claude.upstream.script;
  claude.upstream.script = (response, { target }) => {
    if (!target.includes("/results"))
      return void response.end('{"id":"msgbatch_g","type":"message_batch","results_url":null}');
    for (const piece of lines.join("\n").match(/[\s\S]{1,37}/g) ?? []) response.write(piece);
    response.end();
  };
  try {
    const params = { model: MODEL, max_tokens: 9, messages: [{ role: "user", content: EMAIL }] };
    const requests = [
      { custom_id: "plain", params },
      { custom_id: "ada@b.org", params: { ...params, system: `${OTHER} ${EMAIL}` } },
    ];
    let made: Response | undefined;
    const sent = await heard(async () => {
      made = await post(key, "/v1/messages/batches", { requests });
    });
    expect(made?.status).toBe(200);
    expect(JSON.parse(sent.slice(sent.indexOf('{"requests"')))).toEqual(
      JSON.parse(JSON.stringify({ requests }).replaceAll(EMAIL, "[EMAIL_1]").replaceAll(OTHER, "[EMAIL_2]")),
    );
    const results = await fetch(`${gateway.url}/v1/messages/batches/msgbatch_g/results`, { headers: withKey(key) });
    const got = (await results.text()).split("\n");
    expect([got[0], got[3]]).toEqual([lines[0], lines[3]]);
    expect(got[1]).toBe(lines[1]?.replaceAll(OTHER, "[EMAIL_1]").replace(EMAIL, "[EMAIL_2]"));
    expect(JSON.parse(got[2] ?? "")).toMatchObject({ custom_id: "secret", result: { type: "errored" } });
    expect(got.join("")).not.toContain(SECRET);
    const [row] = await gateway.rows(key, 1, "/v1/messages/batches/:id/results");
    expect(row).toMatchObject({ outcome: "complete", findings: '{"output.EMAIL":3,"output.SECRET":1}' });
  } finally {
    claude.upstream.script = usual;
  }
});

it("L-05: no text of a finding is in a log, an error, the audit, the metrics, the change log, or kept anywhere", async () => {
  const canary = "canary.7f3a@example.com";
  const asked = {
    model: MODEL,
    max_tokens: 50,
    messages: [{ role: "user", content: `it is ${canary} and ${SECRET}` }],
  };
  const masks = { redact: ["EMAIL"], secrets: "mask", unmask: true, output: { redact: ["EMAIL"] } } as const;
  const keys = await Promise.all([
    gateway.makeKey({ guardrails: masks, cache: { ttl_seconds: 60 } }),
    gateway.makeKey({ guardrails: { block: ["EMAIL"] } }),
    gateway.makeKey({ guardrails: { redact: ["EMAIL"], secrets: "mask", output: { secrets: "block" } } }),
  ]);
  claude.plan = () => ({ say: ["[EMAIL_1] or [SECRET_1] or ", SECRET] });
  const said: string[] = [];
  for (const key of keys) {
    for (const stream of [false, true]) {
      const once = { "idempotency-key": `once-${stream}` };
      for (const headers of [{}, once, once]) {
        const response = await post(key, "/v1/messages", { ...asked, stream }, headers);
        const text = await response.text();
        if (key !== keys[0]) said.push(text);
        else expect(text).toContain(canary);
      }
    }
  }
  const changed = await gateway.admin(`keys/${keys[0]?.id}`, {
    method: "PATCH",
    body: JSON.stringify({ name: "again" }),
  });
  expect(changed.status).toBe(200);
  await Promise.all(keys.map((key) => gateway.rows(key, 6)));
  for (const path of ["audit.ndjson", "audit.csv", "changes", "usage?group_by=key"]) {
    said.push(await (await gateway.admin(path)).text());
  }
  said.push(
    await (await fetch(`${gateway.url}/metrics`, { headers: { authorization: `Bearer ${ADMIN_TOKEN}` } })).text(),
  );
  said.push(gateway.log());
  expect(said.join("")).toContain("output.SECRET");
  const kept = readdirSync(stateDir, { recursive: true, encoding: "utf8" })
    .map((name) => join(stateDir, name))
    .filter((name) => statSync(name).isFile())
    .map((name) => readFileSync(name, "latin1"));
  // The answers are there, with their placeholders.
  expect(kept.join("")).toContain("[EMAIL_1] or [SECRET_1]");
  for (const text of [...said, ...kept]) expect(text.includes(canary) || text.includes("canary.7f3a")).toBe(false);
  for (const text of said) expect(text.includes(SECRET)).toBe(false);
});
