// Opens an address in headless Chromium and does what lines of JSON on stdin say: node drive.mjs CHROMIUM ADDRESS
// {"op": "fill" | "click" | "check" | "choose" | "drag" | "shot", ...}. Answers each with a line of JSON, problems in it.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const [executablePath, address] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "chromium-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  viewport: { width: 1280, height: 800 },
  args: [
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});
const problems = [];
try {
  const page = context.pages()[0] ?? (await context.newPage());
  page.setDefaultTimeout(60000);
  page.on("pageerror", (error) => problems.push(String(error)));
  // the row of a control: the nearest box around its label that holds an input
  const row = (label) =>
    page.getByText(label, { exact: true }).first().locator("xpath=ancestor::*[.//input][1]").locator("input:not([type=hidden])").last();
  const operations = {
    fill: async ({ label, value }) => {
      await row(label).fill(String(value));
      await row(label).press("Enter");
    },
    click: ({ text }) => page.getByText(text, { exact: true }).first().click(),
    check: ({ label }) => row(label).click({ force: true }),
    choose: async ({ label, option }) => {
      await row(label).click();
      await page.getByRole("option", { name: option, exact: true }).click();
    },
    drag: async ({ from, to }) => {
      await page.mouse.move(...from);
      await page.mouse.down();
      await page.mouse.move(...to, { steps: 8 });
      await page.mouse.up();
    },
    scroll: async ({ to, by }) => {
      await page.mouse.move(...to);
      await page.mouse.wheel(0, by);
    },
    shot: ({ file }) => page.screenshot({ path: file }),
  };
  await page.goto(address);
  console.log(JSON.stringify({ opened: address }));
  for await (const line of createInterface({ input: process.stdin })) {
    const { op, ...options } = JSON.parse(line);
    try {
      await operations[op](options);
      console.log(JSON.stringify({ done: op, problems }));
    } catch (error) {
      console.log(JSON.stringify({ failed: op, problems: [...problems, String(error)] }));
    }
  }
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
