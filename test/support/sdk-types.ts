/** Whether bodies are what Anthropic's SDK types say: they are written into a module, and the compiler reads it. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Inside the project, so that the module finds the SDK. */
const WORKSHOP = "node_modules/.cache";
const HEAD = `import type { MessageCreateParams } from "@anthropic-ai/sdk/resources/beta/messages/messages";
/** Fields that the older API version still takes, gone from the types. */
type Sampling = { temperature?: number; top_p?: number; top_k?: number };
type Body = MessageCreateParams & Sampling;
`;

/** What the compiler says against any of the bodies; empty: nothing. */
export function typeProblems(bodies: readonly unknown[]): string {
  mkdirSync(WORKSHOP, { recursive: true });
  const folder = mkdtempSync(join(WORKSHOP, "bodies-"));
  try {
    const lines = bodies.map((body, i) => `export const body${i}: Body = ${JSON.stringify(body)};\n`);
    writeFileSync(join(folder, "bodies.ts"), HEAD + lines.join(""));
    const compilerOptions = {
      noEmit: true,
      strict: true,
      module: "nodenext",
      target: "es2022",
      skipLibCheck: true,
      types: [],
    };
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["bodies.ts"] }));
    return spawnSync("node_modules/.bin/tsc", ["-p", folder], { encoding: "utf8" }).stdout;
  } finally {
    rmSync(folder, { recursive: true });
  }
}
