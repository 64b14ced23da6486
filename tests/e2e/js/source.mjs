// An EventSource in a page of a real browser: takes what comes, and answers what it has so far.
//
// Each line of stdin is a JSON array: ["open", page URL, stream URL], or ["got"], which is answered with every publication as
// [channel, offset], every `recovered`, the state, and how often the stream opened.
import { createInterface } from 'node:readline';
import chromium from '@sparticuz/chromium';
import playwright from 'playwright-core';

const say = (...event) => console.log(JSON.stringify(event));
const args = ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'];
const browser = await playwright.chromium.launch({ executablePath: await chromium.executablePath(), args });
const page = await browser.newPage();

function listen(url) {
  const got = { publications: [], recovered: [], ends: [], opened: 0, state: 0 };
  const source = new EventSource(url);
  source.onopen = () => got.opened++;
  source.onmessage = ({ data }) => {
    const { channel, offset } = JSON.parse(data);
    got.publications.push([channel, offset]);
  };
  source.addEventListener('relay:subscribed', ({ data }) => got.recovered.push(JSON.parse(data).recovered ?? null));
  source.addEventListener('relay:end', ({ data }) => got.ends.push(JSON.parse(data).code));
  source.onerror = () => (got.state = source.readyState);
  globalThis.got = () => ({ ...got, state: source.readyState });
}

for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'end') break;
  const [what, ...values] = JSON.parse(line);
  try {
    if (what === 'open') {
      await page.goto(values[0]);
      await page.evaluate(listen, values[1]);
      say('opened');
    } else {
      say('got', await page.evaluate(() => globalThis.got()));
    }
  } catch (error) {
    say('failed', error.message);
  }
}
await browser.close();
process.exit(0);
