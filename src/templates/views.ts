/** Templates as the control plane answers them: snake_case, times in RFC 3339. Pure. */
import type { Difference } from "./diff.ts";
import type { TemplateRecord, VersionRecord } from "./store.ts";

const rfc3339 = (at: number): string => new Date(at).toISOString();

/** A template: `newest_version` is its last one, `revision` what a change may name to be sure of what it changes. */
export function templateView({ name, workspaces, state, labels, newest, revision, ...times }: TemplateRecord) {
  return {
    name,
    workspaces,
    state,
    labels,
    newest_version: newest,
    revision,
    created_at: rfc3339(times.created_at),
    updated_at: rfc3339(times.updated_at),
  };
}

/** A version in a list, without what it holds. */
export function versionSummary(record: Omit<VersionRecord, "content">, labels: TemplateRecord["labels"]) {
  const { name, version, note, created_by, created_at } = record;
  return { name, version, labels: labelsOf(version, labels), note, created_by, created_at: rfc3339(created_at) };
}

/** A version with what it holds. */
export function versionView(record: VersionRecord, labels: TemplateRecord["labels"]) {
  return { ...versionSummary(record, labels), content: record.content };
}

/** Names of the labels that may lead to a version. */
function labelsOf(version: number, labels: TemplateRecord["labels"]): readonly string[] {
  return Object.keys(labels).filter((name) => {
    const label = labels[name] ?? [];
    return typeof label === "number" ? label === version : label.some((each) => each.version === version);
  });
}

export function diffView(name: string, from: number, to: number, differences: readonly Difference[]) {
  return { name, from_version: from, to_version: to, differences };
}
