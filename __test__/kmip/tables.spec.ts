/** Our tables against PyKMIP's, which other people wrote from the same specification. */
import { execFileSync } from 'node:child_process'
import test from 'ava'
import { cryptographicUsage, enumerations } from '../../src/kmip/ttlv/enumerations.js'
import { tags } from '../../src/kmip/ttlv/tags.js'
import { hasPyKmip } from './pykmip.js'

const tables: Record<string, Readonly<Record<string, number>>> = {
  ...enumerations,
  CryptographicUsageMask: cryptographicUsage,
  Tags: tags,
}

/** Where PyKMIP's names are not the specification's. */
const otherNames: Record<string, string> = {
  opaqueobject: 'opaquedata',
}

function plain(name: string): string {
  const letters = name.replaceAll('_', '').toLowerCase()
  return otherNames[letters] ?? letters
}

for (const [table, symbols] of Object.entries(tables))
  test(`${table}: no value twice`, (t) => {
    t.is(new Set(Object.values(symbols)).size, Object.keys(symbols).length)
  })

test('the same names have the same values', (t) => {
  if (!hasPyKmip(t)) return
  const program = `
import json
from kmip.core import enums
tables = ${JSON.stringify(Object.keys(tables))}
print(json.dumps({t: {m.name: m.value for m in getattr(enums, t)} for t in tables if hasattr(enums, t)}))`
  const theirs = JSON.parse(execFileSync('/usr/bin/python3', ['-c', program]).toString()) as typeof tables
  t.true(Object.keys(theirs).length >= 15)
  for (const [table, symbols] of Object.entries(theirs)) {
    const known = new Map(Object.entries(symbols).map(([name, value]) => [value, plain(name)]))
    for (const [name, value] of Object.entries(tables[table] ?? {}))
      t.is(known.get(value), plain(name), `${table}.${name}`)
  }
})
