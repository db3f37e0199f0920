/**
 * How fast a provider fetches the keys of a whole site, all different ones, from an embedded KMS in a process of its
 * own: in bulk, and one by one beside it.
 *
 *   node --import=tsx bench/key-provider-bulk.ts [--quick]
 */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { KmipClient, type KmipClientOptions } from '../src/kmip/client.js'
import { cryptographicUsage } from '../src/kmip/ttlv/enumerations.js'
import { openSqliteStore } from '../src/store/sqlite-store.js'
import { KeyProvider } from '../src/vcenter/key-provider.js'

interface FetchRate {
  readonly keys: number
  readonly seconds: number
  readonly perSecond: number
}

export interface ProviderBulkResult {
  /** `KeyProvider.fetchKeys`: each key once, and each a different one. */
  readonly bulk: FetchRate
  /** `KeyProvider.fetchKey`, 16 calls at once. */
  readonly oneByOne: FetchRate
  /** Keys that could not be had. */
  readonly failed: number
  /** Load averages of one minute. */
  readonly load: { readonly before: number; readonly after: number }
}

type Served = Pick<KmipClientOptions, 'host' | 'port' | 'caCertificate' | 'certificate' | 'privateKeyFile'>

const madeTogether = 50
const callsAtOnce = 16

/** 40,000 keys, or 4,000. */
export async function measureProviderBulk(quick: boolean): Promise<ProviderBulkResult> {
  const before = loadavg()[0] ?? 0
  const directory = mkdtempSync(join(tmpdir(), 'vmseal-bench-provider-'))
  const child = fork(fileURLToPath(new URL('kms-serve.ts', import.meta.url)), [join(directory, 'kms')], {
    execArgv: ['--import=tsx', '--expose-gc'],
  })
  try {
    const served = await announced(child)
    const ids = await makeKeys(served, quick ? 4000 : 40_000)
    const store = openSqliteStore(join(directory, 'vcenter.db'))
    const { host, port, ...credentials } = served
    const provider = new KeyProvider({
      record: { id: 'bench', servers: [{ host, port }], ...credentials, addedAt: '' },
      privateKeyFile: credentials.privateKeyFile,
      creations: store.keyCreations,
    })
    let failed = 0
    const bulk = await timed(ids.length, async () => {
      let fetched = 0
      const failures = await provider.fetchKeys(ids, () => void (fetched += 1))
      failed += failures.size + (ids.length - failures.size - fetched)
    })
    const some = ids.slice(0, quick ? 1000 : 4000)
    const oneByOne = await timed(some.length, async () => {
      const left = [...some]
      const work = async (): Promise<void> => {
        for (let id = left.pop(); id !== undefined; id = left.pop()) (await provider.fetchKey(id)).dispose()
      }
      await Promise.all(Array.from({ length: callsAtOnce }, work))
    })
    await provider.close()
    await store.close()
    return { bulk, oneByOne, failed, load: { before, after: loadavg()[0] ?? 0 } }
  } finally {
    child.kill('SIGKILL')
    rmSync(directory, { recursive: true, force: true })
  }
}

async function announced(child: ChildProcess): Promise<Served> {
  const [{ endpoint, credentials }] = (await once(child, 'message')) as [
    { endpoint: Pick<Served, 'host' | 'port'>; credentials: Omit<Served, 'host' | 'port'> },
  ]
  return { ...endpoint, ...credentials }
}

const createRequest = {
  objectType: 'SymmetricKey',
  attributes: [
    { name: 'Cryptographic Algorithm', value: 'AES' },
    { name: 'Cryptographic Usage Mask', value: cryptographicUsage.Encrypt | cryptographicUsage.Decrypt },
    { name: 'Cryptographic Length', value: 256 },
  ],
} as const

async function makeKeys(served: Served, count: number): Promise<string[]> {
  const ids: string[] = []
  let left = count
  const work = async (): Promise<void> => {
    const client = await KmipClient.connect(served)
    while (left > 0) {
      const size = Math.min(madeTogether, left)
      left -= size
      const made = await client.batch(
        Array.from({ length: size }, () => ({
          operation: 'Create' as const,
          request: createRequest,
        })),
      )
      const fresh = made.map((answer) => {
        if (answer.status === 'rejected') throw answer.reason
        return answer.value.id
      })
      const activated = await client.batch(
        fresh.map((id) => ({ operation: 'Activate' as const, request: { id } })),
      )
      for (const answer of activated) if (answer.status === 'rejected') throw answer.reason
      ids.push(...fresh)
    }
    client.close()
  }
  await Promise.all(Array.from({ length: 8 }, work))
  return ids
}

async function timed(keys: number, work: () => Promise<void>): Promise<FetchRate> {
  const begin = performance.now()
  await work()
  const seconds = (performance.now() - begin) / 1000
  return { keys, seconds: Math.round(seconds * 100) / 100, perSecond: Math.round(keys / seconds) }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const result = await measureProviderBulk(process.argv.includes('--quick'))
  process.stdout.write(`${JSON.stringify(result, undefined, 2)}\n`)
  if (result.failed > 0) process.exitCode = 1
}
