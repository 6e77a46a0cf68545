/**
 * The fault table: what upstreams do, and what the client, the upstreams and the books see of it. `upstreams` of a row is
 * the size of its pool, three unless it says otherwise; `order` are the scripts of the attempts, the last one repeats.
 */
import { type Action, errorJson, event, PLACES, type Place, type Script } from "./script.ts";
import { LIMITS } from "./world.ts";

export type Expected = {
  readonly ending: "whole" | "refused" | "cut";
  readonly status?: number;
  /** Type of the error that the client sees. */
  readonly type?: string;
  readonly attempts: number | readonly [least: number, most: number];
  /** How many different upstreams were asked. */
  readonly asked?: number;
  /** Of the answer; null: not there. */
  readonly headers?: Readonly<Record<string, string | RegExp | null>>;
  readonly atLeastMs?: number;
  /** Left out: the total limit. */
  readonly atMostMs?: number;
  /** The upstream's bytes, all that it sent. */
  readonly allBytes?: boolean;
  readonly audit?: Readonly<Record<string, unknown>>;
  /** What was used is not read from the answer as it usually is. */
  readonly otherMoney?: boolean;
};

export type Row = {
  readonly name: string;
  readonly order: readonly Script[];
  readonly stream: boolean;
  readonly upstreams?: number;
  readonly expected: Expected;
  /** It is about limits of time: played with those of `LIMITS`. All others are played with longer ones. */
  readonly timed?: boolean;
  /** Bytes of padding in the request. */
  readonly padding?: number;
};

const OK: Script = [];
/** What a machine with other things to do may add, ms. */
const SLACK_MS = 4_000;
/** The longest first pause of a retry, ms. */
const BASE_BACKOFF_MS = 250;

const at = (after: Place, ...actions: Action[]): Script => actions.map((action) => ({ after, do: action }));
const status = (code: number, headers: readonly (readonly [string, string])[] = [], type = "api_error"): Script =>
  at("connect", { status: code, headers, body: errorJson(type, `scripted ${code}`) });

const RESETS: readonly (readonly [string, Action])[] = [
  ["RST", { reset: true }],
  ["FIN", { fin: true }],
];

/** The places at which nothing has gone to the client yet. */
const isEarly = (place: Place, stream: boolean): boolean => !stream || place === "connect" || place === "headers";

function both(make: (stream: boolean) => Row): Row[] {
  return [make(true), make(false)];
}

/** F-14, F-10, F-11: connections that break and upstreams that fall silent, at every place. */
const broken: Row[] = PLACES.flatMap((place) =>
  both((stream): Row => ({ name: "", stream, order: [], expected: { ending: "whole", attempts: 1 } })).flatMap(
    ({ stream }): Row[] => [
      ...RESETS.map(
        ([name, action]): Row => ({
          name: `F-14 ${name} after ${place}`,
          stream,
          order: [at(place, action), OK],
          expected: isEarly(place, stream)
            ? { ending: "whole", attempts: 2, atMostMs: BASE_BACKOFF_MS + SLACK_MS }
            : {
                ending: "cut",
                attempts: 1,
                type: "api_error",
                allBytes: name === "FIN",
                audit: { outcome: "upstream_cut" },
              },
        }),
      ),
      {
        name: `${place === "connect" ? "F-10" : "F-11"} silence after ${place}`,
        stream,
        timed: true,
        order: [at(place, { hang: true }), OK],
        expected: !stream
          ? { ending: "refused", status: 504, type: "timeout_error", attempts: 1, atLeastMs: LIMITS.totalMs - 100 }
          : isEarly(place, stream)
            ? { ending: "whole", attempts: 2, asked: 2, atLeastMs: LIMITS.firstByteMs - 50 }
            : {
                ending: "cut",
                attempts: 1,
                type: "timeout_error",
                allBytes: true,
                atLeastMs: LIMITS.silenceMs - 50,
                atMostMs: LIMITS.silenceMs + SLACK_MS,
              },
      },
      {
        name: `a pause after ${place}, below all limits`,
        stream,
        order: [at(place, { sleep: 200 })],
        expected: { ending: "whole", attempts: 1, atLeastMs: 190 },
      },
    ],
  ),
);

