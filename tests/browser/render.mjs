// Draws GLB files by three.js in headless Chromium: node render.mjs CHROMIUM TASKS.json FOLDER
// TASKS: [{file, shots: [{name, ...options of window.draw}]}]. Writes NAME.png into FOLDER, prints what was loaded, as JSON.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const [executablePath, tasks, folder] = process.argv.slice(2);
const home = dirname(fileURLToPath(import.meta.url));
const profile = mkdtempSync(join(tmpdir(), "chromium-"));
const types = { html: "text/html", js: "text/javascript", glb: "model/gltf-binary" };
const browser = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  args: [
    "--no-sandbox", "--disable-gpu", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});
const problems = [];
const answers = [];
try {
  const page = await browser.newPage();
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  await page.route("**/*", (route) => {
    // every address is a file: those of this folder, and the one that a task names
    const path = decodeURIComponent(new URL(route.request().url()).pathname);
    const file = path.startsWith("/file/") ? path.slice("/file".length) : join(home, path);
    try {
      return route.fulfill({ body: readFileSync(file), contentType: types[path.split(".").pop()] });
    } catch {
      return route.fulfill({ status: 404 });
    }
  });
  await page.goto("http://scene.test/page.html");
  await page.waitForFunction("window.ready", undefined, { timeout: 60000 });
  for (const { file, shots } of JSON.parse(readFileSync(tasks, "utf8"))) {
    const answer = { file, ...(await page.evaluate((url) => window.load(url), `/file${file}`)), positions: {} };
    for (const { name, ...options } of shots) {
      const drawn = await page.evaluate((choice) => window.draw(choice), options);
      writeFileSync(join(folder, `${name}.png`), Buffer.from(drawn.png.split(",")[1], "base64"));
      answer.positions[name] = drawn.positions;
    }
    answers.push(answer);
  }
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
console.log(JSON.stringify({ answers, problems }));
