/** Requirement: in the process of a KMS that serves, the arena alone holds keys; when it stopped, nothing does. */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { fetchKek } from '../../examples/main-job/independent-reader.js'
import type { KmsAccess } from '../../examples/main-job/independent-reader.js'
import { KmipClient } from '../../src/kmip/client.js'
import { native } from '../../src/native/load.js'
import { requirePeer } from '../peers.js'
import { needlesOf, scanFile, scanMemory } from './scanner.js'

interface ScannedKms extends KmsAccess {
  readonly pid: number
  readonly directory: string
  step(name: 'rotate' | 'backup' | 'stop'): Promise<void>
  connect(): Promise<KmipClient>
}

async function startScanned(
  t: ExecutionContext,
  environment: Record<string, string> = {},
): Promise<ScannedKms> {
  const parent = mkdtempSync(join(tmpdir(), 'vmseal-scanned-'))
  const directory = join(parent, 'kms')
  const script = fileURLToPath(new URL('kms-scenario.mjs', import.meta.url))
  const child = spawn(process.execPath, [script, directory], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, ...environment },
  })
  t.teardown(() => {
    child.kill('SIGKILL')
    rmSync(parent, { recursive: true, force: true })
  })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const read = async () => JSON.parse((await lines.next()).value ?? '') as Record<string, unknown>
  const { endpoint, credentials } = await read()
  const access = { kms: endpoint, credentials } as KmsAccess
  return {
    ...access,
    pid: child.pid ?? 0,
    directory,
    step: async (name) => {
      child.stdin.write(`${name}\n`)
      t.is((await read()).step, name)
    },
    connect: async () => {
      const client = await KmipClient.connect({ ...access.kms, ...access.credentials })
      t.teardown(() => client.close())
      return client
    },
  }
}

/** Makes, takes in, wraps, replaces and gives out keys in every way that the KMS has; the ids of all. */
async function work(kms: ScannedKms): Promise<string[]> {
  const client = await kms.connect()
  const ids: string[] = []
  for (let n = 0; n < 4; n += 1) ids.push((await client.create()).id)
  for (const id of ids) await client.activate(id)
  const given = native.KeyHandle.generate(32)
  ids.push(await register(client, given))
  given.dispose()
  const [first = '', second = ''] = ids
  const wrappingKeyId = (await client.create({ usageMask: 0x30 })).id
  await client.activate(wrappingKeyId)
  ids.push(wrappingKeyId)
  const wrapping = { method: 'Encrypt', wrappingKeyId, encodingOption: 'NoEncoding' } as const
  const [replaced] = await client.batch([{ operation: 'ReKey', request: { id: second } }] as const)
  if (replaced?.status === 'fulfilled') ids.push(replaced.value.id)
  for (let round = 0; round < 5; round += 1) {
    const got = await client.batch(ids.map((id) => ({ operation: 'Get', request: { id } }) as const))
    for (const answer of got) if (answer.status === 'fulfilled') answer.value.key?.dispose()
    await client.batch([{ operation: 'Get', request: { id: first, wrapping } }] as const)
  }
  return ids
}

async function register(client: KmipClient, key: InstanceType<typeof native.KeyHandle>): Promise<string> {
  const [answer] = await client.batch([
    {
      operation: 'Register',
      request: {
        key,
        algorithm: 'AES',
        length: 256,
        attributes: [{ name: 'Cryptographic Usage Mask', value: 12 }],
      },
    },
  ] as const)
  if (answer?.status !== 'fulfilled') throw answer?.reason ?? new Error('no answer')
  return answer.value.id
}

/** Every key of the KMS, as another program gets it, and its root keys, as they lie in their files. */
async function needles(kms: ScannedKms, ids: readonly string[]): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>()
  const add = (name: string, key: Buffer) => {
    for (const [needle, value] of needlesOf(name, key)) found.set(needle, value)
  }
  for (const id of ids) add(`key ${id}`, await fetchKek(kms, id))
  for (const file of readdirSync(kms.directory))
    if (/^root.*\.key$/.test(file)) add(file, readFileSync(join(kms.directory, file)))
  return found
}

function mayReadMemory(t: ExecutionContext): boolean {
  return requirePeer(t, 'reading /proc/PID/mem of a child (Linux, same user)', existsSync('/proc/self/smaps'))
}

for (const [memory, environment] of [
  ['memfd_secret', {}],
  ['locked memory', { VMSEAL_KEY_MEMORY: 'locked' }],
] as const)
  test.serial(
    `A6: a KMS that serves has keys in its arena alone; when it stopped, none (${memory})`,
    async (t) => {
      if (!mayReadMemory(t)) return t.pass()
      const kms = await startScanned(t, environment)
      const ids = await work(kms)
      t.is(ids.length, 7)
      const seen = await needles(kms, ids)
      const look = (when: string, wanted: Map<string, Buffer>) => {
        const { findings, bytes } = scanMemory(kms.pid, wanted)
        t.log(`${when}: scanned ${(bytes / 2 ** 20).toFixed(0)} MiB for ${wanted.size} needles`)
        t.true(bytes > 20 * 2 ** 20)
        return findings
      }
      const text = new Map([['id', Buffer.from(ids[0] ?? '')]])
      t.true(look('control', text).length > 0, 'what is no key is found where it lies')
      t.deepEqual(look('serving', seen), [])
      await kms.step('rotate')
      await kms.step('backup')
      for (const [name, value] of await needles(kms, ids)) seen.set(name, value)
      t.deepEqual(look('after a rotation and a backup', seen), [])
      for (const file of ['kms/kms.db', 'kms/kms.db-wal', 'kms/audit.log', 'backup'])
        if (existsSync(join(kms.directory, '..', file)))
          t.deepEqual(scanFile(join(kms.directory, '..', file), seen), [], file)
      await kms.step('stop')
      t.deepEqual(look('stopped', seen), [])
    },
  )

test.serial('A6: a core dump of a KMS that serves holds no key', async (t) => {
  const gcore = spawnSync('gcore', ['--help'], { stdio: 'ignore' }).error === undefined
  if (!requirePeer(t, 'gdb (gcore)', gcore)) return t.pass()
  const kms = await startScanned(t)
  const ids = await work(kms)
  const directory = mkdtempSync(join(tmpdir(), 'vmseal-core-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const { status, stderr } = spawnSync('gcore', ['-o', join(directory, 'core'), String(kms.pid)], {
    encoding: 'utf8',
  })
  t.is(status, 0, stderr)
  const [core = ''] = readdirSync(directory)
  t.deepEqual(scanFile(join(directory, core), await needles(kms, ids)), [])
})

test.serial('control: a KMS that leaks on purpose is found out', async (t) => {
  if (!mayReadMemory(t)) return t.pass()
  const kms = await startScanned(t, {
    VMSEAL_PREBUILD: fileURLToPath(new URL('../../build/planted-faults', import.meta.url)),
  })
  const { findings } = scanMemory(kms.pid, await needles(kms, await work(kms)))
  t.true(findings.some(({ needle }) => needle.startsWith('key ')))
})
