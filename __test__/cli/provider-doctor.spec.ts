/** `vmseal provider doctor`: statuses, hops and calls that are wrong. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { KmipClient } from '../../src/kmip/client.js'
import { native } from '../../src/native/load.js'
import { VCenter } from '../../src/vcenter/vcenter.js'
import { temporaryDirectory } from '../kms/running-kms.js'
import { answer, refused, startServing, vmseal } from './command.js'

interface Told {
  readonly ok: boolean
  readonly servers: readonly {
    readonly hops: readonly { hop: string; ok: boolean; detail: string; action?: string }[]
  }[]
}

const hops = ['dns', 'tcp', 'tls', 'client trust', 'versions', 'create', 'get', 'compare', 'destroy']

async function startSite(t: ExecutionContext) {
  const directory = temporaryDirectory(t)
  const kmsDirectory = join(directory, 'kms')
  // A process of its own: this one waits while a command runs.
  const { endpoint } = await startServing(t, kmsDirectory)
  const kms = (...argv: string[]) =>
    answer<Record<string, string>>(t, ['kms', ...argv, '--directory', kmsDirectory])
  const issued = kms('enrol', 'vcenter')
  const read = (name: string) => readFileSync(issued[name] ?? '', 'utf8')
  const credentials = {
    caCertificate: read('caCertificateFile'),
    certificate: read('certificateFile'),
    privateKeyFile: issued.privateKeyFile ?? '',
  }
  const file = (name: string, text: string) => {
    writeFileSync(join(directory, name), text)
    return join(directory, name)
  }
  const files = {
    ca: issued.caCertificateFile ?? '',
    certificate: issued.certificateFile ?? '',
    key: credentials.privateKeyFile,
  }
  const walk = (changed: Partial<typeof files & { server: string }> = {}) => {
    const { server, ca, certificate, key } = {
      server: `127.0.0.1:${endpoint.port}`,
      ...files,
      ...changed,
    }
    return ['provider', 'doctor', '--server', server, '--ca', ca, '--certificate', certificate, '--key', key]
  }
  return { directory, kms, endpoint, credentials, file, files, walk }
}

/** The hop at which it breaks, which must be the last and say what to do. */
function brokenHop(t: ExecutionContext, argv: readonly string[]): string | undefined {
  const { status, stdout, stderr } = vmseal(['--json', ...argv])
  t.is(status, 1, stderr)
  const { ok, servers } = JSON.parse(stdout) as Told
  t.false(ok)
  const last = servers[0]?.hops.at(-1)
  t.false(last?.ok)
  t.truthy(last?.action)
  const text = vmseal(argv)
  t.is(text.status, 1)
  t.true(text.stdout.includes('FAILED'))
  return last?.hop
}

test('M4: every hop of a sound server, for machines and for people; no key stays at the KMS', async (t) => {
  const { endpoint, credentials, walk } = await startSite(t)
  const told = answer<Told>(t, walk())
  t.true(told.ok)
  t.deepEqual(
    told.servers[0]?.hops.map(({ hop }) => hop),
    hops,
  )
  const { status, stdout } = vmseal(walk())
  t.is(status, 0)
  for (const hop of hops) t.true(stdout.includes(hop), hop)
  const client = await KmipClient.connect({ ...endpoint, ...credentials })
  t.teardown(() => client.close())
  t.deepEqual(await client.locate(), [])
})

test('M4: the hop at which it breaks, status 1', async (t) => {
  const { directory, kms, file, walk } = await startSite(t)
  t.is(brokenHop(t, walk({ server: 'no-such-host.invalid:5696' })), 'dns')
  t.is(brokenHop(t, walk({ server: '127.0.0.1:1' })), 'tcp')
  const other = native.createAuthority('another', join(directory, 'another.key'))
  t.is(brokenHop(t, walk({ ca: file('another.pem', other) })), 'tls')
  const own = native.createSelfSignedClient('stranger', join(directory, 'stranger.key'))
  const stranger = { certificate: file('stranger.pem', own), key: join(directory, 'stranger.key') }
  t.is(brokenHop(t, walk(stranger)), 'client trust')
  kms('allow', 'vcenter', 'Get', 'Locate')
  t.is(brokenHop(t, walk()), 'create')
  kms('allow', 'vcenter', 'Create', 'Activate', 'Locate', 'Revoke', 'Destroy')
  t.is(brokenHop(t, walk()), 'get')
})

test('M4: a provider of a vCenter that is not running', async (t) => {
  const { directory, endpoint, credentials } = await startSite(t)
  const home = join(directory, 'vcenter')
  const vcenter = await VCenter.open({ directory: home })
  await vcenter.keyProviders.add({ id: 'kms-1', servers: [endpoint], credentials })
  const doctor = ['provider', 'doctor', 'kms-1', '--vcenter', home]
  t.is(refused(t, doctor, 4), 'VMSEAL_FILE_LOCKED')
  await vcenter.close()
  t.true(answer<Told>(t, doctor).ok)
  t.is(refused(t, ['provider', 'doctor', 'kms-2', '--vcenter', home], 2), 'VMSEAL_NOT_FOUND')
  t.is(refused(t, ['provider', 'doctor', 'kms-1', '--vcenter', directory], 2), 'VMSEAL_NOT_FOUND')
  t.is(refused(t, ['provider', 'doctor', 'kms-1'], 2), 'VMSEAL_INVALID_ARGUMENT')
})

test('M4: refused before anything is asked: options and files that are wrong', async (t) => {
  const { file, files, walk } = await startSite(t)
  t.is(refused(t, ['provider', 'doctor'], 2), 'VMSEAL_INVALID_ARGUMENT')
  t.is(refused(t, ['provider', 'doctor', '--server', '127.0.0.1'], 2), 'VMSEAL_INVALID_ARGUMENT')
  t.is(refused(t, walk({ ca: join(files.ca, 'x') }), 2), 'VMSEAL_NOT_FOUND')
  t.is(refused(t, walk({ ca: '/dev/zero' }), 2), 'VMSEAL_INVALID_ARGUMENT')
  const junk = file('junk', 'no PEM at all')
  for (const changed of [{ ca: junk }, { certificate: junk }, { key: junk }]) {
    const { status, stdout, stderr } = vmseal(walk(changed))
    t.true(status === 1 || status === 2, `${status}`)
    t.regex(stdout + stderr, /certificate|key|PEM/i)
    t.notRegex(stdout + stderr, /at .*\.js:\d+/, 'no stack')
  }
  t.notRegex(vmseal(walk({ key: files.ca })).stderr, /BEGIN/)
  t.true(readFileSync(files.key, 'utf8').includes('PRIVATE KEY'))
})