const ended: Row[] = PLACES.filter((place) => place !== "connect").map((place) => ({
  name: `F-14 a body that ends as if complete after ${place}`,
  stream: true,
  order: [at(place, { end: true }), OK],
  expected:
    place === "headers"
      ? { ending: "whole", attempts: 2 }
      : { ending: "cut", attempts: 1, type: "api_error", allBytes: true, audit: { outcome: "upstream_cut" } },
}));

const errorEvents: Row[] = ["overloaded_error", "api_error"].flatMap((type) =>
  PLACES.filter((place) => place !== "connect").map(
    (place): Row => ({
      name: `F-19 an ${type} event after ${place}`,
      stream: true,
      order: [at(place, { error: type }), OK],
      expected:
        place === "headers"
          ? { ending: "whole", attempts: 2 }
          : { ending: "cut", attempts: 1, type, allBytes: true, audit: { outcome: "error", error_type: type } },
    }),
  ),
);

/** Answers other than 200, first once and then for ever. */
const statuses: Row[] = [
  ...[408, 409, 500, 502, 503, 504, 529].flatMap((code) =>
    both((stream): Row => {
      const name = code === 529 ? "F-03" : code < 500 ? "F-05" : "F-03";
      return {
        name: `${name} ${code} once`,
        stream,
        order: [status(code), OK],
        expected: { ending: "whole", attempts: 2, atMostMs: BASE_BACKOFF_MS + SLACK_MS },
      };
    }),
  ),
  ...[500, 503, 529].flatMap((code) =>
    both(
      (stream): Row => ({
        name: `F-03 ${code} for ever`,
        stream,
        order: [status(code, [], code === 529 ? "overloaded_error" : "api_error")],
        expected: {
          ending: "refused",
          status: code,
          attempts: 3,
          // A fault that passes is tried again where the conversation lives, once.
          asked: 2,
          headers: { "x-should-retry": "false" },
        },
      }),
    ),
  ),
  ...both(
    (stream): Row => ({
      name: "F-03 529 for ever that says it may be retried",
      stream,
      order: [status(529, [["x-should-retry", "true"]])],
      expected: { ending: "refused", status: 529, attempts: 3, headers: { "x-should-retry": "true" } },
    }),
  ),
  ...both(
    (stream): Row => ({
      name: "F-06 500 that must not be retried",
      stream,
      order: [status(500, [["x-should-retry", "false"]]), OK],
      expected: { ending: "refused", status: 500, attempts: 1, headers: { "x-should-retry": "false" } },
    }),
  ),
  ...both(
    (stream): Row => ({
      name: "F-06 529 that must not be retried",
      stream,
      order: [status(529, [["x-should-retry", "false"]]), OK],
      expected: { ending: "refused", status: 529, attempts: 1, headers: { "x-should-retry": "false" } },
    }),
  ),
  ...both(
    (stream): Row => ({
      name: "F-06 400 that is to be retried, once",
      stream,
      order: [status(400, [["x-should-retry", "true"]]), OK],
      expected: { ending: "whole", attempts: 2 },
    }),
  ),
  ...both(
    (stream): Row => ({
      name: "F-06 400 that is to be retried, for ever",
      stream,
      order: [status(400, [["x-should-retry", "true"]])],
      expected: { ending: "refused", status: 400, attempts: 3 },
    }),
  ),
  ...[400, 405, 410, 413, 415, 422].flatMap((code) =>
    both(
      (stream): Row => ({
        name: `F-07 ${code}`,
        stream,
        order: [status(code, [], "invalid_request_error"), OK],
        expected: { ending: "refused", status: code, attempts: 1, type: "invalid_request_error", allBytes: true },
      }),
    ),
  ),
  ...[401, 402, 403, 404].flatMap((code) =>
    both(
      (stream): Row => ({
        name: `F-07 ${code} of one credential`,
        stream,
        order: [status(code), OK],
        expected: { ending: "whole", attempts: 2, asked: 2, atMostMs: SLACK_MS },
      }),
    ),
  ),
  ...[401, 403].flatMap((code) =>
    both(
      (stream): Row => ({
        name: `F-07 ${code} of every credential`,
        stream,
        order: [status(code, [], "authentication_error")],
        expected: { ending: "refused", status: 502, attempts: 3, asked: 3, headers: { "x-should-retry": "false" } },
      }),
    ),
  ),
  ...[402, 404].flatMap((code) =>
    both(
      (stream): Row => ({
        name: `F-07 ${code} of every credential`,
        stream,
        order: [status(code, [], "billing_error")],
        expected: { ending: "refused", status: code, attempts: 3, asked: 3, type: "billing_error", allBytes: true },
      }),
    ),
  ),
];

