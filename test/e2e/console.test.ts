/** The console in a real Chromium, before the real bundle: what people see, also when the line drops. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, BrowserContext, Locator, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { type LocalWorker, startLocalWorker } from "../../scripts/local-runtime.ts";
import { startBrowser } from "../support/browser.ts";
import { leastContrast } from "../support/contrast.ts";
import { type Gateway, type Key, startGateway } from "../support/gateway.ts";
import { Wire } from "../support/wire.ts";

const MODEL = "claude-opus-5-5";
/** Slow enough that a test sees an answer grow. */
const SLOW = `${MODEL}+pace=20`;
const folder = mkdtempSync(join(tmpdir(), "sluice-console-"));
const shots = mkdtempSync(join(tmpdir(), "sluice-console-shots-"));
let simulator: LocalWorker;
let gateway: Gateway;
let browser: Browser;
let key: Key;
let line: Wire;
const contexts: BrowserContext[] = [];

beforeAll(async () => {
  const starting = startBrowser();
  simulator = await startLocalWorker({ config: "simulator/wrangler.toml", bundle: "dist/simulator" });
  gateway = await startGateway(simulator.url, { stateDir: folder });
  key = await gateway.makeKey();
  line = new Wire();
  await line.lay(gateway.port);
  browser = await starting;
});
afterEach(async () => {
  for (const context of contexts.splice(0)) await context.close();
});
afterAll(async () => {
  await browser?.close();
  await line?.remove();
  await gateway?.stop();
  await simulator?.stop();
  for (const path of [folder, shots]) rmSync(path, { recursive: true, force: true });
});

/** A tab of its own. What goes wrong in it, and every dialog, is written down. */
async function newTab(
  options: Parameters<Browser["newContext"]>[0] = {},
): Promise<Page & { readonly wrong: string[] }> {
  const context = await browser.newContext(options);
  contexts.push(context);
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  const wrong: string[] = [];
  page.on("pageerror", (error) => wrong.push(error.message));
  page.on("console", (message) => message.type() === "error" && wrong.push(message.text()));
  page.on("dialog", (dialog) => {
    wrong.push(`dialog: ${dialog.message()}`);
    dialog.dismiss().catch(() => {});
  });
  return Object.assign(page, { wrong });
}

async function enter(page: Page, port: number = gateway.port): Promise<void> {
  await page.goto(`http://127.0.0.1:${port}/console/`);
  await page.getByLabel("Key").fill(key.key);
  await page.getByRole("button", { name: "Open" }).click();
}

async function begin(page: Page, { system = "", model = MODEL } = {}): Promise<void> {
  await page.getByRole("button", { name: "New conversation" }).click();
  await page.getByLabel("Model").fill(model);
  await page.getByLabel("System prompt").fill(system);
  await page.getByRole("button", { name: "Begin" }).click();
  await message(page).waitFor();
}

const message = (page: Page): Locator => page.getByLabel("Your message", { exact: true });
const answers = (page: Page): Locator => page.getByRole("article", { name: "Claude" });
const questions = (page: Page): Locator => page.getByRole("article", { name: "You" });

async function say(page: Page, words: string): Promise<void> {
  await message(page).fill(words);
  await message(page).press("Enter");
}

/** Until so many answers are in the history: each has what can be done with it. */
async function answered(page: Page, count: number): Promise<void> {
  await answers(page)
    .nth(count - 1)
    .getByRole("button", { name: "Answer again" })
    .waitFor();
}

/** Until the line is there again, which the page may have found out by itself. */
async function comeBack(page: Page): Promise<void> {
  const banner = page.locator("#banner");
  const tryNow = page.getByRole("button", { name: "Try now" });
  // The button goes when the page tries by itself.
  while (await banner.isVisible()) await tryNow.click({ timeout: 500 }).catch(() => {});
}

const wordsOf = async (locator: Locator): Promise<string[]> =>
  ((await locator.locator(".prose").textContent()) ?? "").trim().split(/\s+/);

