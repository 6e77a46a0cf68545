/** What the control plane is told of templates, beside what a version holds (`parseVersion`). Pure. */
import * as z from "zod/mini";
import { CHANGES_NOTHING, matching, oneOf, parser, wholeNumber } from "../fields.ts";
import { WORKSPACE } from "../identity/fields.ts";
import { err, ok, type Result } from "../result.ts";
import { asFields } from "../wire/anthropic/usage.ts";
import type { Failure } from "../wire/errors.ts";
import type { Fields } from "./content.ts";
import { LABEL, MAX_LABELS, parseLabels } from "./labels.ts";
import type { TemplateChange } from "./store.ts";

const MAX_NOTE_CHARS = 500;
const MAX_WORKSPACES = 100;

const label = matching(LABEL, "must be a name of a-z, 0-9, _ and -");
const Beside = z.strictObject({
  labels: z.optional(
    z.array(label, "must be a list of labels").check(z.maxLength(MAX_LABELS, `must not be more than ${MAX_LABELS}`)),
  ),
  note: z.optional(
    z
      .nullable(z.string("must be a text"))
      .check(
        z.refine(
          (text) => (text?.length ?? 0) <= MAX_NOTE_CHARS,
          `must not be longer than ${MAX_NOTE_CHARS} characters`,
        ),
      ),
  ),
});
export const parseBeside = parser<z.infer<typeof Beside>>(Beside);

export type Publication = {
  /** For `parseVersion`. */
  readonly content: Fields;
  /** Labels that are to mean the new version. */
  readonly labels: readonly string[];
  readonly note: string | null;
};

/** `POST /admin/templates/:name`: a version's fields, `labels` and `note` beside them. */
export function readPublication(json: unknown): Result<Publication, Failure> {
  const fields = asFields(json);
  if (!fields) return err({ kind: "invalid_request", message: "the request body must be a JSON object" });
  const { labels, note, ...content } = fields;
  const beside = parseBeside({ ...(labels !== undefined && { labels }), ...(note !== undefined && { note }) });
  if (!beside.ok) return beside;
  return ok({ content, labels: [...new Set(beside.value.labels ?? [])], note: beside.value.note ?? null });
}

const Change = z.strictObject({
  labels: z.optional(z.unknown()),
  workspaces: z.optional(
    z.nullable(
      z
        .array(matching(WORKSPACE, "must be the id of a workspace"), "must be a list of workspaces, or null")
        .check(z.maxLength(MAX_WORKSPACES, `must not be more than ${MAX_WORKSPACES}`)),
    ),
  ),
  state: z.optional(oneOf(["active", "archived"])),
  revision: z.optional(wholeNumber(1, Number.MAX_SAFE_INTEGER)),
});
export const parseChange = parser<z.infer<typeof Change>>(Change);

/**
 * `PATCH /admin/templates/:name`: labels (all of them), workspaces, state. `revision`: what the caller has seen, null where
 * it does not matter. `newest`: the template's newest version.
 */
export function readChange(
  json: unknown,
  newest: number,
): Result<{ readonly change: TemplateChange; readonly revision: number | null }, Failure> {
  const parsed = parseChange(json);
  if (!parsed.ok) return parsed;
  const { labels: given, workspaces, state, revision = null } = parsed.value;
  if (given === undefined && workspaces === undefined && state === undefined) return err(CHANGES_NOTHING);
  const labels = given === undefined ? ok(undefined) : parseLabels(given, newest);
  if (!labels.ok) return labels;
  const change: TemplateChange = {
    ...(labels.value && { labels: labels.value }),
    ...(workspaces !== undefined && { workspaces }),
    ...(state !== undefined && { state }),
  };
  return ok({ change, revision });
}
