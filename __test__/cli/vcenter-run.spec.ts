/** `vmseal vcenter` and the verbs as processes: start, orders from other terminals, Ctrl-C, a kill, and an end. */
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test from 'ava'
import { temporaryDirectory } from '../kms/running-kms.js'
import { answer, refused, startServing, vmseal } from './command.js'
import { run } from './running.js'

test('a vCenter runs, takes orders from other processes, and what they ask for is done, told, cancelled', async (t) => {
  const parent = temporaryDirectory(t)
  const directory = path.join(parent, 'vcenter')
  const datastore = path.join(parent, 'ds1')
  mkdirSync(datastore)
  const kms = await startServing(t, path.join(parent, 'kms'))
  const issued = path.join(parent, 'issued')
  answer(t, ['kms', 'enrol', 'vcenter', '--directory', path.join(parent, 'kms'), '--output', issued])
  const host = run(t, 'host', 'start', '--name', 'esx-1', '--datastore', `ds1=${datastore}`,
    '--directory', path.join(parent, 'esx-1'), '--listen', '127.0.0.1:0') // prettier-ignore
  const waiting = await host.line(({ event }) => event === 'waiting')
  const { token, address } = waiting as unknown as { token: string; address: { port: number } }
  const to = ['--vcenter', directory]

  t.is(refused(t, ['vcenter', 'status', directory], 2), 'VMSEAL_VCENTER_NOT_RUNNING')
  t.is(refused(t, ['vm', 'list', ...to], 2), 'VMSEAL_NOT_FOUND', 'a misspelt directory is not made')
  const vcenter = run(t, 'vcenter', 'start', directory)
  t.like(await vcenter.line(({ event }) => event === 'serving'), { directory, processId: vcenter.pid })
  t.is(refused(t, ['vcenter', 'start', directory], 4), 'VMSEAL_FILE_LOCKED')

  const events = run(t, 'event', 'follow', '--after', '0', ...to)
  const server = `${kms.endpoint.host}:${kms.endpoint.port}`
  answer(t, ['provider', 'add', 'kms-1', '--server', server, '--credentials', issued, ...to])
  answer(t, ['cluster', 'create', 'prod', ...to])
  const add = [
    '--json',
    'host',
    'add',
    `127.0.0.1:${address.port}`,
    '--cluster',
    'prod',
    '--token-file',
    '-',
    ...to,
  ]
  t.is(vmseal(add, `${token}\n`).status, 0)
  t.is(vmseal(add, `${token}\n`).status, 2, 'a token is good once')

  const image = path.join(parent, 'db01.raw')
  writeFileSync(image, Buffer.alloc(64 * 1024 * 1024, 'some plain text of a disk '))
  answer(t, ['vm', 'import', 'db01', image, '--cluster', 'prod', '--datastore', 'ds1', ...to])

  // Ctrl-C undoes what was begun.
  const encrypting = run(t, 'vm', 'encrypt', 'db01', '--progress', ...to)
  await encrypting.line(({ event }) => event === 'step' || event === 'progress')
  encrypting.kill('SIGINT')
  const status = await encrypting.ended
  const { homeKey } = answer<{ homeKey?: object }>(t, ['vm', 'show', 'db01', ...to])
  t.true(status === 5 ? homeKey === undefined : status === 0 && homeKey !== undefined, String(status))

  // Without waiting; whoever is killed meanwhile takes nothing with him.
  const { task } = answer<{ task?: { id: string } }>(t, [
    'vm',
    status === 5 ? 'encrypt' : 'recrypt',
    'db01',
    '--detach',
    ...to,
  ])
  const watched = vmseal(['--json', 'task', 'follow', ...(task ? [task.id] : []), ...to])
  if (task) t.regex(watched.stdout.trimEnd().split('\n').at(-1) ?? '', /"state":"success"/)
  const left = run(t, 'vm', 'recrypt', 'db01', '--deep', '--progress', ...to)
  await left.line(({ event }) => event === 'step' || event === 'progress')
  left.kill('SIGKILL')
  await left.ended
  for (;;) {
    const tasks = answer<{ state: string; name: string }[]>(t, ['task', 'list', '--limit', '1', ...to])
    if (tasks[0]?.state === 'success') break
    t.regex(tasks[0]?.state ?? '', /queued|running/)
    await delay(50)
  }
  t.like(await events.line(({ id }) => id === 'com.vmware.vc.crypto.Operation'), { actor: 'administrator' })
  events.kill('SIGINT')
  t.is(await events.ended, 0)

  // It stops; the same verbs open the directory, and give it back.
  t.like(answer(t, ['vcenter', 'status', directory]), {
    hosts: { all: 1, connected: 1 },
    virtualMachines: { all: 1 },
  })
  t.like(answer(t, ['vcenter', 'stop', directory]), { processId: vcenter.pid, stopped: true })
  t.is(await vcenter.ended, 0)
  t.like(answer<object[]>(t, ['vm', 'list', ...to])[0], { name: 'db01' })
  t.truthy(answer(t, ['vm', 'recrypt', 'db01', ...to]).homeKey, 'it waits for the host to connect')
  t.is(refused(t, ['vm', 'recrypt', 'db01', '--detach', ...to], 2), 'VMSEAL_VCENTER_NOT_RUNNING')

  // Killed, it leaves a socket that nobody serves, which is in nobody's way.
  const second = run(t, 'vcenter', 'start', directory)
  await second.line(({ event }) => event === 'serving')
  second.kill('SIGKILL')
  await second.ended
  t.is(refused(t, ['vcenter', 'stop', directory], 2), 'VMSEAL_VCENTER_NOT_RUNNING')
  t.is(answer<object[]>(t, ['vm', 'list', ...to]).length, 1)
  const third = run(t, 'vcenter', 'start', directory)
  await third.line(({ event }) => event === 'serving')
  third.kill('SIGTERM')
  t.is(await third.ended, 0)
})
