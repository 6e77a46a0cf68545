/** Who calls. Any key that looks like one will do; its beginning says how the API takes it (docs/simulator.md). */
import { type ApiError, apiError, messageOfType } from "./errors.ts";

/** The credential of a request: one key, in `x-api-key`, as a Bearer token, or the same in both. */
export function authenticate(headers: Headers): string | ApiError {
  const key = headers.get("x-api-key");
  const bearer = /^Bearer (.+)$/i.exec(headers.get("authorization") ?? "")?.[1] ?? null;
  if (key === null && bearer === null) return apiError(401, "x-api-key header is required");
  const credential = key ?? bearer ?? "";
  if ((bearer !== null && bearer !== credential) || !/^sk-ant-./.test(credential)) {
    return apiError(401, messageOfType("authentication_error"));
  }
  if (credential.startsWith("sk-ant-denied-")) return apiError(403, messageOfType("permission_error"));
  if (credential.startsWith("sk-ant-unpaid-")) return apiError(402, messageOfType("billing_error"));
  return credential;
}