describe("the console's files", () => {
  it.each(["/", "/console", "/console/", "/console/app.js", "/console/styles.css", "/console/none", "/console/..%2fx"])(
    "V-02 %s comes with every header that keeps a page safe",
    async (path) => {
      const { headers } = await fetch(gateway.url + path, { redirect: "manual" });
      const policy = headers.get("content-security-policy")?.split("; ") ?? [];
      expect(policy).toEqual(
        expect.arrayContaining([
          "default-src 'none'",
          "script-src 'self'",
          "style-src 'self'",
          `connect-src 'self' ws://127.0.0.1:${gateway.port}`,
          "img-src 'self' data:",
          "frame-ancestors 'none'",
          "base-uri 'none'",
          "form-action 'self'",
        ]),
      );
      expect(policy.join()).not.toContain("unsafe");
      expect(Object.fromEntries(headers)).toMatchObject({
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "strict-transport-security": "max-age=31536000",
      });
    },
  );

  it("are found from the root, fresh each time, and nowhere else", async () => {
    const root = await fetch(gateway.url, { redirect: "manual" });
    expect([root.status, root.headers.get("location")]).toEqual([302, "/console/"]);
    const script = await fetch(`${gateway.url}/console/app.js`);
    expect([script.status, script.headers.get("cache-control")]).toEqual([200, "no-cache"]);
    const again = await fetch(`${gateway.url}/console/app.js`, {
      headers: { "if-none-match": script.headers.get("etag") ?? "" },
    });
    expect(again.status).toBe(304);
    for (const path of ["/console/none", "/app.js", "/console/a/b"]) {
      expect((await fetch(gateway.url + path)).status).toBe(404);
    }
  });
});