const limited = (...headers: (readonly [string, string])[]): Script => status(429, headers, "rate_limit_error");

type Header = readonly [string, string];

/** Spellings of a short wait, and how long it is at least, ms. A date is made when its row is played. */
const WAITS: readonly (readonly [name: string, headers: () => Header[], atLeastMs: number])[] = [
  ["retry-after: 1", () => [["retry-after", "1"]], 950],
  ["retry-after: 0.4", () => [["retry-after", "0.4"]], 350],
  ["retry-after-ms: 150", () => [["retry-after-ms", "150"]], 140],
  [
    "retry-after-ms before retry-after",
    () => [
      ["retry-after-ms", "150"],
      ["retry-after", "40"],
    ],
    140,
  ],
  ["retry-after: a date", () => [["retry-after", new Date(Date.now() + 2_000).toUTCString()]], 700],
  ["retry-after: -1", () => [["retry-after", "-1"]], 900],
  ["retry-after: abc", () => [["retry-after", "abc"]], 900],
  ["retry-after: 0", () => [["retry-after", "0"]], 0],
  ["no retry-after", () => [], 900],
];

/** 429 at a pool of three, where another is asked at once, and at one of one, where there is only waiting. */
const rates: Row[] = [
  ...both(
    (stream): Row => ({
      name: "F-01 429 of one upstream",
      stream,
      order: [limited(["retry-after", "9"]), OK],
      expected: { ending: "whole", attempts: 2, asked: 2, atMostMs: SLACK_MS },
    }),
  ),
  ...both(
    (stream): Row => ({
      name: "F-01 429 of all upstreams",
      stream,
      order: [limited(["retry-after", "8"]), limited(["retry-after", "6"]), limited(["retry-after", "7"])],
      expected: {
        ending: "refused",
        status: 429,
        type: "rate_limit_error",
        attempts: 3,
        asked: 3,
        headers: { "retry-after": /^[56]$/ },
        atMostMs: SLACK_MS,
      },
    }),
  ),
  ...WAITS.map(
    ([name, headers, atLeastMs]): Row => ({
      name: `F-02 ${name}`,
      stream: true,
      upstreams: 1,
      get order() {
        return [limited(...headers()), OK];
      },
      expected: { ending: "whole", attempts: 2, asked: 1, atLeastMs, atMostMs: 2_000 + SLACK_MS },
    }),
  ),
  {
    name: "F-02 retry-after: 1 is waited for though the first byte has 500 ms",
    stream: true,
    timed: true,
    upstreams: 1,
    order: [limited(["retry-after", "1"]), OK],
    expected: { ending: "whole", attempts: 2, atLeastMs: 950 },
  },
  ...(["99999999", "61", "Fri, 31 Dec 9999 23:59:59 GMT"] as const).map(
    (value): Row => ({
      name: `F-02 retry-after: ${value}`,
      stream: true,
      upstreams: 1,
      order: [limited(["retry-after", value]), OK],
      expected: {
        ending: "refused",
        status: 429,
        attempts: 1,
        headers: { "retry-after": /^(?:[1-5]?\d|60)$/ },
        atMostMs: SLACK_MS,
      },
    }),
  ),
  {
    name: "F-02 retry-after: 10, longer than anyone waits",
    stream: false,
    upstreams: 1,
    order: [limited(["retry-after", "10"]), OK],
    expected: { ending: "refused", status: 429, attempts: 1, headers: { "retry-after": /^(?:9|10)$/ } },
  },
];

