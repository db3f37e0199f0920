/** The command line itself: help, JSON, and calls that are wrong. */
import { readFileSync } from 'node:fs'
import test from 'ava'
import { refused, vmseal } from './command.js'

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

test('help teaches, for the program and for each command', (t) => {
  const { status, stdout } = vmseal(['--help'])
  t.is(status, 0)
  for (const word of ['kms start', 'provider doctor', 'Exit status', '--json'])
    t.true(stdout.includes(word), word)
  for (const command of [
    ['kms'],
    ['kms', 'start'],
    ['kms', 'enrol'],
    ['kms', 'audit', 'verify'],
    ['kms', 'backup'],
    ['kms', 'restore'],
    ['provider', 'doctor'],
  ]) {
    const help = vmseal([...command, '--help'])
    t.is(help.status, 0, command.join(' '))
    t.true(help.stdout.startsWith(`Usage: vmseal ${command.join(' ')}`), help.stdout)
  }
  t.is(vmseal(['--version']).stdout.trim(), version)
})

for (const [what, argv] of [
  ['an unknown command', ['kmss']],
  ['an unknown command in a group', ['kms', 'strat']],
  ['an unknown option', ['kms', 'start', '--directory', 'x', '--hots', 'x']],
  ['a missing option', ['kms', 'start']],
  ['a missing argument', ['kms', 'enrol', '--directory', 'x']],
  ['an argument too many', ['kms', 'clients', 'x', '--directory', 'x']],
  ['an option without its value', ['kms', 'start', '--directory']],
  ['an empty directory', ['kms', 'start', '--directory', '']],
  ['a port that is none', ['kms', 'start', '--directory', 'x', '--port', '5696x']],
  ['a port too high', ['kms', 'start', '--directory', 'x', '--port', '65536']],
  ['a negative port', ['kms', 'start', '--directory', 'x', '--port=-1']],
  ['an address that is none', ['provider', 'doctor', '--server', 'a:b:c']],
  ['an address without a host', ['provider', 'doctor', '--server', ':5696']],
] as const)
  test(`refused with status 2: ${what}`, (t) => {
    t.is(refused(t, argv, 2), 'VMSEAL_INVALID_ARGUMENT')
  })

test('a group without a command lists its commands, with status 2', (t) => {
  for (const argv of [[], ['kms'], ['kms', 'audit'], ['provider']]) {
    const { status, stdout, stderr } = vmseal(argv)
    t.is(status, 2)
    t.is(stdout, '')
    t.true(stderr.includes('Commands:'), stderr)
    const { error } = JSON.parse(vmseal(['--json', ...argv]).stderr) as { error: { code: string } }
    t.is(error.code, 'VMSEAL_INVALID_ARGUMENT')
  }
})

test('a misspelt command is told the right one', (t) => {
  t.true(vmseal(['kms', 'strat']).stderr.includes('start'))
})

test('what comes after -- is no option', (t) => {
  const { status, stderr } = vmseal(['kms', 'enrol', '--directory', '/nonexistent', '--', '--json'])
  t.is(status, 2)
  t.true(stderr.startsWith('vmseal: '), stderr)
})
