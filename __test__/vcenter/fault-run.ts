/** Keys made and fetched through servers that fail all the time; then everything at the KMS is accounted for. */
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { Kms, isVmsealError } from '../../src/index.js'
import { KmipClient } from '../../src/kmip/client.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { KeyProvider, UnusedKeyError } from '../../src/vcenter/key-provider.js'
import { faults, startFaultProxy, type Fault } from './fault-proxy.js'

export interface FaultRunResult {
  /** Faults that struck, by kind. */
  readonly struck: ReadonlyMap<Fault, number>
  readonly faults: number
  readonly created: number
  readonly refusedCreates: number
  readonly fetched: number
  readonly refusedFetches: number
  /** Keys at the KMS that no call returned. */
  readonly orphans: readonly string[]
  /** Names that more than one key at the KMS has, and ids that two calls got. */
  readonly duplicates: number
  /** Calls that ended after their deadline. */
  readonly late: number
  /** The longest call. */
  readonly longestMs: number
  readonly unexpected: readonly unknown[]
  /** Keys at the KMS. */
  readonly keys: number
}

const timing = {
  connectTimeoutMs: 400,
  requestTimeoutMs: 250,
  operationTimeoutMs: 1500,
  hedgeDelayMs: 60,
  firstBackoffMs: 5,
  longestBackoffMs: 40,
}
/**
 * From the moment at which a timer of the deadline could fire: on a busy machine that is later than it should be, for
 * the calls as well.
 */
const slackMs = 250
const callsAtOnce = 32
const purpose = { name: 'db01', identifier: '00000000-0000-4000-8000-000000000001' }

export async function runFaults(wanted: number, seed: number): Promise<FaultRunResult> {
  const directory = await mkdtemp(path.join(memoryDirectory(), 'vmseal-faults-'))
  const kms = await Kms.start({ directory: path.join(directory, 'kms') })
  const stranger = await Kms.start({ directory: path.join(directory, 'stranger') })
  const credentials = await kms.enrol('vcenter')
  const store = openSqliteStore(path.join(directory, 'vcenter.db'))
  const random = mulberry32(seed)
  const proxies = await Promise.all([0, 1, 2].map(() => startFaultProxy({ kms, stranger, random })))
  const provider = new KeyProvider({
    record: { id: 'kms-1', servers: proxies, ...credentials, addedAt: '' },
    privateKeyFile: credentials.privateKeyFile,
    creations: store.keyCreations,
    timing,
  })
  const result = { created: 0, refusedCreates: 0, fetched: 0, refusedFetches: 0, late: 0, longestMs: 0 }
  const unexpected: unknown[] = []
  const ids: string[] = []
  const struck = (): number => sum(proxies.flatMap(({ done }) => [...done.values()]))
  const timed = async (work: () => Promise<void>): Promise<void> => {
    const begin = performance.now()
    let due = Infinity
    const timer = setTimeout(() => (due = performance.now()), timing.operationTimeoutMs)
    await work()
    clearTimeout(timer)
    result.longestMs = Math.max(result.longestMs, performance.now() - begin)
    if (performance.now() > due + slackMs) result.late += 1
  }
  const expected = (error: unknown): void => {
    const reason = error instanceof UnusedKeyError ? error.reason : error
    if (!isVmsealError(reason, 'VMSEAL_KEY_PROVIDER_UNREACHABLE')) unexpected.push(reason)
  }
  const create = () =>
    timed(async () => {
      try {
        ids.push(await provider.createKey(purpose))
        result.created += 1
      } catch (error) {
        result.refusedCreates += 1
        expected(error)
      }
    })
  const fetch = () =>
    timed(async () => {
      try {
        ;(await provider.fetchKey(ids[Math.floor(random() * ids.length)] as string)).dispose()
        result.fetched += 1
      } catch (error) {
        result.refusedFetches += 1
        expected(error)
      }
    })

  await create()
  for (const proxy of proxies)
    proxy.plan = () => (random() < 0.9 ? faults[Math.floor(random() * faults.length)] : undefined)
  const work = async (): Promise<void> => {
    while (struck() < wanted) await (random() < 0.6 ? create() : fetch())
  }
  await Promise.all(Array.from({ length: callsAtOnce }, work))

  for (const proxy of proxies) {
    proxy.plan = () => undefined
    proxy.cut()
  }
  // What was left unclear is looked after by the next calls, a few names at a time.
  const unclear = await provider.unusedCreations()
  for (let looks = 0; looks <= unclear / 4;) {
    const before = await provider.unusedCreations()
    await create()
    const left = await store.keyCreations.list('kms-1')
    // Those that stay never reached the KMS.
    if (left.length >= before && left.every(({ keyId }) => keyId === null)) looks += 1
  }
  const client = await KmipClient.connect({ ...kms.endpoint, ...credentials })
  const atKms: string[] = []
  for (;;) {
    const page = await client.locate({ maximumItems: 500, offsetItems: atKms.length })
    if (page.length === 0) break
    atKms.push(...page)
  }
  const names: unknown[] = []
  for (const id of atKms) names.push(JSON.stringify((await client.getAttributes(id, ['Name']))[0]?.value))
  client.close()
  await provider.close()
  for (const proxy of proxies) await proxy.close()
  await store.close()
  await kms.stop()
  await stranger.stop()
  await rm(directory, { recursive: true, force: true })
  const returned = new Set(ids)
  const totals = new Map<Fault, number>()
  for (const { done } of proxies)
    for (const [fault, times] of done) totals.set(fault, (totals.get(fault) ?? 0) + times)
  return {
    ...result,
    struck: totals,
    faults: sum([...totals.values()]),
    orphans: atKms.filter((id) => !returned.has(id)),
    duplicates: names.length - new Set(names).size + (ids.length - returned.size),
    unexpected,
    keys: atKms.length,
  }
}

/** It is the network that fails here: a disk that is waited for would only make the run longer. */
function memoryDirectory(): string {
  return existsSync('/dev/shm') ? '/dev/shm' : tmpdir()
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0)
}

/** A small generator with a seed: a run that fails can be repeated. */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
