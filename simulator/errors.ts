/** The API's errors: status, type and wording (wire notes §3). Wordings that are not documented are our own. */

export type ApiError = {
  readonly status: number;
  readonly type: string;
  readonly message: string;
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

/** The type that goes with a status; other client errors are invalid requests, other server errors API errors. */
export function typeOf(status: number): string {
  return TYPES[status] ?? (status < 500 ? "invalid_request_error" : "api_error");
}

export function apiError(status: number, message: string, headers?: Readonly<Record<string, string>>): ApiError {
  return { status, type: typeOf(status), message, ...(headers ? { headers } : {}) };
}

export const invalid = (message: string): ApiError => apiError(400, message);

export function errorBody(type: string, message: string, requestId: string): string {
  return JSON.stringify({ type: "error", error: { details: null, type, message }, request_id: requestId });
}
