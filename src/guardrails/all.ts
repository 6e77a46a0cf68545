/** All that looks into texts: one chunk, loaded by the first call whose policy asks for it (hotpath/guard.ts). */
export { findingsText, findingsWith } from "./guard.ts";
export { counting, stricter } from "./policy.ts";
export { Rails } from "./rails.ts";
export { PlaceholderTable } from "./table.ts";
