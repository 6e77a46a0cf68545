import { parseChangeWorkspace, parseCreateWorkspace } from "../../admin/input.ts";
import { answer, PAGE, type Tag } from "../operation.ts";
import { object, orNull, pageOf, readBy, ref, text, time, whole } from "../schema.ts";

const byHand = {
  metadata: ref("Metadata"),
  guardrails: orNull(ref("Guardrails")),
  budget: orNull(ref("BudgetInput")),
};
const ONE = answer("The workspace.", ref("Workspace"));

export const workspaces: Tag = {
  name: "Workspaces",
  description: "Limits, a budget and guardrails that several keys share.",
  docs: "docs/api.md#workspaces",
  operations: [
    {
      id: "createWorkspace",
      route: "POST /admin/workspaces",
      summary: "Makes a workspace",
      body: {
        schema: readBy(parseCreateWorkspace, byHand),
        example: { id: "ws_red", name: "Red team", budget: { usd: 200, period: "month", mode: "soft" } },
      },
      answers: { 201: ONE },
      errors: [409],
    },
    {
      id: "listWorkspaces",
      route: "GET /admin/workspaces",
      summary: "Workspaces, newest first",
      query: PAGE,
      answers: { 200: answer("A page of them.", pageOf(ref("Workspace"))) },
    },
    { id: "readWorkspace", route: "GET /admin/workspaces/:id", summary: "One", answers: { 200: ONE } },
    {
      id: "changeWorkspace",
      route: "PATCH /admin/workspaces/:id",
      summary: "Changes the fields given, as for keys",
      body: { schema: readBy(parseChangeWorkspace, byHand), example: { limits: { concurrent_requests: 20 } } },
      answers: { 200: ONE },
      errors: [409],
    },
    {
      id: "purgeWorkspaceCache",
      route: "POST /admin/workspaces/:id/cache/purge",
      summary: "Forgets the workspace's cached answers",
      answers: { 200: answer("How often it was purged.", object({ workspace: text, cache_epoch: whole })) },
    },
  ],
  schemas: {
    Workspace: object({
      id: text,
      name: text,
      version: whole,
      limits: ref("Limits"),
      budget: orNull(ref("Budget")),
      guardrails: orNull(ref("Guardrails")),
      metadata: ref("Metadata"),
      cache_epoch: whole,
      created_at: time,
      updated_at: time,
    }),
  },
};
