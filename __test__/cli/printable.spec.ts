/** Nothing that a terminal would obey gets to it, whatever names are. */
import path from 'node:path'
import fc from 'fast-check'
import test from 'ava'
import { table, facts } from '../../src/cli/output.js'
import { printable, printableJson, printableText } from '../../src/cli/printable.js'
import { connect } from '../../src/store/sqlite-database.js'
import { VCenter } from '../../src/index.js'
import { openSite } from '../vcenter/site.js'
import { call } from './in-process.js'

const obeyed = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u
/** Texts of what terminals obey, and of the characters beside it. */
const hostile = fc
  .array(
    fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.constantFrom('\u001b[2J', '\u001b]0;title\u0007', '\u009b31m', '\u202e', '\u2028', '\r', '\n', '\u007f', '\ufeff', '\ud800'),
    ),
  )
  .map((pieces) => pieces.join('')) // prettier-ignore

test('text, table and facts hold no control, format or separator character', (t) => {
  fc.assert(
    fc.property(fc.array(hostile, { maxLength: 4 }), (names) => {
      const lines = table(['A', 'B'], names.map((name) => [name, name])).split('\n')
      t.is(lines.length, names.length + 1, 'a row is a line')
      for (const line of [...lines, ...names.map(printable)]) t.notRegex(line, obeyed)
      for (const name of names) {
        t.notRegex(facts({ name }), obeyed)
        t.notRegex(printableText(name).replaceAll('\n', ''), obeyed)
      }
    }),
  ) // prettier-ignore
})

test('a JSON document holds none either, and means the same', (t) => {
  fc.assert(
    fc.property(fc.array(hostile), (names) => {
      const text = printableJson(names)
      t.notRegex(text, obeyed)
      t.deepEqual(JSON.parse(text), names)
    }),
  )
})

test('ordinary text is left alone', (t) => {
  for (const text of ['db01', 'Größe 100 %', '日本語', 'naïve', '😀', "it's"]) t.is(printable(text), text)
  t.is(printable('a\u001b[31mb'), 'a\\x1b[31mb')
  t.is(printable('a\u202eb'), 'a\\u{202e}b')
})

test.serial('a VM whose name was put into the database from outside cannot steer the terminal', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'], provider: false })
  await site.vcenter.virtualMachines.create({ name: 'db01', cluster: 'prod', datastore: 'ds1', disks: [] })
  await site.vcenter.close()
  const directory = path.join(site.directory, 'vcenter')
  const name = 'db\u001b]0;pwned\u0007\u009b2J\n01'
  const database = connect(path.join(directory, 'vcenter.db'))
  database.prepare('UPDATE vm SET name = ?').run(name)
  database.close()
  for (const argv of [
    ['vm', 'list'],
    ['--json', 'vm', 'list'],
    ['vm', 'show', name],
    ['--json', 'vm', 'show', name],
    ['vm', 'encrypt', name, '--wait', '0.1'],
    ['vm', 'show', `${name}x`],
    ['task', 'list'],
  ]) {
    const { stdout, stderr } = await call(...argv, '--vcenter', directory)
    t.notRegex((stdout + stderr).replaceAll('\n', ''), obeyed, argv.join(' '))
  }
  const { stdout } = await call('--json', 'vm', 'list', '--vcenter', directory)
  t.is((JSON.parse(stdout) as { name: string }[])[0]?.name, name)
  await (await VCenter.open({ directory })).close()
})
