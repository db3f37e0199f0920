/** Row K2 with real processes: what a crash handler writes is opaque when it lands, and is decrypted on order only. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { temporaryDirectory } from '../kms/running-kms.js'
import { answer, refused, startServing, vmseal } from './command.js'
import { run, type Running } from './running.js'

const marker = 'memory of a process that crashed'
const core = Buffer.alloc(2 * 2 ** 20, marker)

interface Site {
  readonly parent: string
  readonly kms: string
  readonly issued: string
  readonly vcenter: string
  readonly host: string
  readonly datastore: string
  start(): Promise<Running>
}

/** A KMS, a vCenter and a safe host with an encrypted VM, each a process. */
async function openSite(t: ExecutionContext): Promise<Site> {
  const parent = temporaryDirectory(t)
  const [kms, issued, vcenter, host, datastore] = ['kms', 'issued', 'vcenter', 'esx-1', 'ds1'].map((name) =>
    path.join(parent, name),
  ) as [string, string, string, string, string]
  mkdirSync(datastore)
  const serving = await startServing(t, kms)
  answer(t, ['kms', 'enrol', 'vcenter', '--directory', kms, '--output', issued])
  const words = ['host', 'start', '--name', 'esx-1', '--datastore', `ds1=${datastore}`, '--directory', host]
  let port = 0
  const start = async (): Promise<Running> => {
    const agent = run(t, ...words, '--listen', `127.0.0.1:${port}`)
    const line = await agent.line(({ event }) => event === 'waiting' || event === 'serving')
    port = (line.address as { port: number }).port
    if (line.event === 'waiting') writeFileSync(path.join(parent, 'token'), String(line.token))
    return agent
  }
  return { parent, kms, issued, vcenter, host, datastore, start: async () => {
    const agent = await start()
    if (existsSync(vcenter)) return agent
    const to = ['--vcenter', vcenter]
    const running = run(t, 'vcenter', 'start', vcenter)
    await running.line(({ event }) => event === 'serving')
    const server = `${serving.endpoint.host}:${serving.endpoint.port}`
    answer(t, ['provider', 'add', 'kms-1', '--server', server, '--credentials', issued, ...to])
    answer(t, ['cluster', 'create', 'prod', ...to])
    const add = ['host', 'add', `127.0.0.1:${port}`, '--cluster', 'prod', '--token-file', path.join(parent, 'token')]
    answer(t, [...add, ...to])
    answer(t, ['vm', 'create', 'db01', '--cluster', 'prod', '--datastore', 'ds1', '--disk', '1M', '--policy', 'VM Encryption Policy', ...to])
    return agent
  } } // prettier-ignore
}

/** What a crash handler does: it writes into a pipe, so that no plaintext is a file. */
async function throughPipe<Result>(site: Site, use: (pipe: string) => Result): Promise<Awaited<Result>> {
  const pipe = path.join(site.parent, `pipe-${readdirSync(site.parent).length}`)
  if (spawnSync('mkfifo', [pipe]).status !== 0) throw new Error('no mkfifo')
  const written = writeFile(pipe, core)
  const result = await use(pipe)
  await written
  return result
}

/** Files below `directory` that hold the marker. */
function plaintext(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' }).filter((name) => {
    const file = path.join(directory, name)
    return statSync(file).isFile() && readFileSync(file).includes(marker)
  })
}

async function untilSafe(t: ExecutionContext, host: string): Promise<void> {
  while (answer(t, ['host', 'status', '--directory', host]).cryptoState !== 'safe') await delay(50)
}