describe("a chat in the console", () => {
  it("asks for the key, streams an answer, and has everything after a reload", async () => {
    const page = await newTab();
    await page.goto(`http://127.0.0.1:${gateway.port}/`);
    await page.getByLabel("Key").fill("sk-sluice-wrong");
    await page.keyboard.press("Enter");
    await page.getByText("The key is not valid").waitFor();
    await enter(page);
    await begin(page, { system: "Be brief.", model: SLOW });
    await say(page, "repeat 60 word");
    await page.getByRole("button", { name: "Stop" }).waitFor();
    const seen = new Set<number>();
    while ((await page.getByRole("button", { name: "Answer again" }).count()) === 0) {
      if ((await answers(page).locator(".prose").count()) > 0) seen.add((await wordsOf(answers(page))).length);
    }
    expect(seen.size).toBeGreaterThan(3);
    expect(await wordsOf(answers(page))).toEqual(Array.from({ length: 60 }, () => "word"));
    expect(await page.getByRole("button", { name: "Stop" }).isVisible()).toBe(false);
    expect(await answers(page).locator(".usage").textContent()).toMatch(
      /^\d+ in \(\d+% from cache\) · \d+ out · \$0\.0/,
    );
    const used = await answers(page).locator(".usage").textContent();
    expect((await page.locator("#announce").textContent())?.split("word")).toHaveLength(61);
    await page.reload();
    await answered(page, 1);
    expect(await wordsOf(answers(page))).toHaveLength(60);
    expect(await questions(page).locator("p").first().textContent()).toBe("repeat 60 word");
    expect(await answers(page).locator(".usage").textContent()).toBe(used);
    expect(page.url()).not.toContain("sk-");
    expect(await page.evaluate(() => JSON.stringify(localStorage) + document.cookie)).toBe("{}");
    await page.getByRole("button", { name: "Forget the key" }).click();
    await page.reload();
    await page.getByLabel("Key").waitFor();
    // The wrong key's 401 is the only thing a browser may complain about.
    expect(page.wrong.filter((text) => !text.includes("401"))).toEqual([]);
  });

  it("goes on where it was when the line drops in the middle of an answer", async () => {
    const page = await newTab();
    await enter(page, line.port);
    await begin(page, { model: SLOW });
    await say(page, "repeat 90 drop");
    await answers(page).locator(".prose").waitFor();
    line.cut();
    await page.getByText("The line dropped.").waitFor();
    const before = (await wordsOf(answers(page))).length;
    expect(before).toBeLessThan(90);
    // Said while there is no line, and heard once there is one.
    await say(page, "say: after the drop");
    await page.getByText("Is sent as soon as there is a line.").waitFor();
    line.mend();
    await comeBack(page);
    await answered(page, 2);
    await page.getByRole("button", { name: /^repeat 90 drop/ }).waitFor();
    expect(await wordsOf(answers(page).first())).toEqual(Array.from({ length: 90 }, () => "drop"));
    expect(await answers(page).last().locator(".prose").textContent()).toBe("after the drop");
    expect(await questions(page).count()).toBe(2);
    expect(await page.locator("#banner").isVisible()).toBe(false);
  });

  it("survives a gateway that is killed and started again", async () => {
    const page = await newTab();
    await enter(page);
    await begin(page);
    await say(page, "say: before");
    await answered(page, 1);
    const { port } = gateway;
    await gateway.kill();
    await page.getByText("The line dropped.").waitFor();
    gateway = await startGateway(simulator.url, { stateDir: folder, port });
    await comeBack(page);
    await say(page, "say: behind");
    await answered(page, 2);
    expect(await answers(page).locator(".prose").allTextContents()).toEqual(["before", "behind"]);
  });

  it("stops an answer with Esc, edits, answers again, and goes back to another version", async () => {
    const page = await newTab();
    await enter(page);
    await begin(page, { model: SLOW });
    await say(page, "repeat 2000 long");
    await answers(page).locator(".prose").waitFor();
    await page.keyboard.press("Escape");
    await page.getByText("This answer is not complete.").waitFor();
    expect((await wordsOf(answers(page))).length).toBeLessThan(2_000);
    await page.getByRole("button", { name: "Edit" }).click();
    await page.getByLabel("Your message, in other words").fill("say: edited");
    await page.keyboard.press("Enter");
    await page.getByText("2 of 2").waitFor();
    await answered(page, 1);
    expect(await answers(page).locator(".prose").allTextContents()).toEqual(["edited"]);
    await page.getByRole("button", { name: "Answer again" }).click();
    await answers(page).getByText("2 of 2").waitFor();
    expect(await answers(page).count()).toBe(1);
    // The gateway knows where a version went on, also when the page has forgotten.
    await say(page, "say: and on");
    await answered(page, 2);
    await questions(page).getByRole("button", { name: "Earlier version" }).click();
    await page.getByText("This answer is not complete.").waitFor();
    expect(await questions(page).locator("p").allTextContents()).toEqual(["repeat 2000 long"]);
    await page.reload();
    await questions(page).getByRole("button", { name: "Later version" }).click();
    await answered(page, 2);
    expect(await answers(page).locator(".prose").allTextContents()).toEqual(["edited", "and on"]);
  });

  it("is told to a second viewer as it comes", async () => {
    const [first, second] = [await newTab(), await newTab()];
    await enter(first);
    await begin(first, { model: SLOW });
    await say(first, "say: shared once");
    await answered(first, 1);
    await enter(second);
    await second.getByRole("button", { name: /shared once/ }).click();
    await answered(second, 1);
    await say(first, "repeat 60 both");
    await answers(second).nth(1).locator(".prose").waitFor();
    expect(await second.getByRole("button", { name: "Stop" }).isVisible()).toBe(true);
    expect((await wordsOf(answers(second).last())).length).toBeLessThan(60);
    // One that waits is taken back, and is there to be said otherwise.
    await say(first, "say: too early");
    await first.getByRole("button", { name: "Take it back" }).click();
    await first.getByRole("button", { name: "Take it back" }).waitFor({ state: "detached" });
    expect(await message(first).inputValue()).toBe("say: too early");
    // And to one who comes in the middle, from the beginning of the answer.
    await second.reload();
    await answered(second, 2);
    expect(await wordsOf(answers(second).last())).toHaveLength(60);
    expect(await questions(second).count()).toBe(2);
  });

  it("folds thinking, shows tool calls, and asks for their results", async () => {
    const made = await fetch(`${gateway.url}/v1/conversations`, {
      method: "POST",
      headers: { "x-api-key": key.key, "content-type": "application/json" },
      body: JSON.stringify({
        model: "claude-opus-5-5",
        tools: [{ name: "get_weather", input_schema: { type: "object", properties: { city: { type: "string" } } } }],
        options: { thinking: { type: "adaptive" } },
        metadata: { title: "weather" },
      }),
    });
    expect(made.ok).toBe(true);
    const page = await newTab();
    await enter(page);
    await page.getByRole("button", { name: /weather/ }).click();
    await say(page, "use tool get_weather");
    await page.getByLabel("Result of get_weather").fill("sunny");
    expect(await message(page).isVisible()).toBe(false);
    await answered(page, 1);
    const [thinking, call] = [answers(page).locator("details.thinking"), answers(page).locator("details.tool_use")];
    expect(await thinking.evaluate((details: HTMLDetailsElement) => details.open)).toBe(false);
    expect(await thinking.locator("pre").textContent()).not.toBe("");
    expect(await call.locator("summary").textContent()).toBe("Calls get_weather");
    // What is typed for a tool is still there when the page has something new to show.
    expect(await page.getByLabel("Result of get_weather").inputValue()).toBe("sunny");
    await page.getByRole("button", { name: "Send results" }).click();
    await answered(page, 2);
    expect(await answers(page).last().locator(".prose").textContent()).toContain("sunny");
    await message(page).waitFor();
  });

  it("can be had with the keyboard alone, with the focus in sight", async () => {
    const page = await newTab();
    await page.goto(`http://127.0.0.1:${gateway.port}/console/`);
    await page.keyboard.type(key.key);
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "New conversation" }).waitFor();
    await page.keyboard.press("Tab");
    expect(await focused(page)).toEqual({ name: "New conversation", seen: true });
    await page.keyboard.press("Enter");
    expect(await focused(page)).toEqual({ name: "Model", seen: true });
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.activeElement?.id === "words");
    expect(await focused(page)).toEqual({ name: "Your message", seen: true });
    await page.keyboard.type("say: one");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("two");
    await page.keyboard.press("Enter");
    await answered(page, 1);
    expect(await answers(page).locator(".prose").textContent()).toContain("two");
    const names: string[] = [];
    for (let n = 0; n < 4; n++) {
      await page.keyboard.press("Shift+Tab");
      const { name, seen } = await focused(page);
      expect(seen).toBe(true);
      names.push(name);
    }
    expect(names).toEqual(["Answer again", "Edit", "Messages", "Forget the key"]);
  });
});

