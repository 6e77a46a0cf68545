/**
 * One Durable Object per API key, per workspace and per upstream account: the single owner of its rules, its account, and the audit
 * records on their way to D1. Being one serial owner it needs no lock; a message is taken over without an await between
 * reading and writing, so no two interleave, and it is stored before anyone is answered (output gate), so a restart
 * lends nothing twice and forgets nothing.
 *
 * Accepted: what an isolate that dies had been lent is booked in full (`unreported`), though some of it was never used.
 */
import { DurableObject } from "cloudflare:workers";
import { type ChainEnd, type ChainKeeper, readEnds } from "../audit/chain.ts";
import { AUDIT_CONSUMER, auditConsumer } from "../audit/consumer.ts";
import type { AuditRecord } from "../audit/record.ts";
import { completePolicy, type KeyPolicy, type Rules } from "../identity/key-record.ts";
import { loadPolicy } from "../identity/key-store.ts";
import { loadWorkspaceRules } from "../identity/workspace-store.ts";
import { type MetricsConsumer, metricsConsumer, TELL_EVERY_MS } from "../metrics/consumer.ts";
import type { Report } from "../metrics/hub.ts";
import { newId } from "../wire/ids.ts";
import { Account, type Head, type Loan, type Unreported } from "./account.ts";
import type { Amounts } from "./amounts.ts";
import { Outbox } from "./outbox.ts";
import * as previous from "./previous-release.ts";
import { type Answer, type Ledger, LOAN_EXPIRES_MS, ledgerName, type Message } from "./protocol.ts";
import { loadUpstreamRules } from "./upstream-rules.ts";

/** A message is known again for this long; isolates repeat one for seconds. */
const KNOWN_MESSAGE_MS = 600_000;
const FORGET_MESSAGES_MS = 60_000;
/** A workspace that was never made is looked for again after this, and so is what could not be loaded. */
const LOOK_AGAIN_MS = 60_000;
/** What isolates last said of their open streams counts for this long. */
const STREAMS_KNOWN_MS = 2 * LOAN_EXPIRES_MS;

