import { randomBytes } from 'node:crypto'
import { appendFileSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import type { AuditHead } from '../../src/kms/audit-log.js'
import { closeDatabase, openDatabase } from '../../src/kms/database.js'
import { Facts } from '../../src/kms/facts.js'
import { genesis, linkLine } from '../../src/audit/chain.js'
import type { AuditLink } from '../../src/audit/chain.js'
import type { AuditBreak } from '../../src/kms/audit-verification.js'
import { Kms } from '../../src/kms/kms.js'
import { connect, startKms, temporaryDirectory } from './running-kms.js'

/** The directory of a stopped KMS with ten records. */
async function recorded(t: ExecutionContext): Promise<{ directory: string; file: string; lines: string[] }> {
  const directory = temporaryDirectory(t)
  const kms = await startKms(t, directory)
  const client = await connect(t, kms, await kms.enrol('vcenter'))
  for (let n = 0; n < 8; n++) await client.create()
  await kms.stop()
  const file = join(directory, 'audit.log')
  return { directory, file, lines: readFileSync(file, 'utf8').trimEnd().split('\n') }
}

const withEnds = (lines: readonly string[]) => lines.map((line) => `${line}\n`).join('')

/** A chain as it ought to be, of other records. */
function forged(count: number): string[] {
  let last: AuditLink = genesis
  return Array.from({ length: count }, () => {
    const { line, link } = linkLine(last, {
      time: '2026-01-01T00:00:00.000Z',
      operation: 'Get',
      result: 'Success',
    })
    last = link
    return line.trimEnd()
  })
}

const cases: Record<string, { alter: (lines: string[]) => readonly string[]; broken: Partial<AuditBreak> }> =
  {
    'a changed word': {
      alter: (lines) => lines.with(3, (lines[3] as string).replace('Create', 'Delete')),
      broken: { line: 4, reason: 'altered' },
    },
    'a changed last line': {
      alter: (lines) => lines.with(9, (lines[9] as string).replace('Create', 'Delete')),
      broken: { reason: 'cut' },
    },
    'a removed line': {
      alter: (lines) => lines.toSpliced(4, 1),
      broken: { line: 5, reason: 'gap', sequence: 5 },
    },
    'a removed first line': {
      alter: (lines) => lines.slice(1),
      broken: { line: 1, reason: 'gap', sequence: 1 },
    },
    'a removed last line': {
      alter: (lines) => lines.slice(0, -1),
      broken: { line: 10, reason: 'cut', sequence: 10 },
    },
    'an inserted copy': {
      alter: (lines) => lines.toSpliced(4, 0, lines[4] as string),
      broken: { line: 6, reason: 'gap' },
    },
    'an inserted text': {
      alter: (lines) => lines.toSpliced(4, 0, 'so what'),
      broken: { line: 5, reason: 'altered' },
    },
    'a line behind the end': {
      alter: (lines) => [
        ...lines,
        linkLine(
          { sequence: 10, hash: (JSON.parse(lines[9] as string) as AuditLink).hash },
          { time: '2026-01-01T00:00:00.000Z', operation: 'Get', result: 'Success' },
        ).line.trimEnd(),
      ],
      broken: { line: 11, reason: 'not-the-log' },
    },
    'two lines in another order': {
      alter: (lines) => lines.with(4, lines[5] as string).with(5, lines[4] as string),
      broken: { line: 5, reason: 'gap' },
    },
    'another whole chain': { alter: () => forged(10), broken: { line: 10, reason: 'altered' } },
    'another, shorter chain': { alter: () => forged(3), broken: { line: 4, reason: 'cut' } },
    'an empty file': { alter: () => [], broken: { line: 1, reason: 'cut', sequence: 1 } },
  }

test('a log as it was written is good', async (t) => {
  const { directory, lines } = await recorded(t)
  t.is(lines.length, 10)
  t.deepEqual(await Kms.verifyAudit(directory), { records: 10, ok: true, headChecked: true })
})

for (const [name, { alter, broken }] of Object.entries(cases))
  test(`found: ${name}`, async (t) => {
    const { directory, file, lines } = await recorded(t)
    writeFileSync(file, withEnds(alter(lines)))
    const found = await Kms.verifyAudit(directory)
    t.false(found.ok)
    t.like(found.firstBreak, broken)

    // Another start goes on and does not heal it.
    const kms = await startKms(t, directory)
    await connect(t, kms, await kms.enrol('vcenter'))
    await kms.stop()
    t.false((await Kms.verifyAudit(directory)).ok)
  })

test('found: any flipped bit', async (t) => {
  const { directory, file } = await recorded(t)
  const whole = readFileSync(file)
  for (let n = 0; n < 60; n++) {
    const at = (randomBytes(4).readUInt32LE() % whole.length) >>> 0
    const bytes = Buffer.from(whole)
    bytes[at] = (bytes[at] as number) ^ (1 << (n % 8))
    writeFileSync(file, bytes)
    t.false((await Kms.verifyAudit(directory)).ok, `bit ${n % 8} of byte ${at}`)
  }
})

test('found: a log that is gone', async (t) => {
  const { directory, file } = await recorded(t)
  rmSync(file)
  t.like(await Kms.verifyAudit(directory), { ok: false, firstBreak: { line: 1, reason: 'cut' } })
})

test('a line that a crash cut short is kept, named, and no break', async (t) => {
  const { directory, file } = await recorded(t)
  // As a crash leaves it: the log is not closed.
  const crashed = await startKms(t, directory)
  await connect(t, crashed, await crashed.enrol('vcenter'))
  await crashed.stop()
  for (const torn of ['{"sequence":13,"previous":"00', Buffer.from([0xff, 0xfe, 0x7b])]) {
    reopenHead(directory)
    appendFileSync(file, torn)
    const kms = await startKms(t, directory)
    await connect(t, kms, await kms.enrol('vcenter'))
    await kms.stop()
    const text = readFileSync(file)
    t.true(text.includes(torn))
    t.true(text.includes('"AuditTorn"'))
    t.like(await Kms.verifyAudit(directory), { ok: true, headChecked: true })
  }
  // What the record names cannot be exchanged for something else.
  writeFileSync(file, readFileSync(file, 'latin1').replace('"previous":"00\n', '"previous":"01\n'), 'latin1')
  t.false((await Kms.verifyAudit(directory)).ok)
})

test('records that were durable before their commit are kept after a crash', async (t) => {
  const { directory, file, lines } = await recorded(t)
  reopenHead(directory)
  const last = JSON.parse(lines[9] as string) as AuditLink
  const { line } = linkLine(last, { time: new Date().toISOString(), operation: 'Get', result: 'Success' })
  appendFileSync(file, line)
  t.like(await Kms.verifyAudit(directory), { ok: true, records: 11 })
  await (await startKms(t, directory)).stop()
  t.like(await Kms.verifyAudit(directory), { ok: true, records: 11 })
  truncateSync(file, readFileSync(file).length - line.length)
  t.like(await Kms.verifyAudit(directory), { ok: false, firstBreak: { reason: 'cut' } })
})

test('while a KMS serves, the chain alone is checked', async (t) => {
  const directory = temporaryDirectory(t)
  const kms = await startKms(t, directory)
  await connect(t, kms, await kms.enrol('vcenter'))
  t.deepEqual(await Kms.verifyAudit(directory), { records: 2, ok: true, headChecked: false })
  const file = join(directory, 'audit.log')
  t.deepEqual(await kms.verifyAudit(), { records: 2, ok: true, headChecked: true })
  truncateSync(file, readFileSync(file).indexOf(10) + 1)
  t.like(await Kms.verifyAudit(directory), { ok: true, records: 1 })
  t.like(await kms.verifyAudit(), { ok: false, firstBreak: { line: 2, reason: 'cut' } })
  await t.throwsAsync(Kms.verifyAudit(temporaryDirectory(t)), { code: 'VMSEAL_NOT_FOUND' })
})

/** The store as a crash leaves it: its head is not that of a log that was closed in order. */
function reopenHead(directory: string): void {
  const database = openDatabase(join(directory, 'kms.db'))
  const facts = new Facts(database)
  const { closed: _, ...head } = facts.getJson<AuditHead>('audit-head') as AuditHead
  facts.putJson('audit-head', head)
  closeDatabase(database)
}
