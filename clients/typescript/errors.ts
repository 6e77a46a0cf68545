/** What the gateway refused, or why there is no answer. Types are those of the Messages API, and the gateway's own. */
export class SluiceError extends Error {
  override readonly name = "SluiceError";
  /** `authentication_error`, `rate_limit_error`, …; `connection_error` where there was no answer at all. */
  readonly type: string;
  /** HTTP status, or the close code of a socket; 0: neither. */
  readonly status: number;
  readonly retryAfterSeconds: number | null;
  readonly requestId: string | null;

  constructor(
    type: string,
    message: string,
    more: { status?: number; retryAfterSeconds?: number | null; requestId?: string | null; cause?: unknown } = {},
  ) {
    super(message, more.cause === undefined ? {} : { cause: more.cause });
    this.type = type;
    this.status = more.status ?? 0;
    this.retryAfterSeconds = more.retryAfterSeconds ?? null;
    this.requestId = more.requestId ?? null;
  }
}
