/** The control socket of a serving KMS, and whoever speaks nonsense on it. */
import { once } from 'node:events'
import { createConnection, createServer } from 'node:net'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import test from 'ava'
import { openKmsControl, order } from '../../src/cli/kms/control.js'
import { startKms, temporaryDirectory } from '../kms/running-kms.js'

async function dial(directory: string): Promise<Socket> {
  const socket = createConnection(join(directory, 'control.sock'))
  socket.on('error', () => {})
  await once(socket, 'connect')
  return socket
}

async function say(directory: string, line: string): Promise<{ error?: { code: string }; result?: unknown }> {
  const socket = await dial(directory)
  socket.write(line)
  const reply = await text(socket)
  return JSON.parse(reply || '{}') as { error?: { code: string } }
}

for (const [what, line] of [
  ['no JSON', 'enrol me\n'],
  ['no object', '7\n'],
  ['null', 'null\n'],
  ['no action', '{}\n'],
  ['an unknown action', '{"action":"open the door","values":{}}\n'],
  ['an action of the prototype', '{"action":"constructor","values":{}}\n'],
  ['no values', '{"action":"status"}\n'],
  ['values of another kind', '{"action":"enrol","values":"vcenter"}\n'],
  ['a name of another kind', '{"action":"enrol","values":{"name":7}}\n'],
  ['a name that is missing', '{"action":"enrol","values":{}}\n'],
] as const)
  test(`refused: ${what}; the next order is done`, async (t) => {
    const directory = temporaryDirectory(t)
    const kms = await startKms(t, directory)
    const control = await openKmsControl(directory, kms)
    t.teardown(() => control.close())
    t.is((await say(directory, line)).error?.code, 'VMSEAL_INVALID_ARGUMENT')
    t.is((await order(directory, 'status', { directory })).clients, 0)
  })

test('a line without an end is not collected for ever', async (t) => {
  const directory = temporaryDirectory(t)
  const control = await openKmsControl(directory, await startKms(t, directory))
  t.teardown(() => control.close())
  const { error } = await say(directory, 'x'.repeat(4 * 2 ** 20 + 1))
  t.is(error?.code, 'VMSEAL_INVALID_ARGUMENT')
})

test('whoever connects and says nothing does not keep it from closing', async (t) => {
  const directory = temporaryDirectory(t)
  const control = await openKmsControl(directory, await startKms(t, directory))
  const silent = await dial(directory)
  const done = await dial(directory)
  done.write('{"action":"status","values":{"directory":"x"}}\n')
  await once(done, 'data')
  await control.close()
  if (!silent.closed) await once(silent, 'close')
  t.true(silent.closed)
  await t.throwsAsync(order(directory, 'clients', {}), { code: 'VMSEAL_KMS_NOT_SERVED' })
})

test('a path longer than a socket may have', async (t) => {
  const directory = join(temporaryDirectory(t), 'd'.repeat(100), 'e'.repeat(100))
  const kms = await startKms(t, directory)
  const control = await openKmsControl(directory, kms)
  t.teardown(() => control.close())
  t.deepEqual((await order(directory, 'status', { directory })).endpoint, kms.endpoint)
})

test('a KMS that hangs up without an answer', async (t) => {
  const directory = temporaryDirectory(t)
  const server = createServer((socket) => socket.destroy()).listen(join(directory, 'control.sock'))
  t.teardown(() => server.close())
  await once(server, 'listening')
  await t.throwsAsync(order(directory, 'clients', {}), { code: 'VMSEAL_KMS_NOT_SERVED' })
})
