import { parseChangeUpstream, parseCreateUpstream } from "../../admin/input.ts";
import { answer, PAGE, type Tag } from "../operation.ts";
import { flag, list, object, oneOf, orNull, pageOf, readBy, ref, text, time, whole } from "../schema.ts";

const ONE = answer("The upstream account.", ref("Upstream"));

export const upstreams: Tag = {
  name: "Upstreams",
  description: "The accounts that calls can go to.",
  docs: "docs/upstreams.md",
  operations: [
    {
      id: "createUpstream",
      route: "POST /admin/upstreams",
      summary: "Stores an account",
      body: {
        schema: readBy(parseCreateUpstream),
        example: { name: "main", base_url: "https://api.anthropic.com", api_key: "sk-ant-api03-EXAMPLE", weight: 100 },
      },
      answers: { 201: ONE },
      errors: [409],
    },
    {
      id: "listUpstreams",
      route: "GET /admin/upstreams",
      summary: "`up_default` first, then newest first",
      query: {
        removed: { schema: oneOf("true", "false"), description: "The removed ones alone.", example: "true" },
        ...PAGE,
      },
      answers: { 200: answer("A page of them.", pageOf(ref("Upstream"))) },
    },
    { id: "readUpstream", route: "GET /admin/upstreams/:id", summary: "One", answers: { 200: ONE } },
    {
      id: "changeUpstream",
      route: "PATCH /admin/upstreams/:id",
      summary: 'Changes the fields given; `state: "active"` ends draining',
      body: { schema: readBy(parseChangeUpstream), example: { weight: 50 } },
      answers: { 200: ONE },
      errors: [409],
    },
    {
      id: "removeUpstream",
      route: "DELETE /admin/upstreams/:id",
      summary: "Wipes the key and ends its use",
      answers: { 200: ONE },
      errors: [409],
    },
    {
      id: "drainUpstream",
      route: "POST /admin/upstreams/:id/drain",
      summary: "No new conversations; what can go nowhere else stays",
      answers: { 200: ONE },
      errors: [409],
    },
    {
      id: "testUpstream",
      route: "POST /admin/upstreams/:id/test",
      summary: "One real call that costs nothing",
      answers: {
        200: answer(
          "How it went.",
          object({ ok: flag, status: orNull(whole), latency_ms: whole }, { error_type: text }),
          { ok: true, status: 200, latency_ms: 84 },
        ),
      },
      errors: [409],
    },
    {
      id: "resealAll",
      route: "POST /admin/upstreams/reseal",
      summary: "Seals every key that is under an older master key under the first one",
      answers: { 200: answer("How many.", object({ resealed: whole, failed: list(text) })) },
    },
  ],
  schemas: {
    Upstream: object(
      {
        id: text,
        source: oneOf("stored", "environment"),
        name: text,
        base_url: text,
        weight: whole,
        models: ref("ModelPatterns"),
        concurrent_requests: orNull(whole),
        state: oneOf("active", "draining", "removed"),
        fingerprint: orNull(text),
        sealed_under: orNull(text),
        created_at: orNull(time),
        updated_at: orNull(time),
        version: whole,
        health: orNull(
          object(
            { state: oneOf("healthy", "cooling", "open", "refused", "unusable") },
            { reason: orNull(text), since: orNull(time), until: orNull(time) },
          ),
        ),
      },
      { in_use: flag },
    ),
  },
};
