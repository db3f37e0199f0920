/** `vmseal kms start`: serving, ending, and starts that are refused. */
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { KmipClient } from '../../src/kmip/client.js'
import { temporaryDirectory } from '../kms/running-kms.js'
import { answer, refused, startServing } from './command.js'

interface Issued {
  readonly certificateFile: string
  readonly privateKeyFile: string
  readonly caCertificateFile: string
}

test('one command serves at once; a second one enrols; a client makes and gets a key', async (t) => {
  const directory = join(temporaryDirectory(t), 'kms')
  const kms = await startServing(t, directory, ['--log'])
  t.is(kms.serving.clients, 0)
  t.is(statSync(directory).mode & 0o777, 0o700)
  t.is(statSync(join(directory, 'control.sock')).mode & 0o777, 0o600)

  const issued = answer<Issued>(t, ['kms', 'enrol', 'vcenter', '--directory', directory])
  t.is(statSync(issued.privateKeyFile).mode & 0o777, 0o600)
  const client = await KmipClient.connect({
    ...kms.endpoint,
    caCertificate: readFileSync(issued.caCertificateFile, 'utf8'),
    certificate: readFileSync(issued.certificateFile, 'utf8'),
    privateKeyFile: issued.privateKeyFile,
  })
  const { id } = await client.create()
  const { key } = await client.get(id)
  key.dispose()
  client.close()
  for (;;) {
    const { operation, client: name, keyId, result } = await kms.event('operation')
    if (operation !== 'Get') continue
    t.deepEqual({ name, keyId, result }, { name: 'vcenter', keyId: id, result: 'Success' })
    break
  }

  const status = answer(t, ['kms', 'status', '--directory', directory])
  t.deepEqual(
    { endpoint: status.endpoint, processId: status.processId, clients: status.clients },
    { endpoint: kms.endpoint, processId: kms.pid, clients: 1 },
  )
  t.is(await kms.stop(), 0)
  t.is(refused(t, ['kms', 'status', '--directory', directory], 2), 'VMSEAL_KMS_NOT_SERVED')
})

for (const signal of ['SIGTERM', 'SIGINT'] as const)
  test(`${signal} ends it with status 0, and it starts again with what it had`, async (t) => {
    const directory = join(temporaryDirectory(t), 'kms')
    const first = await startServing(t, directory)
    answer(t, ['kms', 'enrol', 'vcenter', '--directory', directory])
    t.is(await first.stop(signal), 0)
    t.is((await first.event('stopping')).signal, signal)
    const second = await startServing(t, directory)
    t.is(second.serving.clients, 1)
    t.is(second.serving.authorityKeyHash, first.serving.authorityKeyHash)
  })

test('it serves on when whoever read its output has gone', async (t) => {
  const directory = join(temporaryDirectory(t), 'kms')
  const kms = await startServing(t, directory, ['--log'])
  kms.child.stdout?.destroy()
  kms.child.stderr?.destroy()
  for (const name of ['a', 'b', 'c']) answer(t, ['kms', 'enrol', name, '--directory', directory])
  t.is(answer(t, ['kms', 'status', '--directory', directory]).clients, 3)
})

test('after SIGKILL it starts again; the socket that was left is replaced', async (t) => {
  const directory = join(temporaryDirectory(t), 'kms')
  const first = await startServing(t, directory)
  answer(t, ['kms', 'enrol', 'vcenter', '--directory', directory])
  await first.stop('SIGKILL')
  t.is(refused(t, ['kms', 'clients', '--directory', directory], 2), 'VMSEAL_KMS_NOT_SERVED')
  const second = await startServing(t, directory)
  t.is(second.serving.clients, 1)
  t.is(answer(t, ['kms', 'status', '--directory', directory]).clients, 1)
})

test('the root key behind a passphrase, from a file or from standard input', async (t) => {
  const parent = temporaryDirectory(t)
  const [directory, file, wrong] = [join(parent, 'kms'), join(parent, 'passphrase'), join(parent, 'wrong')]
  writeFileSync(file, 'correct horse\r\nsecond line\n')
  writeFileSync(wrong, 'battery staple\n')
  const first = await startServing(t, directory, ['--passphrase-file', '-'], 'correct horse\n')
  t.is(await first.stop(), 0)
  const start = ['kms', 'start', '--directory', directory, '--port', '0']
  t.is(refused(t, [...start, '--passphrase-file', wrong], 2), 'VMSEAL_INVALID_ARGUMENT')
  t.is(refused(t, start, 2), 'VMSEAL_INVALID_ARGUMENT')
  const again = await startServing(t, directory, ['--passphrase-file', file])
  t.is(await again.stop(), 0)
})

test('refused starts leave what there is alone', async (t) => {
  const parent = temporaryDirectory(t)
  const directory = join(parent, 'kms')
  const kms = await startServing(t, directory)
  const start = (place: string, ...options: string[]) => ['kms', 'start', '--directory', place, ...options]
  t.is(refused(t, start(directory, '--port', '0'), 4), 'VMSEAL_FILE_LOCKED')
  t.is(
    refused(t, start(join(parent, 'other'), '--port', String(kms.endpoint.port)), 1),
    'VMSEAL_ADDRESS_UNAVAILABLE',
  )
  t.is(
    refused(t, start(join(parent, 'far'), '--port', '0', '--host', '192.0.2.1'), 1),
    'VMSEAL_ADDRESS_UNAVAILABLE',
  )
  writeFileSync(join(parent, 'a file'), 'something')
  t.is(refused(t, start(parent, '--port', '0'), 2), 'VMSEAL_ALREADY_EXISTS')
  const passphrase = (file: string) => start(join(parent, 'new'), '--port', '0', '--passphrase-file', file)
  t.is(refused(t, passphrase(join(parent, 'nowhere')), 2), 'VMSEAL_NOT_FOUND')
  writeFileSync(join(parent, 'empty'), '\n')
  t.is(refused(t, passphrase(join(parent, 'empty')), 2), 'VMSEAL_INVALID_ARGUMENT')
  t.is(refused(t, passphrase('/dev/zero'), 2), 'VMSEAL_INVALID_ARGUMENT')
  t.is(answer(t, ['kms', 'status', '--directory', directory]).processId, kms.pid)
})
