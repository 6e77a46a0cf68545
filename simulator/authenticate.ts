/** Who calls. Any key that looks like one will do; its beginning says how the API takes it (docs/simulator.md). */
import { type ApiError, apiError, messageOfType } from "./errors.ts";
import { splitName } from "./faults.ts";

const bearerOf = (headers: Headers): string | null =>
  /^Bearer (.+)$/i.exec(headers.get("authorization") ?? "")?.[1] ?? null;

/** The key of a request: one, in `x-api-key`, as a Bearer token, or the same in both. Without the faults behind it. */
export function authenticate(headers: Headers): string | ApiError {
  const key = headers.get("x-api-key");
  const bearer = bearerOf(headers);
  if (key === null && bearer === null) return apiError(401, "x-api-key header is required");
  const credential = key ?? bearer ?? "";
  const { id } = splitName(credential);
  if ((bearer !== null && bearer !== credential) || !/^sk-ant-./.test(id)) {
    return apiError(401, messageOfType("authentication_error"));
  }
  if (id.startsWith("sk-ant-denied-")) return apiError(403, messageOfType("permission_error"));
  if (id.startsWith("sk-ant-unpaid-")) return apiError(402, messageOfType("billing_error"));
  return id;
}

/** The faults that stand behind the key. */
export function keyFaults(headers: Headers): readonly string[] {
  return splitName(headers.get("x-api-key") ?? bearerOf(headers) ?? "").pairs;
}
