/** The pages on conversations say what the code does: states, frames, close codes, limits, routes. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { CLOSE, HEARTBEAT_MS } from "../../clients/typescript/protocol.ts";
import { MAX_ASSEMBLED_BYTES } from "../../src/conversations/context/window.ts";
import { DEFAULTS, MAX_DEPTH } from "../../src/conversations/input.ts";
import { MAX_BODY_BYTES, MAX_QUEUED, MAX_STORED_BYTES, MAX_TURNS } from "../../src/conversations/limits.ts";
import { KEPT_BYTES, KEPT_TURNS } from "../../src/conversations/log.ts";
import { MAX_CONVERSATIONS } from "../../src/conversations/registry.ts";
import { MAX_RESTARTS } from "../../src/conversations/runner.ts";
import { conversationState, TURN_TABLE } from "../../src/conversations/states.ts";
import { MAX_BAD_FRAMES, MAX_FRAMES, MAX_RESUMES, MAX_UNHEARD_BYTES } from "../../src/conversations/viewer.ts";
import { MAX_VIEWERS, SILENCE_MS } from "../../src/conversations/viewers.ts";

const file = (path: string): string => readFileSync(join(import.meta.dirname, "../..", path), "utf8");
const page = file("docs/conversations.md");
const api = file("docs/api.md").split("\n");

/** `from --> to`, as diagrams write it. */
const edges = (lines: readonly string[]): string[] => [...new Set(lines)].sort();
const drawn = [...page.matchAll(/```mermaid\n([\s\S]*?)```/g)].map(([, diagram = ""]) =>
  edges([...diagram.matchAll(/^ +(\S+ --> \w+)/gm)].map(([, edge = ""]) => edge)),
);
const mb = (bytes: number): string => `${bytes / 1024 / 1024} MB`;
const count = (n: number): string => n.toLocaleString("en-US");

/** The row of the table of limits that begins so. */
const limit = (what: string): string => page.split("\n").find((line) => line.startsWith(`| ${what}`)) ?? "";

describe("docs/conversations.md", () => {
  it("draws the states of a turn, and what its conversation is in meanwhile", () => {
    const turn = TURN_TABLE.map(([from, , to]) => `${from === "none" ? "[*]" : from} --> ${to}`);
    const conversation = TURN_TABLE.map(([from, , to]) => [conversationState(from), conversationState(to)])
      .filter(([from, to]) => !(from === "idle" && to === "idle"))
      .map(([from, to]) => `${from} --> ${to}`);
    expect(drawn).toEqual([edges(["[*] --> idle", ...conversation]), edges(turn)]);
  });

  it("has the limits as they are", () => {
    const rows: [string, ...string[]][] = [
      ["conversations of a workspace", count(MAX_CONVERSATIONS)],
      ["turns of a conversation", count(MAX_TURNS)],
      ["stored in a conversation", mb(MAX_STORED_BYTES)],
      ["messages that wait", `${MAX_QUEUED}`],
      ["viewers", `${MAX_VIEWERS}`],
      ["a body, a frame", mb(MAX_BODY_BYTES)],
      ["nesting", `${MAX_DEPTH} levels`],
      ["what is sent upstream", mb(MAX_ASSEMBLED_BYTES)],
      ["frames of one socket", `${MAX_FRAMES} in 10 s`, `${MAX_RESUMES} in a minute`],
      ["bad frames", `${MAX_BAD_FRAMES}`],
      ["ended turns", `${KEPT_TURNS}, within ${mb(KEPT_BYTES)}`],
      ["restarts", `${MAX_RESTARTS}; 10`],
    ];
    const missing = rows.filter(([what, ...figures]) => figures.some((figure) => !limit(what).includes(` ${figure}`)));
    expect(missing).toEqual([]);
    expect(page).toContain(`every ${HEARTBEAT_MS / 1000} s`);
    expect(page).toContain(`two heartbeats, and ${(SILENCE_MS - 2 * HEARTBEAT_MS) / 1000} s more`);
    expect(page).toContain(`up to ${mb(MAX_UNHEARD_BYTES)} since`);
  });

  it("explains every close code and every frame", () => {
    for (const code of Object.values(CLOSE)) expect(limit(`${code} |`)).not.toBe("");
    const types = [
      ...file("clients/typescript/protocol.ts").matchAll(
        /readonly type: "([\w.]+)"; readonly|\n {6}readonly type: "([\w.]+)"/g,
      ),
    ].map(([, a, b]) => a ?? b ?? "");
    expect(types.length).toBeGreaterThan(10);
    expect(types.filter((type) => !page.includes(`| \`{"type":"${type}"`))).toEqual([]);
  });
});

describe("docs/api.md", () => {
  it("has the defaults of a conversation", () => {
    const { maxTokens, ttlSeconds, onBusy, context } = DEFAULTS;
    const shown = {
      max_tokens: count(maxTokens),
      ttl_seconds: count(ttlSeconds),
      on_busy: onBusy,
      context: context.strategy,
    };
    for (const [field, figure] of Object.entries(shown)) {
      const row = api.find((line) => line.startsWith(`| \`${field}\` | `) && line.split(" | ").length === 3);
      expect(row?.split(" | ")[2]).toContain(figure);
    }
  });

  it("has every route", () => {
    const routes = [...file("src/app.ts").matchAll(/^ {2}\["(GET|POST|PUT|PATCH|DELETE)", "([^"]+)"/gm)];
    expect(routes.length).toBeGreaterThan(50);
    // The vendor before a model's name is a part of the name.
    const named = routes.map(([, method = "", path = ""]) => [method, path.replace("/:vendor", "")] as const);
    const absent = named.filter(([method, path]) => !api.some((line) => line.includes(path) && line.includes(method)));
    expect(absent).toEqual([]);
  });
});
