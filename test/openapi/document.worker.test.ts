/** The description of the API against the router: no route without a page, no page without a route. */
import { createExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe as about, expect, it } from "vitest";
import { app, routes } from "../../src/app.ts";
import { neededFor } from "../../src/identity/scopes.ts";
import { describe as describeAPI } from "../../src/openapi/document.ts";
import { ADMIN_TOKEN } from "../admin/control-plane.ts";
import { asFields, at, type Fields, misfits } from "./shapes.ts";

const description = describeAPI() as Fields;
const operations = Object.entries(asFields(description.paths)).flatMap(([path, methods]) =>
  Object.entries(asFields(methods)).map(([method, said]) => ({ path, method, said: asFields(said) })),
);
const routeOf = (path: string): string => path.replace(/\{(\w+)\}/g, ":$1");

about("the description of the API", () => {
  it("has every route, and no other", () => {
    const described = operations.map(({ path, method }) => `${method.toUpperCase()} ${routeOf(path)}`);
    expect(described.sort()).toEqual(routes.map(([method, path]) => `${method} ${path}`).sort());
  });

  it.each(routes.map(([method, path, handle]) => ({ method, path, needs: handle.needs })))(
    "says what $method $path needs",
    ({ method, path, needs }) => {
      const page = operations.find((one) => one.method === method.toLowerCase() && routeOf(one.path) === path);
      const { security, parameters = [], "x-sluice-scope": told } = page?.said ?? {};
      const scope = needs === "key" || needs === "nothing" ? needs : neededFor(method, needs);
      expect(told).toBe(scope === "nothing" ? "none" : scope);
      const ways = security as object[];
      expect(ways.length > 0).toBe(scope !== "nothing");
      const roles = ways.flatMap((way) => Object.values(way).flat());
      expect(new Set(roles)).toEqual(new Set(scope === "key" || scope === "nothing" ? [] : [scope]));
      for (const way of ways) if ("session" in way) expect("csrf" in way).toBe(method !== "GET");
      const named = (parameters as Fields[]).filter((one) => one.in === "path").map(({ name }) => name);
      expect(named).toEqual([...path.matchAll(/:(\w+)/g)].map(([, name]) => name));
    },
  );

  it("names each operation once", () => {
    const ids = operations.map(({ said }) => said.operationId);
    expect(new Set(ids).size).toBe(ids.length);
  });

  it("has no reference that leads nowhere, and no shape that nothing refers to", () => {
    const text = JSON.stringify(description);
    const used = [...text.matchAll(/"#\/components\/(\w+)\/(\w+)"/g)].map(
      ([, kind = "", name = ""]) => `${kind}/${name}`,
    );
    const there = ["schemas", "responses", "headers"].flatMap((kind) =>
      Object.keys(asFields(at(description, "components", kind))).map((name) => `${kind}/${name}`),
    );
    expect([...new Set(used)].sort()).toEqual(there.sort());
  });

  it("has examples of the shape that they are examples of", () => {
    const wrong: string[] = [];
    const look = (value: unknown, where: string): void => {
      if (Array.isArray(value)) for (const [i, each] of value.entries()) look(each, `${where}/${i}`);
      const fields = asFields(value);
      if ("schema" in fields && "example" in fields) {
        wrong.push(...misfits(description, fields.schema, fields.example).map((misfit) => `${where} ${misfit}`));
      }
      for (const [name, each] of Object.entries(fields)) if (name !== "example") look(each, `${where}/${name}`);
    };
    look(description.paths, "");
    expect(wrong).toEqual([]);
  });

  it("shows limits as they are read", () => {
    const made = operations.find(({ said }) => said.operationId === "createKey")?.said;
    const read = at(made, "requestBody", "content", "application/json", "schema", "properties", "limits", "properties");
    expect(at(description, "components", "schemas", "Limits", "properties")).toEqual(read);
  });

  const listed = operations.filter(({ path, method }) => method === "get" && path.startsWith("/admin/"));
  it.each(listed)("names parameters that $path takes", async ({ path, said }) => {
    for (const { name, in: where, example } of (said.parameters ?? []) as Fields[]) {
      if (where !== "query") continue;
      const query = new URLSearchParams({ [String(name)]: String(example ?? "x") });
      const request = new Request(`https://gw.test${path.replace(/\{\w+\}/g, "1")}?${query}`, {
        headers: { authorization: `Bearer ${ADMIN_TOKEN}` },
      });
      const response = await app.fetch(request, env, createExecutionContext());
      const text = await response.text();
      expect(text).not.toContain("unknown parameter");
      // One that has an example has a good one.
      if (example !== undefined) expect(text).not.toContain(`"${String(name)}: `);
    }
  });
});