export class KeyLedger extends DurableObject<Env> implements Ledger, ChainKeeper {
  readonly #account: Account;
  readonly #outbox: Outbox;
  readonly #metrics: MetricsConsumer;
  /** Calls since this ledger was made. */
  #calls = 0;
  readonly #streams = new Map<string, { count: number; at: number }>();
  #alarmAt: number | null = null;
  #loadedAt = 0;
  /** The rules come from the release before: what it did not know is still to be loaded. */
  #isOld: boolean;
  /** When the last of the messages known here is to be forgotten; 0: there are none since this object's start. */
  #knownUntil = 0;
  #forgetAt = 0;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    const { sql } = ctx.storage;
    const table = (text: string): unknown => sql.exec(`CREATE TABLE IF NOT EXISTS ${text}`);
    table("policy (id INTEGER PRIMARY KEY CHECK (id = 1), json TEXT NOT NULL)");
    table("account (id INTEGER PRIMARY KEY CHECK (id = 1), head TEXT NOT NULL, calls INTEGER NOT NULL)");
    table(
      "loan (id TEXT PRIMARY KEY, status TEXT NOT NULL, out TEXT NOT NULL, day INTEGER NOT NULL, until INTEGER NOT NULL)",
    );
    table("spend (day INTEGER PRIMARY KEY, micro_usd INTEGER NOT NULL)");
    table("message (id TEXT PRIMARY KEY, at INTEGER NOT NULL)");
    const [policy] = sql.exec<{ json: string }>("SELECT json FROM policy").toArray();
    const [account] = sql.exec<{ head: string; calls: number }>("SELECT head, calls FROM account").toArray();
    this.#calls = account?.calls ?? 0;
    const rules = policy && (JSON.parse(policy.json) as Rules);
    this.#isOld = rules !== undefined && previous.isOld(rules);
    this.#account = new Account(
      rules && complete(rules),
      account && (JSON.parse(account.head) as Head),
      sql
        .exec<{ [K in keyof Loan]: K extends "out" ? string : Loan[K] }>("SELECT * FROM loan")
        .toArray()
        .map((row) => ({
          ...row,
          out: JSON.parse(row.out) as Amounts,
        })),
      sql
        .exec<{ day: number; micro_usd: number }>("SELECT day, micro_usd FROM spend")
        .toArray()
        .map((row) => [row.day, row.micro_usd]),
    );
    // By its id, which it knows whoever wakes it up.
    this.#metrics = metricsConsumer(env.METRICS, ctx.id.toString(), (now) => this.#report(now));
    this.#outbox = new Outbox(ctx.storage, [auditConsumer(env.DB), this.#metrics], { arm: (at) => this.#armAt(at) });
  }

  async exchange(message: Message): Promise<Answer | null> {
    const now = Date.now();
    this.#calls++;
    const first = isEmpty(message) || this.#isNew(message.id, now);
    if (first) this.#takeOver(message, now);
    if (!this.#account.rules) {
      this.#store();
      await this.#load(message.to);
    } else if ((this.#isOld || this.#account.rules.version === 0) && now - this.#loadedAt > LOOK_AGAIN_MS) {
      this.ctx.waitUntil(this.#load(message.to));
    }
    const policy = this.#account.rules;
    // One that is told again may have been lent for: what for is not known here any more, so it gets nothing.
    const { ask } = message;
    const lent =
      ask && policy && first ? this.#account.lend(ask.loan, ask.wanted, ask.more, now, message.isolate) : null;
    this.#store();
    this.#arm();
    // This call, and what it leaves open, are told even if nothing else happens.
    this.#armAt(now + TELL_EVERY_MS);
    if (!policy) return null;
    const { usual } = this.#account.head;
    return {
      policy,
      lent,
      validMs: this.#account.validMs(now),
      state: this.#account.state(now, message.isolate),
      usual,
    };
  }

  async policy(name?: string): Promise<KeyPolicy | null> {
    if (!this.#account.rules) await this.#load(name);
    const { rules } = this.#account;
    return rules && isKey(rules) ? rules : null;
  }

  async putPolicy(policy: Rules): Promise<void> {
    const known = this.#account.rules;
    const isOld = previous.isOld(policy);
    const completes = known?.version === policy.version && this.#isOld && !isOld;
    if (known && policy.version <= known.version && !completes) return;
    this.#isOld = isOld;
    // What a Worker of the release before has changed is in D1 beside what it does not know of.
    if (isOld) this.#loadedAt = 0;
    this.#account.setRules(complete(policy), Date.now());
    this.ctx.storage.sql.exec("INSERT OR REPLACE INTO policy (id, json) VALUES (1, ?)", JSON.stringify(policy));
    this.#store();
  }

  async chainEnd(key: string): Promise<ChainEnd | null> {
    return readEnds(this.#outbox.noteOf(AUDIT_CONSUMER))[key] ?? null;
  }

  /** Never throws: an alarm that throws is given up after six tries. */
  override async alarm(): Promise<void> {
    this.#alarmAt = null;
    try {
      const now = Date.now();
      for (const booked of this.#account.expire(now)) this.#tellUnreported(booked, now);
      this.#store();
      this.#forgetMessages(now);
      await this.#outbox.flush(Date.now());
      await this.#metrics.tell();
    } catch (error) {
      console.error(JSON.stringify({ level: "error", msg: "ledger_alarm_failed", error: String(error) }));
    } finally {
      this.#arm();
    }
  }

  /** Answers that the object lives; for the health check. */
  async ping(): Promise<true> {
    return true;
  }

  #takeOver(message: Message, now: number): void {
    for (const report of message.loans) {
      const corrected = this.#account.report(report, now);
      if (corrected) this.#tellUnreported(corrected, now);
    }
    this.#account.keep(message.holding, now);
    this.#account.turns.heard(message.isolate, message.waiting ?? [], now);
    if (message.records !== "") this.#outbox.add(message.records, now);
    if (message.openStreams > 0) this.#streams.set(message.isolate, { count: message.openStreams, at: now });
    else this.#streams.delete(message.isolate);
  }

  #isNew(id: string, now: number): boolean {
    const { rowsWritten } = this.ctx.storage.sql.exec("INSERT OR IGNORE INTO message (id, at) VALUES (?, ?)", id, now);
    this.#knownUntil = now + KNOWN_MESSAGE_MS;
    return rowsWritten > 0;
  }

  /** The table is read through for it, so not at each alarm. */
  #forgetMessages(now: number): void {
    if (now < this.#forgetAt && this.#forgetAt - now <= FORGET_MESSAGES_MS) return;
    this.#forgetAt = now + FORGET_MESSAGES_MS;
    this.ctx.storage.sql.exec("DELETE FROM message WHERE at <= ?", now - KNOWN_MESSAGE_MS);
    if (this.#knownUntil <= now) this.#knownUntil = 0;
  }

  /**
   * A ledger learns of its key, workspace or upstream from D1 at the first call, so it is made near the first user and not near
   * the administrator. A policy that was put in the meantime is newer and stays.
   */
  async #load(told = ""): Promise<void> {
    this.#loadedAt = Date.now();
    const name = this.ctx.id.name ?? told;
    const { DB } = this.env;
    const workspace = ledgerName.workspaceOf(name);
    const upstream = ledgerName.upstreamOf(name);
    const policy =
      workspace !== null
        ? await loadWorkspaceRules(DB, workspace)
        : upstream !== null
          ? await loadUpstreamRules(DB, upstream)
          : await loadPolicy(DB, name);
    const shared = workspace ?? upstream;
    if (policy) await this.putPolicy(policy);
    // Making it later puts its rules in force here; should that fail, the next look finds them.
    else if (shared !== null) this.#account.rules ??= { id: shared, version: 0, limits: {}, budget: null };
    // An upstream's rules are new as a whole, and what is not stored lacks nothing.
    if (!policy || upstream !== null) this.#isOld = false;
  }

  /** An audit row for what was booked without an account of it: told by keys' ledgers alone. */
  #tellUnreported({ loan, amounts }: Unreported, now: number): void {
    const policy = this.#account.rules;
    if (!policy || !isKey(policy)) return;
    if (amounts.requests === 0 && amounts.microUsd === 0) return;
    const record: Partial<AuditRecord> = {
      request_id: newId("req", now),
      key_id: policy.id,
      workspace: policy.workspace,
      at: now,
      route: "unreported",
      method: "",
      dialect: "anthropic",
      status: 0,
      outcome: "unreported",
      requests: amounts.requests,
      estimated: 1,
      input_tokens: amounts.inputTokens,
      output_tokens: amounts.outputTokens,
      cost_micro_usd: amounts.microUsd,
    };
    this.#outbox.add(JSON.stringify([record]), now);
    console.error(JSON.stringify({ level: "error", msg: "unreported", key_id: policy.id, loan, ...amounts }));
  }

  /** Writes what has changed, together with everything else of this call. */
  #store(): void {
    const { sql } = this.ctx.storage;
    const { head, loans, spend, changedLoans, changedDays } = this.#account;
    for (const id of changedLoans) {
      const loan = loans.get(id);
      if (loan) {
        sql.exec(
          "INSERT OR REPLACE INTO loan (id, status, out, day, until) VALUES (?, ?, ?, ?, ?)",
          id,
          loan.status,
          JSON.stringify(loan.out),
          loan.day,
          loan.until,
        );
      } else sql.exec("DELETE FROM loan WHERE id = ?", id);
    }
    changedLoans.clear();
    for (const day of changedDays) {
      sql.exec("INSERT OR REPLACE INTO spend (day, micro_usd) VALUES (?, ?)", day, spend.get(day) ?? 0);
    }
    changedDays.clear();
    sql.exec("INSERT OR REPLACE INTO account (id, head, calls) VALUES (1, ?, ?)", JSON.stringify(head), this.#calls);
  }

  /** One alarm serves everything that waits. After a restart nobody knows when it is set to, so all are asked. */
  #arm(): void {
    const times = [
      this.#account.nextExpiry(Date.now()),
      this.#outbox.nextAlarmAt(),
      this.#metrics.nextTellAt(),
      this.#knownUntil > 0 ? this.#knownUntil : null,
    ];
    for (const at of times) if (at !== null) this.#armAt(at);
  }

  #armAt(at: number): void {
    if (this.#alarmAt !== null && this.#alarmAt <= at) return;
    this.#alarmAt = at;
    void this.ctx.storage.setAlarm(at);
  }

  /** For the metrics. Other ledgers hold what keys' ledgers hold too, so they tell of their calls alone. */
  #report(now: number): Report {
    let openStreams = 0;
    for (const [isolate, { count, at }] of this.#streams) {
      if (now - at > STREAMS_KNOWN_MS) this.#streams.delete(isolate);
      else openStreams += count;
    }
    const { rows, bytes, oldest_age_ms, parked, dropped, missed } = this.#outbox.state(now);
    const { requests, microUsd } = this.#account.out;
    const { rules } = this.#account;
    const held =
      rules && isKey(rules)
        ? { open_streams: openStreams, lent_requests: requests, reserved_micro_usd: microUsd }
        : undefined;
    return {
      gauges: {
        outbox_rows: rows,
        outbox_bytes: bytes,
        outbox_oldest_at: rows > 0 ? now - oldest_age_ms : null,
        ...held,
      },
      counters: { ledger_calls: this.#calls, outbox_parked: parked, outbox_dropped: dropped, outbox_missed: missed },
    };
  }
}

/** It may come as often as it likes: nothing in it counts. */
const isEmpty = ({ ask, loans, records }: Message): boolean => !ask && loans.length === 0 && records === "";

const isKey = (rules: Rules): rules is KeyPolicy => "secrets" in rules;

const complete = (rules: Rules): Rules => (isKey(rules) ? completePolicy(rules) : rules);
