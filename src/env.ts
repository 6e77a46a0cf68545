/** Bindings are typed by `wrangler types`; this file reads the settings among them, once per isolate. */

import { ALGORITHMS, type PublicAlgorithm } from "./identity/jwt/keys.ts";
import type { Aliases } from "./identity/key-record.ts";
import { readModelAliases } from "./openai/aliases.ts";
import { readOrigins } from "./origins.ts";
import { err, ok, type Result } from "./result.ts";
import { type BaseUrlRules, readHosts } from "./upstream/base-url.ts";
import { type MasterKey, readMasterKeys } from "./upstream/sealing.ts";

/** Largest body of Messages and count_tokens (Anthropic's own limit, wire notes §1.1). */
const MAX_REQUEST_BYTES = 32 * 1024 * 1024;
/** Where stored upstreams may be, unless `UPSTREAM_HOSTS` says otherwise. */
const UPSTREAM_HOSTS = "api.anthropic.com";
/**
 * Where foreign issuers' key sets may be, unless `ISSUER_HOSTS` says otherwise: GitHub Actions, Cloudflare Access, Google
 * (whose issuer is accounts.google.com, and whose keys are here) and Microsoft Entra.
 */
const ISSUER_HOSTS =
  "token.actions.githubusercontent.com, *.cloudflareaccess.com, www.googleapis.com, login.microsoftonline.com";
/** Whom tokens of ours name as their maker, unless `TOKEN_ISSUER` says otherwise. Never what a caller calls us. */
const TOKEN_ISSUER = "sluice";

export type Timeouts = {
  /** Until an upstream that has not answered must have shown that it can be reached at all, ms. */
  readonly connectMs: number;
  /** Until the first byte of a streamed answer, ms. */
  readonly firstByteMs: number;
  /** Longest gap between two pieces of a stream, measured on upstream bytes, ms. */
  readonly silenceMs: number;
  /** Whole answer of a call that is not streamed, and longest stretch of a stream in which nothing but pings come, ms. */
  readonly totalMs: number;
  /** Whole answer of a streamed call, ms. */
  readonly streamTotalMs: number;
};

export type Settings = {
  /** Without a trailing slash; may hold a path prefix. */
  readonly upstreamUrl: string;
  readonly upstreamKey: string;
  readonly adminToken: string;
  /** The first one signs; all of them verify. */
  readonly keyTagSecrets: readonly string[];
  /** The first one seals; all of them open. None: no upstream's key can be stored. */
  readonly masterKeys: readonly MasterKey[];
  /** Which addresses stored upstreams may have. */
  readonly baseUrls: BaseUrlRules;
  /** Which addresses foreign issuers' key sets may have. */
  readonly keySetUrls: BaseUrlRules;
  readonly timeouts: Timeouts;
  /** How often upstreams are asked for one call, the first time included. */
  readonly maxAttempts: number;
  /** How long a call waits for a slot of its key, its workspace or an upstream, ms; 0: it is refused at once. */
  readonly queueWaitMs: number;
  /** How long a call waits for a ledger, ms. */
  readonly ledgerDeadlineMs: number;
  readonly maxRequestBytes: number;
  /** Names for models that every key may use, in the OpenAI dialect. */
  readonly modelAliases: Aliases;
  /** How long a log line waits for others to share a write with, ms; 0: each is written by itself. */
  readonly logJoinMs: number;
  /** Audit rows older than this are deleted; null: they are kept for ever. */
  readonly auditRetentionDays: number | null;
  /** Our name in tokens of ours, and what they are signed with. */
  readonly tokenIssuer: string;
  readonly tokenAlg: PublicAlgorithm;
  /** Whose pages may use conversations from a browser, beside the gateway's own. */
  readonly allowedOrigins: ReadonlySet<string>;
};

type Source = Readonly<Record<string, unknown>>;