const silent: Row[] = (["connect", "headers"] as const).map((place) => ({
  name: `${place === "connect" ? "F-10" : "F-11"} silence after ${place}, of every upstream`,
  stream: true,
  timed: true,
  order: [at(place, { hang: true })],
  expected: {
    ending: "refused",
    status: 504,
    type: "timeout_error",
    attempts: 2,
    asked: 2,
    atLeastMs: 2 * LIMITS.firstByteMs - 100,
    headers: { "x-should-retry": "false" },
  },
}));

const pings: Row[] = (["first_event", "mid", "last_event"] as const).map((place) => ({
  name: `F-13 nothing but pings after ${place}`,
  stream: true,
  timed: true,
  order: [at(place, { pings: 100 })],
  expected: {
    ending: "cut",
    attempts: 1,
    type: "timeout_error",
    atLeastMs: LIMITS.totalMs - 200,
    atMostMs: LIMITS.totalMs + 2 * SLACK_MS,
  },
}));

const TORN: readonly (readonly [string, readonly Action[]])[] = [
  ["in an event", [{ text: 'event: content_block_delta\ndata: {"type":"content_bl' }]],
  ["in the name of an event", [{ text: "event: content_blo" }]],
  ["in a code point", [{ text: 'event: content_block_delta\ndata: {"text":"' }, { hex: "f09f" }]],
  ["in a line end", [{ text: "event: ping\r" }]],
  ["between two lines", [{ text: "event: content_block_delta\n" }]],
  ["before the blank line", [{ text: 'event: ping\ndata: {"type":"ping"}\n' }]],
];

const torn: Row[] = TORN.flatMap(([name, actions]) =>
  (["first_event", "mid", "last_event"] as const).flatMap((place) =>
    RESETS.map(
      ([how, action]): Row => ({
        name: `F-15 ${how} ${name} after ${place}`,
        stream: true,
        order: [at(place, ...actions, action)],
        expected: { ending: "cut", attempts: 1, type: "api_error", allBytes: how === "FIN" },
      }),
    ),
  ),
);

const ODD: readonly (readonly [string, Action])[] = [
  ["malformed JSON", { text: 'event: content_block_delta\ndata: {"type":"content_block_delta",\n\n' }],
  ["an unknown event", { text: event("content_block_telepathy", { index: 0 }) }],
  ["data without an event", { text: 'data: {"type":"ping"}\n\n' }],
  ["a comment", { text: ": still here\n\n" }],
  ["CR alone", { text: 'event: ping\rdata: {"type":"ping"}\r\r' }],
  ["CRLF", { text: 'event: ping\r\ndata: {"type":"ping"}\r\n\r\n' }],
  ["a BOM", { hex: "efbbbf" }],
  ["retry and id", { text: 'retry: 1\nid: 9\nevent: ping\ndata: {"type":"ping"}\n\n' }],
  ["a NUL", { hex: "3a000a0a" }],
  ["bytes that are no UTF-8", { hex: "3afffe0a0a" }],
];

const odd: Row[] = ODD.flatMap(([name, action]) =>
  (["headers", "first_event", "mid", "last_event"] as const).map(
    (place): Row => ({
      name: `F-18 ${name} after ${place}`,
      stream: true,
      order: [at(place, action)],
      expected: { ending: "whole", attempts: 1, allBytes: true, otherMoney: true },
    }),
  ),
);

const long: Row[] = [10, 40].map((megabytes) => ({
  name: `F-17 a line of ${megabytes} MB`,
  stream: true,
  order: [at("mid", { line: megabytes * 1_000_000 })],
  expected: { ending: "whole", attempts: 1, allBytes: true, atMostMs: 60_000 },
}));