/** What has the focus, and whether that can be seen. */
function focused(page: Page): Promise<{ name: string; seen: boolean }> {
  return page.evaluate(() => {
    const element = document.activeElement as HTMLInputElement | null;
    const label =
      element?.labels?.[0]?.textContent ?? element?.getAttribute("aria-label") ?? element?.textContent ?? "";
    const { outlineStyle, outlineWidth } = getComputedStyle(element ?? document.body);
    return { name: label.trim(), seen: outlineStyle === "solid" && outlineWidth === "3px" };
  });
}

describe("what others wrote", () => {
  const HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "[link](javascript:alert(1)) ![x](http://evil.example/x.png)",
    "<svg onload=alert(1)><a xlink:href='javascript:alert(1)'>x</a></svg>",
    "```html\n<iframe src=javascript:alert(1)></iframe>\n```",
    '"><b onmouseover=alert(1)>`<i>`</b><style>*{display:none}</style>',
  ];

  it("V-01 is only ever text: no element, no dialog, no violation of the page's own policy", async () => {
    const page = await newTab();
    await enter(page);
    const elements = (): Promise<number> =>
      page
        .locator(
          "img, script:not([src='app.js']), svg, iframe, a:not([href^='http']), b, i, style, object, embed, [onerror], [onload]",
        )
        .count();
    await begin(page, { system: HOSTILE.join("\n") });
    let count = 0;
    for (const text of HOSTILE) {
      await say(page, `say: ${text}`);
      await answered(page, ++count);
      expect(await questions(page).last().locator("p").first().textContent()).toBe(`say: ${text}`);
    }
    const told = (await answers(page).allTextContents()).join("\n");
    for (const part of ["<img src=x", "</script>", "](javascript:", "<svg onload", "<iframe", "<style>"]) {
      expect(told).toContain(part);
    }
    expect(await elements()).toBe(0);
    expect(await page.title()).toContain("<img src=x");
    await page.reload();
    await answered(page, HOSTILE.length);
    expect(await elements()).toBe(0);
    expect(page.wrong).toEqual([]);
  });
});

describe("the look", () => {
  it("light and dark, wide and narrow: nothing wider than the page, and every text can be read", async () => {
    const page = await newTab();
    await enter(page);
    await begin(page);
    const answer = [
      `# Head\n\nSome \`code\`, **bold**, https://example.com, a word of ${"many".repeat(60)} letters`,
      `\`\`\`\n${"wide ".repeat(80)}\n\`\`\``,
      `| a | b |\n| - | - |\n| ${"cell ".repeat(60)} | ${"x".repeat(300)} |`,
      "> quoted\n\n- one\n  - two",
    ];
    await say(page, `say: ${answer.join("\n\n")}`);
    await answered(page, 1);
    for (const colorScheme of ["light", "dark"] as const) {
      for (const width of [1_200, 360, 320]) {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize({ width, height: 720 });
        await page.screenshot({ path: join(shots, `${colorScheme}-${width}.png`) });
        expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(width);
        expect(await page.evaluate(leastContrast)).toBeGreaterThanOrEqual(4.5);
      }
    }
  });
});
