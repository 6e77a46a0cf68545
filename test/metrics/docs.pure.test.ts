/** The dashboard and the page on metrics name what exists, and all of it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { FAMILIES } from "../../src/metrics/families.ts";
import { VOCABULARY } from "../../src/metrics/labels.ts";

const DOCS = join(import.meta.dirname, "../../docs");
const page = readFileSync(join(DOCS, "metrics.md"), "utf8");

type Target = { expr: string; datasource: unknown };
type Panel = {
  id: number;
  type: string;
  title: string;
  datasource?: unknown;
  targets?: Target[];
  gridPos: { x: number; y: number; w: number; h: number };
};
type Dashboard = {
  __inputs: { name: string; type: string; pluginId: string }[];
  __requires: { type: string; id: string }[];
  id: null;
  panels: Panel[];
};
const dashboard = JSON.parse(readFileSync(join(DOCS, "grafana-dashboard.json"), "utf8")) as Dashboard;
const expressions = dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));

/** What a query may say after `sluice_`: families, and of histograms their three parts. */
const kinds = new Map(
  FAMILIES.flatMap(({ name, type }): [string, string][] =>
    type === "histogram" ? ["_bucket", "_sum", "_count"].map((part) => [`${name}${part}`, "counter"]) : [[name, type]],
  ),
);
const labelsOf: Readonly<Record<string, readonly string[]>> = { ...VOCABULARY, upstream: [] };

/** What is wrong with a query: names that do not exist, and counters that are looked at as if they were gauges. */
function faults(query: string): string[] {
  const found: string[] = [];
  for (const { 0: name, index } of query.matchAll(/\bsluice_\w+/g)) {
    const kind = kinds.get(name);
    if (!kind) found.push(`no family ${name}`);
    const ranged = /^(?:\{[^}]*\})?\[/.test(query.slice(index + name.length));
    if (kind === "counter" && !ranged) found.push(`${name} needs a range`);
    if (kind === "gauge" && ranged) found.push(`${name} is a gauge`);
  }
  for (const [, inner = ""] of query.matchAll(/\{([^}]*)\}/g)) {
    for (const [, label = "", operator = "", text = ""] of inner.matchAll(/(\w+)(=~|!~|!=|=)"([^"]*)"/g)) {
      if (label === "le" || label === "job") continue;
      const words = labelsOf[label];
      if (!words) found.push(`no label ${label}`);
      const matches = operator.includes("~") ? new RegExp(`^(?:${text})$`) : null;
      if (words && !words.some((word) => (matches ? matches.test(word) : word === text)))
        found.push(`no ${label} ${text}`);
    }
  }
  for (const [, labels = ""] of query.matchAll(/\bby \(([^)]*)\)/g)) {
    for (const label of labels.split(", ")) if (label !== "le" && !labelsOf[label]) found.push(`no label ${label}`);
  }
  if (query.split("(").length !== query.split(")").length) found.push("brackets do not match");
  return found;
}

describe("the dashboard", () => {
  it("asks only for families and labels that exist, counters as rates, gauges as they are", () => {
    expect(expressions.length).toBeGreaterThan(30);
    expect(expressions.flatMap(faults)).toEqual([]);
    // The check itself sees what is wrong.
    expect(faults("sum by (colour) (sluice_requests_total)")).toHaveLength(2);
    expect(faults('rate(sluice_open_streams[5m]) + sluice_nothing{reason="x"}')).toHaveLength(3);
  });

  it("shows every family", () => {
    const shown = expressions.join(" ");
    expect(FAMILIES.map(({ name }) => name).filter((name) => !shown.includes(name))).toEqual([]);
  });

  it("can be imported: a data source as an input, used everywhere, panels side by side and each once", () => {
    expect(dashboard.id).toBeNull();
    expect(dashboard.__inputs).toMatchObject([{ name: "DS_PROMETHEUS", type: "datasource", pluginId: "prometheus" }]);
    const source = { type: "prometheus", uid: `\${${dashboard.__inputs[0]?.name}}` };
    const drawn = dashboard.panels.filter(({ type }) => type !== "row");
    for (const { datasource, targets = [] } of drawn) {
      expect([datasource, ...targets.map((target) => target.datasource)]).toEqual(
        new Array(targets.length + 1).fill(source),
      );
      expect(targets.length).toBeGreaterThan(0);
    }
    const required = dashboard.__requires.filter(({ type }) => type === "panel").map(({ id }) => id);
    expect(new Set(drawn.map(({ type }) => type))).toEqual(new Set(required));
    const ids = dashboard.panels.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
    const cells = new Set<string>();
    for (const { title, gridPos: at } of dashboard.panels) {
      expect([title, at.x + at.w <= 24]).toEqual([title, true]);
      for (let x = at.x; x < at.x + at.w; x++) {
        for (let y = at.y; y < at.y + at.h; y++) {
          expect([title, cells.has(`${x},${y}`)]).toEqual([title, false]);
          cells.add(`${x},${y}`);
        }
      }
    }
  });
});

describe("docs/metrics.md", () => {
  const rows = new Map(
    [...page.matchAll(/^\| `(sluice_\w+)` \| (\w+) \|([^|]*)\|/gm)].map(([, name = "", type, labels = ""]) => [
      name,
      { type, labels: [...labels.matchAll(/`(\w+)`/g)].map(([, label]) => label) },
    ]),
  );

  it("has a row for every family, with its type and labels, and for no other", () => {
    expect([...rows].map(([name, { type }]) => [name, type])).toEqual(FAMILIES.map(({ name, type }) => [name, type]));
    const labels = [...rows.values()].flatMap((row) => row.labels);
    expect(new Set(labels)).toEqual(new Set([...Object.keys(VOCABULARY), "upstream", "version"]));
  });

  it("names every word of every label but the models'", () => {
    for (const [label, words] of Object.entries(VOCABULARY)) {
      const row = new RegExp(`^\\| \`${label}\` \\| (.*) \\|$`, "m").exec(page)?.[1] ?? "";
      const missing = words.filter((word) => !row.includes(word.replace(/^workspace_.*/, "workspace_")));
      if (label !== "model") expect([label, missing]).toEqual([label, []]);
    }
  });

  it("asks in its queries and alerts only for what exists", () => {
    const queries = [...page.matchAll(/```promql\n([\s\S]*?)```/g)].flatMap(([, block = ""]) =>
      block.split("\n").filter((line) => line !== "" && !line.startsWith("#")),
    );
    const alerts = [...page.matchAll(/^ +expr: (.*)$/gm)].map(([, expr = ""]) => expr);
    expect(queries.length).toBeGreaterThan(5);
    expect(alerts.length).toBeGreaterThan(8);
    expect([...queries, ...alerts].flatMap(faults)).toEqual([]);
  });
});
