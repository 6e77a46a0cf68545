import { answer, NO_BODY, type Tag } from "../operation.ts";
import { list, object, oneOf, orNull, ref, text } from "../schema.ts";

const updown = oneOf("up", "down");
const page = (description: string) => ({ description, content: { "text/html": { schema: text } } });

export const service: Tag = {
  name: "Service",
  description: "What the gateway says of itself.",
  docs: "docs/api.md#get-health",
  operations: [
    {
      id: "readHealth",
      route: "GET /health",
      summary: "Whether what the gateway stands on answers",
      description: "Asked at most every five seconds.",
      answers: {
        200: answer("All checks are up.", ref("Health")),
        503: answer("A check is down, or migrations have not run.", ref("Health")),
      },
    },
    {
      id: "readMetrics",
      route: "GET /metrics",
      summary: "Metrics in Prometheus's text format, all or 503",
      answers: { 200: { description: "The metrics (docs/metrics.md).", content: { "text/plain": { schema: text } } } },
    },
    {
      id: "readDescription",
      route: "GET /openapi.json",
      summary: "This description",
      answers: { 200: answer("OpenAPI 3.1.", { type: "object" }) },
      errors: [404],
    },
    {
      id: "sayHello",
      route: "GET /api/hello",
      summary: "For Claude Code's warm-up",
      answers: { 200: NO_BODY("Hello.") },
    },
    { id: "toConsole", route: "GET /", summary: "Leads to the console", answers: { 302: NO_BODY("To `/console/`.") } },
    {
      id: "toConsoleFolder",
      route: "GET /console",
      summary: "Leads to the console",
      answers: { 302: NO_BODY("To `/console/`.") },
    },
    {
      id: "readConsole",
      route: "GET /console/",
      summary: "The console: a page to chat in",
      answers: { 200: page("The page.") },
    },
    {
      id: "readConsoleFile",
      route: "GET /console/:file",
      summary: "A file of the console",
      answers: { 200: page("The file, of its own type.") },
      errors: [404],
    },
  ],
  schemas: {
    Health: object({
      status: oneOf("ok", "degraded"),
      version: text,
      checks: object({ d1: updown, kv: updown, durable_objects: updown, upstream: updown }),
      upstreams: list(
        object(
          { id: text, state: oneOf("active", "draining", "unusable"), reason: orNull(text) },
          { breaker: oneOf("closed", "open", "half_open"), held: orNull(oneOf("cooling", "open", "refused")) },
        ),
      ),
    }),
  },
};