/** Parses the settings. The error names what is missing or wrong, in one sentence, and holds no value of a secret. */
export function readSettings(source: Source): Result<Settings, string> {
  const text = (name: string): string => (typeof source[name] === "string" ? source[name] : "");
  for (const name of ["ANTHROPIC_API_KEY", "ADMIN_TOKEN", "KEY_TAG_SECRET"]) {
    if (text(name) === "") return err(`The secret ${name} is not set.`);
  }
  if (text("KEY_TAG_SECRET").length < 16) return err("The secret KEY_TAG_SECRET is shorter than 16 characters.");
  const upstreamUrl = text("UPSTREAM_URL").replace(/\/+$/, "");
  const url = URL.parse(upstreamUrl);
  if (!url || !/^https?:$/.test(url.protocol) || url.username || url.password || /[?#]/.test(upstreamUrl)) {
    return err("UPSTREAM_URL is not an http or https address without credentials and query.");
  }
  const masterKeys = readMasterKeys(text("MASTER_KEY"));
  if (!masterKeys.ok) return masterKeys;
  const hosts = readHosts(text("UPSTREAM_HOSTS") || UPSTREAM_HOSTS);
  if (!hosts.ok) return hosts;
  const issuerHosts = readHosts(text("ISSUER_HOSTS") || ISSUER_HOSTS, "ISSUER_HOSTS");
  if (!issuerHosts.ok) return issuerHosts;
  const allowLocal = text("ALLOW_LOCAL_UPSTREAMS") || "false";
  if (allowLocal !== "true" && allowLocal !== "false") return err("ALLOW_LOCAL_UPSTREAMS is neither true nor false.");
  const numbers = {
    FIRST_BYTE_TIMEOUT_MS: 60_000,
    SILENCE_TIMEOUT_MS: 60_000,
    TOTAL_TIMEOUT_MS: 600_000,
    CONNECT_TIMEOUT_MS: 10_000,
    STREAM_TOTAL_TIMEOUT_MS: 3_600_000,
    LEDGER_DEADLINE_MS: 250,
  };
  for (const name of Object.keys(numbers) as (keyof typeof numbers)[]) {
    if (text(name) === "") continue;
    const value = Number(text(name));
    if (!Number.isInteger(value) || value < 1) return err(`${name} is not a whole number of milliseconds above 0.`);
    numbers[name] = value;
  }
  const logJoinMs = Number(text("LOG_JOIN_MS"));
  if (!Number.isInteger(logJoinMs) || logJoinMs < 0) return err("LOG_JOIN_MS is not a whole number of milliseconds.");
  const counts = { MAX_ATTEMPTS: [3, 1, 10], QUEUE_WAIT_MS: [10_000, 0, 600_000] } as const;
  const counted = { MAX_ATTEMPTS: 0, QUEUE_WAIT_MS: 0 };
  for (const name of ["MAX_ATTEMPTS", "QUEUE_WAIT_MS"] as const) {
    const [usual, least, most] = counts[name];
    const value = text(name) === "" ? usual : Number(text(name));
    if (!Number.isInteger(value) || value < least || value > most) {
      return err(`${name} is not a whole number from ${least} to ${most}.`);
    }
    counted[name] = value;
  }
  const days = text("AUDIT_RETENTION_DAYS");
  if (days !== "" && !/^[1-9]\d{0,4}$/.test(days)) {
    return err(
      "AUDIT_RETENTION_DAYS is not a whole number of days from 1 to 99999. Leave it out to keep audit rows for ever.",
    );
  }
  const modelAliases = readModelAliases(text("MODEL_ALIASES"));
  if (!modelAliases.ok) return modelAliases;
  const origins = readOrigins(text("ALLOWED_ORIGINS"));
  if (!origins.ok) return origins;
  const tokenIssuer = text("TOKEN_ISSUER") || TOKEN_ISSUER;
  if (!/^[\x21-\x7e]{1,200}$/.test(tokenIssuer)) return err("TOKEN_ISSUER is not 1 to 200 printable ASCII characters.");
  const tokenAlg = ALGORITHMS.find((alg) => alg === (text("TOKEN_ALG") || "ES256"));
  if (!tokenAlg) return err(`TOKEN_ALG is none of ${ALGORITHMS.join(", ")}.`);
  const previous = text("KEY_TAG_SECRET_PREVIOUS");
  return ok({
    upstreamUrl,
    upstreamKey: text("ANTHROPIC_API_KEY"),
    adminToken: text("ADMIN_TOKEN"),
    keyTagSecrets: previous === "" ? [text("KEY_TAG_SECRET")] : [text("KEY_TAG_SECRET"), previous],
    masterKeys: masterKeys.value,
    baseUrls: { hosts: hosts.value, allowLocal: allowLocal === "true" },
    keySetUrls: { hosts: issuerHosts.value, allowLocal: allowLocal === "true" },
    timeouts: {
      connectMs: numbers.CONNECT_TIMEOUT_MS,
      firstByteMs: numbers.FIRST_BYTE_TIMEOUT_MS,
      silenceMs: numbers.SILENCE_TIMEOUT_MS,
      totalMs: numbers.TOTAL_TIMEOUT_MS,
      streamTotalMs: numbers.STREAM_TOTAL_TIMEOUT_MS,
    },
    maxAttempts: counted.MAX_ATTEMPTS,
    queueWaitMs: counted.QUEUE_WAIT_MS,
    ledgerDeadlineMs: numbers.LEDGER_DEADLINE_MS,
    maxRequestBytes: MAX_REQUEST_BYTES,
    modelAliases: modelAliases.value,
    logJoinMs,
    auditRetentionDays: days === "" ? null : Number(days),
    tokenIssuer,
    tokenAlg,
    allowedOrigins: origins.value,
  });
}

let cached: { readonly source: object; readonly settings: Result<Settings, string> } | undefined;

/** The settings of this isolate. They cannot change while it lives: a new deployment makes new isolates. */
export function settingsOf(env: Env): Result<Settings, string> {
  if (cached?.source !== env) cached = { source: env, settings: readSettings(env as unknown as Source) };
  return cached.settings;
}
