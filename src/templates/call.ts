/** What a call of a template says beside the Messages fields: variables, and which version. Pure. */
import { err, ok, type Result } from "../result.ts";
import { asFields } from "../wire/anthropic/usage.ts";
import type { Failure } from "../wire/errors.ts";
import type { Fields } from "./content.ts";
import { DEFAULT_LABEL, LABEL } from "./labels.ts";

/** One version for good, or the one that a label means for this caller. */
export type Wish = { readonly version: number } | { readonly label: string };

export type Call = {
  readonly wish: Wish;
  /** As they came; whoever renders looks at them. */
  readonly variables: unknown;
  /** The Messages fields. */
  readonly fields: Fields;
};

/** A body of `POST /v1/templates/:name/messages`, of `…/render`, or what a conversation says of its template. */
export function readCall(json: unknown): Result<Call, Failure> {
  const given = asFields(json);
  if (!given) return invalid("the request body must be a JSON object");
  const { variables, label, version, ...fields } = given;
  if (label !== undefined && version !== undefined) return invalid("version: can't stand beside label");
  if (version !== undefined) {
    if (typeof version !== "number" || !Number.isSafeInteger(version) || version < 1) {
      return invalid("version: must be a whole number from 1");
    }
    return ok({ wish: { version }, variables, fields });
  }
  if (label === undefined) return ok({ wish: { label: DEFAULT_LABEL }, variables, fields });
  if (typeof label !== "string" || !LABEL.test(label)) return invalid("label: must be a name of a-z, 0-9, _ and -");
  return ok({ wish: { label }, variables, fields });
}

function invalid(message: string): Result<never, Failure> {
  return err({ kind: "invalid_request", message });
}
