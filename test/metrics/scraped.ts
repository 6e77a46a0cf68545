/** A strict reader of Prometheus's text format 0.0.4: everything that the format demands or forbids is an error here. */

export type ScrapedFamily = { readonly type: string; readonly help: string; readonly samples: Map<string, number> };
export type Scrape = {
  readonly families: Map<string, ScrapedFamily>;
  /** Every label and its values. */
  readonly labels: Map<string, Set<string>>;
  readonly series: number;
  /** The value of one series, named as in the text, with its labels in their order there; 0 if it is not there. */
  value(series: string): number;
  /** The sum over the series of a family that have all these labels. */
  sum(name: string, labels?: Readonly<Record<string, string>>): number;
};

const NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\["\\n])*)"(?:,(?=.)|$)/;
const NUMBER = /^(?:\+Inf|-Inf|NaN|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)$/;

export function scraped(text: string): Scrape {
  if (!text.endsWith("\n")) throw new Error("the last line does not end");
  const families = new Map<string, ScrapedFamily>();
  const labels = new Map<string, Set<string>>();
  const all = new Map<string, { name: string; labels: Record<string, string>; value: number }>();
  const histograms = new Map<string, Map<string, { le: number; count: number }[]>>();
  let described: { name: string; help: string } | null = null;
  let current: { name: string; family: ScrapedFamily } | null = null;
  for (const line of text.slice(0, -1).split("\n")) {
    const fault = (what: string) => new Error(`${what}: ${line}`);
    const comment = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line);
    if (comment) {
      const [, kind, name = "", rest = ""] = comment;
      if (!NAME.test(name)) throw fault("not a name");
      if (kind === "HELP") {
        if (described || families.has(name)) throw fault("described twice");
        if (/\\[^\\n]/.test(rest)) throw fault("not escaped");
        described = { name, help: rest };
        continue;
      }
      if (!/^(counter|gauge|histogram)$/.test(rest)) throw fault("no such type");
      if (described?.name !== name) throw fault("HELP and TYPE of different families");
      if ((rest === "counter") !== name.endsWith("_total")) throw fault("only counters are called _total");
      current = { name, family: { type: rest, help: described.help, samples: new Map() } };
      families.set(name, current.family);
      described = null;
      continue;
    }
    const sample = SAMPLE.exec(line);
    if (!sample || !current || described) throw fault("not a sample of a described family");
    const [, name = "", inner, number = ""] = sample;
    const suffix = name.slice(current.name.length);
    const allowed = current.family.type === "histogram" ? ["_bucket", "_sum", "_count"] : [""];
    if (!name.startsWith(current.name) || !allowed.includes(suffix)) throw fault("belongs to another family");
    if (!NUMBER.test(number)) throw fault("not a number");
    const value = Number(number.replace("Inf", "Infinity"));
    if (current.family.type !== "gauge" && !(value >= 0)) throw fault("a count below 0");
    const own: Record<string, string> = {};
    for (let rest = inner ?? ""; rest !== ""; ) {
      const pair = LABEL.exec(rest);
      if (!pair) throw fault("not a label");
      const [whole, label = "", escaped = ""] = pair;
      if (Object.hasOwn(own, label) || label.startsWith("__")) throw fault("label twice, or reserved");
      own[label] = escaped.replace(/\\(.)/g, (_, mark: string) => (mark === "n" ? "\n" : mark));
      rest = rest.slice(whole.length);
      labels.set(label, (labels.get(label) ?? new Set()).add(own[label]));
    }
    const series = inner ? `${name}{${inner}}` : name;
    if (all.has(series)) throw fault("series twice");
    all.set(series, { name, labels: own, value });
    current.family.samples.set(series, value);
    if (suffix === "_bucket" || suffix === "_count") {
      const { le, ...others } = own;
      const key = JSON.stringify(others);
      const byLabels = histograms.get(current.name) ?? new Map<string, { le: number; count: number }[]>();
      histograms.set(current.name, byLabels);
      const buckets = byLabels.get(key) ?? [];
      byLabels.set(key, buckets);
      const bound = le === undefined ? Number.NaN : Number(le.replace("Inf", "Infinity"));
      const before = buckets.at(-1);
      if (suffix === "_bucket") {
        if (!(bound > (before?.le ?? Number.NEGATIVE_INFINITY))) throw fault("bounds do not rise");
        if (value < (before?.count ?? 0)) throw fault("buckets are not cumulative");
        buckets.push({ le: bound, count: value });
      } else if (before?.le !== Number.POSITIVE_INFINITY || before.count !== value) {
        throw fault("the count is not the bucket of +Inf");
      }
    }
  }
  return {
    families,
    labels,
    series: all.size,
    value: (series) => all.get(series)?.value ?? 0,
    sum: (name, wanted = {}) =>
      [...all.values()]
        .filter((one) => one.name === name && Object.entries(wanted).every(([key, word]) => one.labels[key] === word))
        .reduce((sum, { value }) => sum + value, 0),
  };
}
