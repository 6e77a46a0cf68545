/** The page of administrators in a real Chromium, before the real bundle. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, BrowserContext, Locator, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { startBrowser } from "../support/browser.ts";
import { leastContrast } from "../support/contrast.ts";
import { ADMIN_TOKEN, type Gateway, startGateway } from "../support/gateway.ts";

const HOSTILE = [
  "<img src=x onerror=alert(1)>",
  "</script><script>alert(1)</script>",
  "<svg onload=alert(1)>",
  '"><b onmouseover=alert(1)>x</b>',
  "javascript:alert(1)",
];
const shots = mkdtempSync(join(tmpdir(), "sluice-admin-shots-"));
let gateway: Gateway;
let browser: Browser;
const contexts: BrowserContext[] = [];

beforeAll(async () => {
  const starting = startBrowser();
  // Nothing is asked of Claude here.
  gateway = await startGateway("http://127.0.0.1:9");
  browser = await starting;
});
afterEach(async () => {
  for (const context of contexts.splice(0)) await context.close();
});
afterAll(async () => {
  await browser?.close();
  await gateway?.stop();
  rmSync(shots, { recursive: true, force: true });
});

/** A browser of its own. What goes wrong in it, but for answers of 401, and every dialog, is written down. */
async function newTab(): Promise<Page & { readonly wrong: string[] }> {
  const context = await browser.newContext({ locale: "en-GB" });
  contexts.push(context);
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  const wrong: string[] = [];
  page.on("pageerror", (error) => wrong.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error" && !message.text().includes("401")) wrong.push(message.text());
  });
  page.on("dialog", (dialog) => {
    wrong.push(`dialog: ${dialog.message()}`);
    dialog.dismiss().catch(() => {});
  });
  return Object.assign(page, { wrong });
}

async function signIn(page: Page, credential = ADMIN_TOKEN, host = "127.0.0.1"): Promise<void> {
  await page.goto(`http://${host}:${gateway.port}/console/admin.html`);
  await page.getByLabel("Admin token, key or token").fill(credential);
  await page.getByRole("button", { name: "Sign in" }).click();
}

const title = (page: Page): Locator => page.getByRole("heading", { name: "Changes" });
const items = (page: Page): Locator => page.locator("#changes > li");
const cookies = async (page: Page) => (await page.context().cookies()).map(({ name }) => name);

describe("signing in", () => {
  it.each(["127.0.0.1", "localhost"])(
    "trades the admin token for a cookie, also over plain http at %s",
    async (host) => {
      const page = await newTab();
      await signIn(page, ADMIN_TOKEN, host);
      await title(page).waitFor();
      expect(await page.locator("#session dd").allTextContents()).toEqual([
        "the admin token",
        "everything",
        expect.stringMatching(/\d{2}:\d{2}/),
      ]);
      const [cookie] = await page.context().cookies();
      expect(cookie).toMatchObject({ name: "__Host-sluice_session", httpOnly: true, secure: true, sameSite: "Strict" });
      const kept = await page.evaluate(() => JSON.stringify([localStorage, sessionStorage, document.cookie]));
      expect(kept).toBe('[{},{},""]');
      expect(await page.getByLabel("Admin token, key or token").inputValue()).toBe("");
      await page.reload();
      await title(page).waitFor();
      await page.getByRole("button", { name: "Sign out" }).click();
      await page.getByLabel("Admin token, key or token").waitFor();
      expect(await cookies(page)).toEqual([]);
      await page.reload();
      await page.getByLabel("Admin token, key or token").waitFor();
      expect(page.wrong).toEqual([]);
    },
  );

  it("takes a key for what it may, and says so", async () => {
    const reader = await gateway.makeKey({ scopes: ["admin:read"] });
    const page = await newTab();
    await signIn(page, reader.key);
    await title(page).waitFor();
    expect((await page.locator("#session dd").allTextContents()).slice(0, 2)).toEqual([
      reader.id,
      "read the control plane",
    ]);
    // The session dies with its key, and the page notices when it asks.
    await gateway.admin(`keys/${reader.id}`, { method: "DELETE" });
    await page.getByRole("button", { name: "Look again" }).click();
    await page.getByText("Your session has ended.").waitFor();
  });

  it.each([
    ["what is none", () => "sk-sluice-wrong", "This is no credential of an administrator"],
    ["what no header can carry", () => "schlüssel", "This is no credential of an administrator"],
    ["a key that may not", async () => (await gateway.makeKey()).key, "This may not read the control plane."],
  ])("refuses %s in words", async (_, credential, words) => {
    const page = await newTab();
    await signIn(page, await credential());
    await page.getByText(words).waitFor();
    expect(await cookies(page)).toEqual([]);
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("credential");
    expect(page.wrong.filter((text) => !text.includes("403"))).toEqual([]);
  });

  it("ends when its time is over, without a call", async () => {
    const page = await newTab();
    const soon = new Date(Date.now() + 1_500).toISOString();
    const short = await gateway.makeKey({ scopes: ["admin"] });
    await page.route("**/admin/session", async (route) => {
      const answer = await route.fetch();
      if (route.request().method() !== "GET" || answer.status() !== 200) return route.fulfill({ response: answer });
      return route.fulfill({ response: answer, json: { ...(await answer.json()), expires_at: soon } });
    });
    await signIn(page, short.key);
    await page.getByText("Your session has ended.").waitFor();
  });
});

