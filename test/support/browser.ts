/** A real Chromium for tests of the console: the one of `@sparticuz/chromium` on Linux, elsewhere the installed Chrome. */
import { type Browser, chromium as playwright } from "playwright-core";

/**
 * Not the arguments that come with the package: they are for one short call in a lambda (a single process, which a closed
 * tab takes along) and switch off the very rules of the web that the tests are about. Root has no sandbox.
 */
const ARGUMENTS = ["--no-sandbox", "--no-zygote"];

/** Throws when there is none: a console that no browser has seen is not tested. */
export async function startBrowser(): Promise<Browser> {
  if (process.platform !== "linux") return playwright.launch({ channel: "chrome", headless: true });
  const { default: packed } = await import("@sparticuz/chromium");
  return playwright.launch({ executablePath: await packed.executablePath(), args: ARGUMENTS, headless: true });
}
