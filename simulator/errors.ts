/** The API's errors: status, type and wording (wire notes §3). Wordings that are not documented are our own. */
import type { Fields } from "./json.ts";

export type ApiError = {
  readonly status: number;
  readonly type: string;
  readonly message: string;
  /** `error.details.error_code`. */
  readonly code?: string;
  readonly headers?: Readonly<Record<string, string>>;
};

const TYPES: Readonly<Record<number, string>> = {
  400: "invalid_request_error",
  401: "authentication_error",
  402: "billing_error",
  403: "permission_error",
  404: "not_found_error",
  409: "conflict_error",
  413: "request_too_large",
  429: "rate_limit_error",
  500: "api_error",
  504: "timeout_error",
  529: "overloaded_error",
};

/** What the API says with a type when there is nothing more to say: for failures on demand. */
const MESSAGES: Readonly<Record<string, string>> = {
  invalid_request_error: "Invalid request",
  authentication_error: "invalid x-api-key",
  billing_error: "There is an issue with your billing details.",
  permission_error: "Your API key does not have permission to use the specified resource.",
  not_found_error: "Not found",
  conflict_error: "The resource was modified concurrently",
  request_too_large: "Request exceeds the maximum size",
  rate_limit_error: "This request would exceed the rate limit for your organization",
  api_error: "Internal server error",
  timeout_error: "The request timed out while processing",
  overloaded_error: "Overloaded",
};

/** The type that goes with a status; other client errors are invalid requests, other server errors API errors. */
export function typeOf(status: number): string {
  return TYPES[status] ?? (status < 500 ? "invalid_request_error" : "api_error");
}

/** The usual wording of a type. */
export function messageOfType(type: string): string {
  return MESSAGES[type] ?? "Simulated failure";
}

export function apiError(status: number, message: string, headers?: Readonly<Record<string, string>>): ApiError {
  return { status, type: typeOf(status), message, ...(headers ? { headers } : {}) };
}

export const invalid = (message: string): ApiError => apiError(400, message);

/** Tells an error from what a function returns otherwise: only an error has a status. */
export function isApiError<T>(value: T | ApiError): value is ApiError {
  return typeof value === "object" && value !== null && "status" in value && "message" in value;
}

/** An error as the API tells it; `requestId` is null where it belongs to no call, in the results of a batch. */
export function errorFields({ type, message, code }: Omit<ApiError, "status">, requestId: string | null): Fields {
  const details = code === undefined ? null : { error_code: code };
  return { type: "error", error: { details, type, message }, request_id: requestId };
}

/** The JSON of an error, as a body and as the data of an `error` event. */
export function errorBody(error: Omit<ApiError, "status">, requestId: string): string {
  return JSON.stringify(errorFields(error, requestId));
}
