/** All handlers of the control plane: one chunk, loaded by the first call that asks for one of them. */
export { exportAuditCsv, exportAuditNdjson, listAudit, verifyAudit } from "./admin/audit.ts";
export { readChanges } from "./admin/changes.ts";
export { changeIssuer, createIssuer, deleteIssuer, listIssuers, readIssuer, testIssuer } from "./admin/issuers.ts";
export { changeKey, createKey, listKeys, readKey, revokeKey, rotateKey } from "./admin/keys.ts";
export { readPrices, replacePrices, restorePrices } from "./admin/prices.ts";
export { closeSession, listOpenSessions, openSession, readSession, revokeSession } from "./admin/sessions.ts";
export {
  changeTemplateByName,
  diffTemplate,
  listAllTemplates,
  listTemplateVersions,
  publishTemplate,
  readTemplate,
  readTemplateVersion,
} from "./admin/templates.ts";
export {
  changeUpstream,
  createUpstream,
  drainUpstream,
  listUpstreams,
  readUpstream,
  removeUpstream,
  resealAll,
  testUpstream,
} from "./admin/upstreams.ts";
export { listUsage } from "./admin/usage.ts";
export {
  changeWorkspace,
  createWorkspace,
  listWorkspaces,
  purgeWorkspaceCache,
  readWorkspace,
} from "./admin/workspaces.ts";
export { readMetrics } from "./metrics/scrape.ts";
