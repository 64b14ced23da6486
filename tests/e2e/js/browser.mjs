// A headless Chromium that does what its stdin says: ["ada", "fill", "#name", "Ada"] calls that method of the page.
//
// `open` makes the page, in a context of its own with the options that follow. Each line is answered with `done` and the
// value, or `failed`. What a page logs as an error (a refused script, too) is printed as `error`.
import { createInterface } from 'node:readline';
import chromium from '@sparticuz/chromium';
import playwright from 'playwright-core';

const say = (...event) => console.log(JSON.stringify(event));
// Of the package's own flags only what root and a machine without a display need: the others weaken the browser.
const args = ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'];
const browser = await playwright.chromium.launch({ executablePath: await chromium.executablePath(), args });
const pages = {};

async function open(name, options) {
  const page = await (await browser.newContext(options)).newPage();
  page.setDefaultTimeout(10_000);
  page.on('console', (message) => message.type() === 'error' && say('error', name, message.text()));
  page.on('pageerror', (error) => say('error', name, String(error)));
  pages[name] = page;
}

for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'end') break;
  const [name, method, ...values] = JSON.parse(line);
  try {
    const value = method === 'open' ? await open(name, ...values) : await pages[name][method](...values);
    say('done', value !== null && typeof value === 'object' && !Array.isArray(value) ? null : (value ?? null));
  } catch (error) {
    say('failed', name, method, error.message);
  }
}
await browser.close();
process.exit(0);
