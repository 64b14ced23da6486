// Reads an AsyncAPI document from stdin, and prints what the official parser finds: a JSON array of problems.
import { Parser } from '@asyncapi/parser'
import { text } from 'node:stream/consumers'

const { document, diagnostics } = await new Parser().parse(await text(process.stdin))
const problems = diagnostics.map(({ severity, code, message, path }) => ({ severity, code, message, path: path.join('.') }))
console.log(JSON.stringify({ parsed: document !== undefined, channels: document?.channels().all().length, problems }))