test('K2: a dump of a host and one of its VM are opaque, survive a crash of the host, and are decrypted on order', async (t) => {
  const site = await openSite(t)
  const { host, parent } = site
  const at = ['--directory', host]
  t.is(refused(t, ['host', 'status', ...at], 2), 'VMSEAL_HOST_NOT_RUNNING')
  const agent = await site.start()
  const status = answer<{ cryptoState: string; cryptoKeyId: object }>(t, ['host', 'status', ...at])
  t.is(status.cryptoState, 'safe')

  // Both commands wait for the pipe, so they are processes of their own here.
  const writing = run(t, 'host', 'dump', 'write', 'vmkernel-1', path.join(parent, 'pipe'), ...at)
  t.is(await writing.ended, 2, 'there is no such source')
  const ordered = async (...argv: string[]): Promise<number | null> =>
    throughPipe(site, async (pipe) => run(t, ...argv.map((word) => (word === 'PIPE' ? pipe : word))).ended)
  t.is(await ordered('host', 'dump', 'write', 'vmkernel-1', 'PIPE', ...at), 0)
  t.is(await ordered('host', 'dump', 'write-vm', 'ds1', 'db01/db01.vmx', 'PIPE', '--label', '-1', ...at), 0)
  t.like(await agent.line(({ event }) => event === 'dumpWritten'), { key: status.cryptoKeyId })
  t.deepEqual(plaintext(parent), [])
  const dump = path.join(host, 'dumps/vmkernel-1.dump')
  t.like(answer(t, ['host', 'dump', 'info', dump]), { hostName: 'esx-1', key: status.cryptoKeyId })

  agent.kill('SIGKILL')
  await agent.ended
  t.is(refused(t, ['host', 'dump', 'extract', dump, '--output', path.join(parent, 'x'), ...at], 2), 'VMSEAL_HOST_NOT_RUNNING') // prettier-ignore
  const again = await site.start()
  await untilSafe(t, host)
  const opened = path.join(parent, 'opened')
  const extracted = answer(t, ['host', 'dump', 'extract', dump, '--output', opened, ...at])
  t.like(extracted, { target: opened, dump: { key: status.cryptoKeyId } })
  t.true(readFileSync(opened).equals(core))
  t.is(statSync(opened).mode & 0o777, 0o600)
  t.like(await again.line(({ event }) => event === 'dumpExtraction'), { file: dump, target: opened })
  t.deepEqual(plaintext(parent), ['opened'])

  const ofVm = path.join(parent, 'opened-vm')
  const extractVm = ['host', 'dump', 'extract-vm', 'ds1', 'db01/db01.vmx', '--output', ofVm, ...at]
  t.is(refused(t, extractVm, 2), 'VMSEAL_NOT_FOUND', 'the label is part of its name')
  answer(t, [...extractVm, '--label', '-1'])
  t.true(readFileSync(ofVm).equals(core))
  t.is(statSync(ofVm).mode & 0o777, 0o600)

  // Nothing is overwritten, and what is refused leaves nothing.
  t.is(refused(t, ['host', 'dump', 'extract', dump, '--output', opened, ...at], 2), 'VMSEAL_ALREADY_EXISTS')
  t.like(await again.line(({ event, error }) => event === 'dumpExtractionFailed' && error === 'VMSEAL_ALREADY_EXISTS'), { target: opened }) // prettier-ignore
  again.kill('SIGTERM')
  t.is(await again.ended, 0)
})

test('K2: a dump opens with its key from the KMS, also when the host is gone; another host key is refused by name', async (t) => {
  const site = await openSite(t)
  const { host, parent, kms, issued } = site
  const at = ['--directory', host]
  const agent = await site.start()
  const { cryptoKeyId } = answer<{ cryptoKeyId: { keyId: string } }>(t, ['host', 'status', ...at])
  const source = path.join(parent, 'core')
  writeFileSync(source, core)
  answer(t, ['host', 'dump', 'write', 'first', source, ...at])
  const dump = path.join(host, 'dumps/first.dump')
  const kept = readFileSync(`${dump}.key`)

  // The key changes; a copy of the dump from before still names the old one.
  answer(t, ['host', 'set-key', 'esx-1', '--vcenter', site.vcenter])
  const old = path.join(parent, 'old.dump')
  writeFileSync(old, readFileSync(dump))
  writeFileSync(`${old}.key`, kept)
  const out = path.join(parent, 'out')
  const { status, stderr } = vmseal(['--json', 'host', 'dump', 'extract', old, '--output', out, ...at])
  t.is(status, 1)
  const { error } = JSON.parse(stderr) as { error: { code: string; message: string; details: object } }
  t.is(error.code, 'VMSEAL_ENCRYPTION_KEY_REQUIRED')
  t.true(error.message.includes(cryptoKeyId.keyId))
  t.like(error.details, { requiredKeys: [cryptoKeyId] })
  t.false(existsSync(out))
  agent.kill('SIGTERM')
  t.is(await agent.ended, 0)

  const from = ['--kms', kms, '--credentials', issued]
  for (const file of [old, dump]) {
    answer(t, ['host', 'dump', 'extract', file, '--output', out, ...from])
    t.true(readFileSync(out).equals(core))
    t.is(statSync(out).mode & 0o777, 0o600)
    spawnSync('rm', [out])
  }

  // A word more or less, a byte changed, and no key at all.
  const extract = ['host', 'dump', 'extract', old, '--output', out]
  t.is(refused(t, extract, 2), 'VMSEAL_INVALID_ARGUMENT')
  t.is(refused(t, [...extract, ...from, ...at], 2), 'VMSEAL_INVALID_ARGUMENT')
  t.is(
    refused(t, ['host', 'dump', 'extract', source, '--output', out, ...from], 2),
    'VMSEAL_INVALID_ARGUMENT',
  )
  const altered = readFileSync(old)
  altered[altered.length >> 1] = (altered[altered.length >> 1] ?? 0) ^ 1
  writeFileSync(old, altered)
  t.is(refused(t, [...extract, ...from], 2), 'VMSEAL_STREAM_INVALID')
  writeFileSync(
    `${old}.key`,
    readFileSync(`${old}.key`).map((byte, at) => (at === 40 ? byte ^ 1 : byte)),
  )
  t.regex(refused(t, [...extract, ...from], 2), /^VMSEAL_ENVELOPE_/)
  t.false(existsSync(out))
})
