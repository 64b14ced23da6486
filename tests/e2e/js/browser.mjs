// A headless Chromium that does what its stdin says: ["ada", "fill", "#name", "Ada"] calls that method of the page.
//
// `open` makes the page, in a context of its own with the options that follow. `audit` returns what axe-core finds in
// it, and `shot` writes what it shows to a small file. Each line is answered with `done` and the value, or `failed`.
// What a page logs as an error (a refused script, too) is printed as `error`.
import { readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import chromium from '@sparticuz/chromium';
import playwright from 'playwright-core';

const say = (...event) => console.log(JSON.stringify(event));
// Of the package's own flags only what root and a machine without a display need: the others weaken the browser.
const args = ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'];
const browser = await playwright.chromium.launch({ executablePath: await chromium.executablePath(), args });
const pages = {};

async function open(name, options) {
  const page = await (await browser.newContext({ locale: 'en-US', ...options })).newPage();
  page.setDefaultTimeout(10_000);
  page.on('console', (message) => message.type() === 'error' && say('error', name, message.text()));
  page.on('pageerror', (error) => say('error', name, String(error)));
  pages[name] = page;
}

async function audit(page) {
  await page.evaluate(await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8'));
  const { violations } = await page.evaluate(() => axe.run({ resultTypes: ['violations'] }));
  return violations.map(({ id, impact, nodes }) => `${impact}: ${id} at ${nodes.map((node) => node.target)}`);
}

async function shot(page, path) {
  const session = await page.context().newCDPSession(page);
  const { data } = await session.send('Page.captureScreenshot', { format: 'webp', quality: 70 });
  await writeFile(path, Buffer.from(data, 'base64'));
}

const own = { open, audit: (name) => audit(pages[name]), shot: (name, path) => shot(pages[name], path) };

for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'end') break;
  const [name, method, ...values] = JSON.parse(line);
  try {
    const value = await (method in own ? own[method](name, ...values) : pages[name][method](...values));
    say('done', value !== null && typeof value === 'object' && !Array.isArray(value) ? null : (value ?? null));
  } catch (error) {
    say('failed', name, method, error.message);
  }
}
await browser.close();
process.exit(0);
