// Prints the last line of a CI run from vitest's JSON report. Plain JavaScript: any Node can run it.
import { readFileSync } from "node:fs";

const report = JSON.parse(readFileSync(new URL("../test-report.json", import.meta.url), "utf8"));
const failed =
  report.numFailedTests +
  report.testResults.filter((file) => file.status === "failed" && file.assertionResults.length === 0).length;
console.log(`${report.numPassedTests} passed, ${failed} failed`);