const heads: Row[] = [
  ...[100, 103].flatMap((code) =>
    both(
      (stream): Row => ({
        name: `F-21 ${code} before the answer`,
        stream,
        order: [at("connect", { informational: code })],
        expected: { ending: "whole", attempts: 1 },
      }),
    ),
  ),
  ...both(
    (stream): Row => ({
      name: "F-21 doubled headers",
      stream,
      order: [
        at("connect", {
          headers: [
            ["x-doubled", "a"],
            ["x-doubled", "b"],
            ["content-type", stream ? "text/event-stream" : "application/json"],
            ["request-id", "req_second"],
          ],
        }),
      ],
      expected: { ending: "whole", attempts: 1 },
    }),
  ),
  ...both(
    (stream): Row => ({
      name: "F-21 1 MB of headers, then another upstream",
      stream,
      order: [at("connect", { headerBytes: 1_000_000 }), OK],
      expected: { ending: "whole", attempts: [1, 2] },
    }),
  ),
  ...[301, 302, 303, 307, 308].flatMap((code) =>
    both(
      (stream): Row => ({
        name: `F-22 redirect ${code}`,
        stream,
        order: [at("connect", { status: code, headers: [["location", "/stolen"]], body: "" })],
        expected: { ending: "refused", status: 502, attempts: [1, 3] },
      }),
    ),
  ),
  ...both(
    (stream): Row => ({
      name: "F-23 the answer of another model",
      stream,
      order: [at("connect", { model: "claude-haiku-4-5" })],
      expected: { ending: "whole", attempts: 1, otherMoney: true, audit: { model: "claude-haiku-4-5" } },
    }),
  ),
  {
    name: "F-25 an upstream that stops reading at 64 KB",
    timed: true,
    stream: true,
    order: [at("connect", { stall: 65_536 })],
    padding: 8_000_000,
    expected: { ending: "refused", status: 504, type: "timeout_error", attempts: 2 },
  },
  {
    name: "F-25 an upstream that stops reading at 64 KB",
    timed: true,
    stream: false,
    order: [at("connect", { stall: 65_536 })],
    padding: 8_000_000,
    expected: { ending: "refused", status: 504, type: "timeout_error", attempts: 1, atLeastMs: LIMITS.totalMs - 100 },
  },
];

const RESET: Script = at("connect", { reset: true });
/** Three upstreams fail in three ways: the last 429, else 401 or 403 as 502, else the last error. */
const mixed: Row[] = (
  [
    ["429, 401, RST", [limited(["retry-after", "6"]), status(401), RESET], 429],
    ["401, RST, 429", [status(401), RESET, limited(["retry-after", "6"])], 429],
    ["RST, 429, 529", [RESET, limited(["retry-after", "6"]), status(529)], 429],
    ["401, 529, RST", [status(401), status(529), RESET], 502],
    ["529, 403, 500", [status(529), status(403), status(500)], 502],
    ["529, RST, 500", [status(529), RESET, status(500)], 500],
    ["500, 529, RST", [status(500), status(529), RESET], 502],
    ["404, 402, 529", [status(404), status(402), status(529)], 529],
    ["529, 500, 400", [status(529), status(500), status(400)], 400],
  ] as const
).flatMap(([name, order, code]) =>
  both(
    (stream): Row => ({
      name: `F-29 ${name}`,
      stream,
      order,
      expected: { ending: "refused", status: code, attempts: 3 },
    }),
  ),
);

const ALL: readonly Row[] = [
  ...rates,
  ...statuses,
  ...silent,
  ...broken,
  ...ended,
  ...pings,
  ...torn,
  ...long,
  ...odd,
  ...errorEvents,
  ...heads,
  ...mixed,
];

/** Shares no divisor with their number, so that each is met once, and no two that want many retries meet each other. */
const STRIDE = 89;

export const ROWS: readonly Row[] = ALL.flatMap((_, n) => ALL[(n * STRIDE) % ALL.length] ?? []);
