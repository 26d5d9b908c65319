// The site in a real browser, at the width of a phone and of a desk:
//   node site/browser.mjs FOLDER CHROMIUM SHOTS
// Serves FOLDER on this machine, prints one line of JSON for each check, and keeps pictures in SHOTS.
// Needs playwright-core (found from the folder it is run in, or NODE_PATH) and any Chromium.
import { createRequire } from "node:module";
import { createServer } from "node:http";
import { readFile, mkdir } from "node:fs/promises";
import { extname, join, normalize } from "node:path";

const require = createRequire(join(process.cwd(), "x.js"));
const { chromium } = require("playwright-core");
const [folder, executablePath, shots] = process.argv.slice(2);
await mkdir(shots, { recursive: true });

const KINDS = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".gif": "image/gif", ".png": "image/png" };
const server = createServer(async (request, response) => {
  const path = normalize(decodeURIComponent(new URL(request.url, "http://x").pathname));
  try {
    const body = await readFile(join(folder, path));
    response.writeHead(200, { "content-type": KINDS[extname(path)] || "application/octet-stream" }).end(body);
  } catch { response.writeHead(404).end(); }
}).listen(0, "127.0.0.1");
await new Promise((done) => server.once("listening", done));
const home = `http://127.0.0.1:${server.address().port}`;

const browser = await chromium.launch({ executablePath, args: [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required" ] });
const report = (width, check, ok, detail = "") => console.log(JSON.stringify({ width, check, ok: Boolean(ok), detail: String(detail) }));
// the pages that show each thing are looked for, not named: notebooks get other numbers
const pages = JSON.parse(await readFile(join(folder, "_static", "showcase.json"), "utf8"));

for (const [width, height] of [[390, 844], [1280, 900]]) {
  const context = await browser.newContext({ viewport: { width, height } });
  const page = await context.newPage();
  page.setDefaultTimeout(60000);
  const missing = [], errors = [];
  page.on("request", (r) => { if (!r.url().startsWith(home) && !/^(data|blob|about):/.test(r.url())) missing.push(r.url()); });
  page.on("response", (r) => { if (r.status() >= 400 && !r.url().endsWith("favicon.ico")) missing.push(`${r.status()} ${r.url()}`); });
  page.on("pageerror", (e) => errors.push(e.message));
  const shot = (name) => page.screenshot({ path: join(shots, `${name}-${width}.png`) });
  const open = async (path) => { await page.goto(`${home}/${path}`, { waitUntil: "load" }); };
  const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);

  await open("index.html"); await shot("index");
  report(width, "the first page is no wider than the screen", (await overflow()) <= 1, await overflow());

  await open("search.html?q=c_skip");
  await page.waitForSelector("#search-results li a");
  const hits = await page.locator("#search-results li a").allTextContents();
  report(width, "the search finds c_skip", hits.length > 0, hits.slice(0, 4).join("; ")); await shot("search");

  await open(pages.formula);
  await page.waitForSelector("mjx-container svg", { state: "attached" });
  await page.waitForTimeout(1500);
  const drawn = await page.locator("mjx-container svg").count();
  const raw = await page.evaluate(() => [...document.querySelectorAll(".math")].filter((m) => !m.querySelector("mjx-container")).length);
  const failed = await page.locator("mjx-container [data-mjx-error], mjx-merror").count();
  await page.locator("mjx-container").first().scrollIntoViewIfNeeded(); await shot("formula");
  report(width, "formulae are drawn", drawn > 0 && raw === 0 && failed === 0, `${drawn} drawn, ${raw} left, ${failed} in error`);
  report(width, "a lesson is no wider than the screen", (await overflow()) <= 1, await overflow());

  await open("paper.html"); await page.waitForSelector("mjx-container svg", { state: "attached" }); await page.waitForTimeout(1500); await shot("paper");
  report(width, "the page on the paper is no wider than the screen", (await overflow()) <= 1, await overflow());

  await open(pages.animation);
  const moving = page.locator("img[src$='.gif']").first();
  await moving.scrollIntoViewIfNeeded(); await page.waitForTimeout(300);
  const before = await moving.screenshot();
  let changed = false;
  for (let i = 0; i < 20 && !changed; i++) { await page.waitForTimeout(200); changed = !before.equals(await moving.screenshot()); }
  report(width, "an animation plays", changed); await shot("animation");

  await open(pages.recording);
  await page.locator("audio").first().scrollIntoViewIfNeeded();
  const sound = await page.evaluate(async () => {
    const audio = document.querySelector("audio");
    await audio.play(); await new Promise((done) => setTimeout(done, 500));
    return { duration: audio.duration, at: audio.currentTime, error: audio.error && audio.error.message };
  });
  report(width, "a recording plays", sound.duration > 0 && sound.at > 0 && !sound.error, JSON.stringify(sound)); await shot("recording");

  await open(pages.solution);
  const solution = page.locator(".tag_solution details").first();
  const code = solution.locator("pre").first();
  const hidden = !(await code.isVisible());
  await solution.locator("summary").click();
  report(width, "a solution is folded, and unfolds", hidden && (await code.isVisible())); await shot("solution");

  await open("api/precond.html"); await shot("reference");
  report(width, "a page of the reference is no wider than the screen", (await overflow()) <= 1, await overflow());
  await open(pages.results); await shot("results");
  report(width, "a page of results is no wider than the screen", (await overflow()) <= 1, await overflow());
  await page.evaluate(() => { document.body.dataset.theme = "dark"; }); await shot("dark");
  report(width, "nothing is asked of another host, and nothing is missing", missing.length === 0, missing.slice(0, 5).join(" "));
  report(width, "no script fails", errors.length === 0, errors.slice(0, 3).join(" "));
  await context.close();
}
await browser.close();
server.close();