describe("the changes", () => {
  it("V-01 show what others wrote as text, field by field, before and after", async () => {
    const ids: string[] = [];
    for (const name of HOSTILE) ids.push((await gateway.makeKey({ name, metadata: { note: name } })).id);
    const json = { name: "plain", limits: { requests_per_minute: 5 } };
    await gateway.admin(`keys/${ids[0]}`, { method: "PATCH", json });
    const page = await newTab();
    await signIn(page);
    await items(page).first().waitFor();
    expect(await items(page).first().locator("strong").textContent()).toBe("session.open");
    const [changed, ...made] = (await items(page).all()).slice(1, HOSTILE.length + 2);
    await changed?.locator("summary").click();
    await changed?.locator("dt").first().waitFor();
    expect(await changed?.locator("dt").allTextContents()).toEqual(["name", "limits.requests_per_minute"]);
    expect(await changed?.locator("dd").allTextContents()).toEqual([
      `Before: ${JSON.stringify(HOSTILE[0])}After: "plain"`,
      "After: 5",
    ]);
    for (const [i, item] of made.entries()) {
      await item.locator("summary").click();
      const name = item.locator("dd", { hasText: JSON.stringify(HOSTILE[HOSTILE.length - 1 - i]) });
      await name.first().waitFor();
    }
    const odd = "img, script:not([src='admin.js']), svg, iframe, a, b, i, style, object, embed, [onerror], [onload]";
    expect(await page.locator(odd).count()).toBe(0);
    expect(page.wrong).toEqual([]);
  });

  it("are paged without one missing or twice, while others go on writing", async () => {
    for (let n = 0; n < 60; n++) await gateway.makeKey({ name: `paged ${n}` });
    const page = await newTab();
    await signIn(page);
    const older = page.getByRole("button", { name: "Show older ones" });
    await older.waitFor();
    while (await older.isVisible()) {
      await gateway.makeKey({ name: "meanwhile" });
      const before = await items(page).count();
      await older.click();
      await page.waitForFunction((n) => document.querySelectorAll("#changes > li").length > n, before);
    }
    const names = (await items(page).locator("bdi:first-of-type").allTextContents()).filter((t) =>
      t.startsWith("paged"),
    );
    expect(names).toEqual(Array.from({ length: 60 }, (_, n) => `paged ${59 - n}`));
    await page.getByRole("button", { name: "Look again" }).click();
    await items(page).first().getByText("meanwhile").waitFor();
    expect(await items(page).count()).toBe(25);
  });

  it("light and dark, wide and narrow: nothing wider than the page, and every text can be read", async () => {
    const key = await gateway.makeKey({ name: "w".repeat(100), metadata: { a: "long".repeat(100) } });
    await gateway.admin(`keys/${key.id}`, { method: "PATCH", json: { name: "n", models: ["claude-haiku-*"] } });
    const page = await newTab();
    for (const inside of [false, true]) {
      if (inside) {
        await signIn(page);
        for (const n of [1, 2]) await items(page).nth(n).locator("summary").click();
        await page.locator(".page").evaluate((scrolled) => scrolled.scrollTo(0, 0));
      } else await page.goto(`${gateway.url}/console/admin.html`);
      for (const colorScheme of ["light", "dark"] as const) {
        for (const width of [1_200, 360, 320]) {
          await page.emulateMedia({ colorScheme });
          await page.setViewportSize({ width, height: 720 });
          await page.screenshot({ path: join(shots, `${inside ? "desk" : "door"}-${colorScheme}-${width}.png`) });
          expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(width);
          expect(await page.evaluate(leastContrast)).toBeGreaterThanOrEqual(4.5);
        }
      }
    }
    expect(page.wrong).toEqual([]);
  });

  it("can be had with the keyboard alone", async () => {
    const page = await newTab();
    await page.goto(`${gateway.url}/console/admin.html`);
    await page.getByLabel("Admin token, key or token").waitFor();
    await page.keyboard.type(ADMIN_TOKEN);
    await page.keyboard.press("Enter");
    await items(page).first().waitFor();
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("changes-title");
    await page.keyboard.press("Tab");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("again");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await items(page).first().locator("dl").waitFor();
  });
});

it("V-02 V-04 the page comes with every header that keeps it safe, and its calls with what no other site's have", async () => {
  for (const path of ["admin.html", "admin.js"]) {
    const { status, headers } = await fetch(`${gateway.url}/console/${path}`);
    expect(status).toBe(200);
    expect(headers.get("content-security-policy")).toContain("default-src 'none'; script-src 'self'; style-src 'self'");
    expect(headers.get("content-security-policy")).not.toContain("unsafe");
  }
  const page = await newTab();
  await signIn(page);
  await title(page).waitFor();
  // A page of nobody's, in the same browser: a form needs nobody's leave.
  const other = await page.context().newPage();
  const form = `<form method="post" enctype="text/plain" action="${gateway.url}/admin/keys"><input name='{"name":"csrf","x":"' value='"}'><button>go</button></form>`;
  await other.setContent(form);
  const answer = other.waitForResponse(`${gateway.url}/admin/keys`);
  await other.getByRole("button").click();
  expect([401, 403]).toContain((await answer).status());
  // Our own page, if it forgets the word.
  const own = await page.evaluate(async () => {
    return (await fetch("/admin/keys", { method: "POST", body: '{"name":"csrf"}' })).status;
  });
  expect(own).toBe(403);
  const { data } = (await (await gateway.admin("keys?limit=1")).json()) as { data: { name: string }[] };
  expect(data[0]?.name).not.toBe("csrf");
});
