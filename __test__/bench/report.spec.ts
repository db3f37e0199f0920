import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { parseReport, readReport, serialize, spreadOf } from '../../bench/report.js'
import { exampleReport } from './fixture.js'

test('a report survives its file', (t) => {
  const report = exampleReport()
  const read = parseReport(serialize(report))
  t.deepEqual(read, JSON.parse(JSON.stringify(report, shorter)))
  t.is(serialize(read), serialize(report))
})

test('what nobody knows is dropped, what is missing is named', (t) => {
  const value = JSON.parse(serialize(exampleReport()))
  t.deepEqual(parseReport(JSON.stringify({ ...value, surprise: 1 })), value)
  delete value.machine.cpu
  t.throws(() => parseReport(JSON.stringify(value)), { message: /report\.machine\.cpu must be a text/ })
})

for (const [title, damage, message] of [
  ['another schema', (value: Value) => (value['schema'] = 2), /report\.schema must be 1/],
  [
    'a figure that is a text',
    (value: Value) => (value['quick'] = 'no'),
    /report\.quick must be true or false/,
  ],
  ['no list', (value: Value) => (value['javascript'] = {}), /report\.javascript must be a list/],
  ['a null machine', (value: Value) => (value['machine'] = null), /report\.machine must be an object/],
] as const)
  test(`refused: ${title}`, (t) => {
    const value = JSON.parse(serialize(exampleReport())) as Value
    damage(value)
    t.throws(() => parseReport(JSON.stringify(value)), { message })
  })

test('refused: an unknown operation, deep inside', (t) => {
  const json = serialize(exampleReport()).replace('"operation": "decrypt"', '"operation": "compress"')
  t.throws(() => parseReport(json), {
    message: /report\.native\.sectors\[\d+\]\.operation must be one of encrypt, decrypt/,
  })
})

test('refused: files that are no report are named', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'vmseal-bench-test-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'report.json')
  for (const content of ['', '{', '[]', 'null', '{"schema":1}']) {
    writeFileSync(file, content)
    t.throws(() => readReport(file), { message: new RegExp(`^${file} is not a report of this benchmark`) })
  }
  t.throws(() => readReport(`${file}.absent`), { message: /ENOENT/ })
})

test('median and quartiles', (t) => {
  t.deepEqual(spreadOf([5, 1, 4, 2, 3]), { median: 3, q1: 2, q3: 4, rounds: 5 })
  t.deepEqual(spreadOf([1, 2]), { median: 1.5, q1: 1.25, q3: 1.75, rounds: 2 })
  t.throws(() => spreadOf([]), { message: /no samples/ })
})

type Value = Record<string, unknown>

function shorter(_: string, value: unknown): unknown {
  return typeof value === 'number' && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value
}
