import { describe, expect, it } from "vitest";
import { readCredential } from "../../src/identity/credential.ts";
import type { KeyPolicy, Rules } from "../../src/identity/key-record.ts";
import { keyView, type Standing } from "../../src/identity/key-view.ts";
import type { Speaker } from "../../src/identity/rights.ts";

const NOW = Date.UTC(2026, 10, 21, 9, 30);
const MIDNIGHT = Date.UTC(2026, 10, 22);
const HASH = "c0ffee".repeat(10);

const policy: KeyPolicy = {
  id: "key_x",
  version: 7,
  workspace: "ws_team",
  name: "ci",
  scopes: ["messages"],
  models: ["claude-haiku-*"],
  limits: { requests_per_minute: 50, requests_burst: 60, output_tokens_per_minute: 8_000, concurrent_requests: 4 },
  budget: { micro_usd: 5_000_000, period: "day", mode: "strict" },
  on_disconnect: "cancel",
  on_revoke: "finish",
  fail_open: false,
  timeouts: {},
  cache: null,
  aliases: { mine: "opus" },
  guardrails: { redact: ["EMAIL"] },
  expires_at: null,
  revoked_at: null,
  secrets: [{ sha256: HASH, hint: "sk-sluice-abcdef…wxyz", created_at: 0, expires_at: null }],
};
const standing: Standing = {
  requests: { limit: 60, remaining: 49.9, fullAt: NOW + 12_500 },
  inputTokens: null,
  outputTokens: { limit: 8_000, remaining: -300, fullAt: NOW - 1 },
  budget: {
    limitMicroUsd: 5_000_000,
    spentMicroUsd: 3_400_000,
    reservedMicroUsd: 1_200_000,
    period: "day",
    resetsAt: MIDNIGHT,
  },
  running: 1,
};
const unlimited: Standing = { requests: null, inputTokens: null, outputTokens: null, budget: null, running: 9 };

describe("keyView", () => {
  it("tells limits, what is left, when it refills, and the period's spend", () => {
    expect(keyView(policy, standing, null, null, NOW)).toEqual({
      id: "key_x",
      name: "ci",
      workspace: "ws_team",
      scopes: ["messages"],
      models: ["claude-haiku-*"],
      aliases: { mine: "opus" },
      guardrails: { redact: ["EMAIL"] },
      expires_at: null,
      on_disconnect: "cancel",
      on_revoke: "finish",
      fail_open: false,
      limits: { requests_per_minute: 50, requests_burst: 60, output_tokens_per_minute: 8_000, concurrent_requests: 4 },
      left: {
        requests: { capacity: 60, remaining: 49, full_at: "2026-11-21T09:30:12.500Z" },
        input_tokens: null,
        output_tokens: { capacity: 8_000, remaining: 0, full_at: "2026-11-21T09:30:00.000Z" },
        concurrent_requests: { running: 1, remaining: 3 },
      },
      budget: {
        period: "day",
        mode: "strict",
        limit_micro_usd: 5_000_000,
        spent_micro_usd: 3_400_000,
        reserved_micro_usd: 1_200_000,
        remaining_micro_usd: 400_000,
        resets_at: "2026-11-22T00:00:00.000Z",
      },
      shared: null,
      token: null,
    });
  });

  it("shows the workspace in the same way, and never less than nothing", () => {
    const rules: Rules = {
      id: "ws_team",
      version: 3,
      limits: { concurrent_requests: 8 },
      budget: { micro_usd: 1, period: "total", mode: "soft" },
    };
    const budget = {
      limitMicroUsd: 1,
      spentMicroUsd: 7,
      reservedMicroUsd: 0,
      period: "total",
      resetsAt: null,
    } as const;
    const { shared } = keyView(policy, standing, { rules, standing: { ...unlimited, budget } }, null, NOW);
    expect(shared).toEqual({
      limits: { concurrent_requests: 8 },
      left: {
        requests: null,
        input_tokens: null,
        output_tokens: null,
        concurrent_requests: { running: 9, remaining: 0 },
      },
      budget: {
        period: "total",
        mode: "soft",
        limit_micro_usd: 1,
        spent_micro_usd: 7,
        reserved_micro_usd: 0,
        remaining_micro_usd: 0,
        resets_at: null,
      },
    });
  });

  it("has nothing to say of limits that do not exist", () => {
    const free = { ...policy, limits: { max_request_bytes: 1_000 }, budget: null };
    expect(keyView(free, unlimited, null, null, NOW)).toMatchObject({
      limits: { max_request_bytes: 1_000 },
      left: { requests: null, input_tokens: null, output_tokens: null, concurrent_requests: null },
      budget: null,
    });
  });

  it("shows what a token leaves of the key, until when, and for whom it speaks", () => {
    const expiresAt = Date.parse("2026-11-21T10:00:00Z");
    const rights = { scopes: [], models: null, conversation: "conv_1", expiresAt, speaker: null };
    const shown = (speaker: Speaker | null) => keyView(policy, standing, null, { ...rights, speaker }, NOW).token;
    const own = { conversation: "conv_1", expires_at: "2026-11-21T10:00:00.000Z", subject: null };
    expect(shown(null)).toEqual(own);
    expect(shown({ issuer: "https://id.example", subject: "ada", mark: "0.a" })).toMatchObject({
      subject: "https://id.example ada",
    });
    expect(shown({ issuer: "https://id.example", subject: null, mark: "0.a" })).toMatchObject({
      subject: "https://id.example",
    });
  });

  it("shows no secret, no hash and nothing that a later policy may hold", () => {
    const grown = { ...policy, canary: "CANARY", limits: { ...policy.limits, canary: "CANARY" } };
    const limits = { concurrent_requests: 8, canary: "CANARY" };
    const rules = { id: "ws_team", version: 1, limits, budget: null, canary: "CANARY" };
    const text = JSON.stringify(keyView(grown, standing, { rules, standing: unlimited }, null, NOW));
    for (const secret of [HASH, "sk-sluice", "CANARY"]) expect(text).not.toContain(secret);
  });
});

describe("readCredential", () => {
  const KEY = "sk-sluice-0123-abc";
  const middle = btoa(JSON.stringify({ aud: "claude-gateway" })).replace(/=+$/, "");
  const wrapped = `sluice.${middle}.${KEY}`;

  it("takes a key behind the parts that make Claude Code read budget headers for that key", () => {
    expect(readCredential(new Headers({ authorization: `Bearer ${wrapped}` }))).toBe(KEY);
    expect(readCredential(new Headers({ authorization: `Bearer ${wrapped}`, "x-api-key": KEY }))).toBe(KEY);
  });

  it("takes nothing but these parts away, and only once", () => {
    const other = `sluice.${btoa('{"aud":"other"}')}.${KEY}`;
    expect(readCredential(new Headers({ authorization: `Bearer ${other}` }))).toBe(other);
    expect(readCredential(new Headers({ authorization: `Bearer sluice.${middle}.${wrapped}` }))).toBe(wrapped);
    expect(readCredential(new Headers({ authorization: `Bearer sluice.${middle}.` }))).toBeNull();
  });
});
