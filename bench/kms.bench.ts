/**
 * The embedded KMS under load, its process beside the one that asks: durable Create and audited Get over kept
 * connections, memory over many requests, and PyKMIP's Get beside it where that is installed.
 *
 *   node --import=tsx bench/kms.bench.ts [--quick] [--json]
 */
import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { startPyKmip } from '../__test__/kmip/pykmip.js'
import { runs } from '../__test__/peers.js'
import { KmipClient } from '../src/kmip/client.js'
import type { KmipClientOptions } from '../src/kmip/client.js'
import { encodeRequest } from '../src/kmip/messages.js'
import { operationTable } from '../src/kmip/operations/table.js'
import { encodeTtlv } from '../src/kmip/ttlv/codec.js'
import { enumerations } from '../src/kmip/ttlv/enumerations.js'
import { structure } from '../src/kmip/ttlv/node.js'
import type { TtlvNode } from '../src/kmip/ttlv/node.js'
import { tags } from '../src/kmip/ttlv/tags.js'
import { Kms } from '../src/kms/kms.js'
import { native } from '../src/native/load.js'

export interface KmsRate {
  readonly server: 'vmseal' | 'PyKMIP'
  readonly operation: 'Create' | 'Get'
  readonly connections: number
  readonly perSecond: number
  /** Milliseconds. */
  readonly p50: number
  readonly p99: number
  /** Microseconds of CPU time for one request, all threads: what the rate is on a machine that has nothing else to do. */
  readonly cpu?: { readonly server: number; readonly client: number }
}

export interface KmsResult {
  readonly rates: readonly KmsRate[]
  /** Keys fetched in batches of 100 over four connections by our client. */
  readonly batched: { readonly keys: number; readonly perSecond: number }
  /** Resident bytes of the server after the warm-up and after `requests` more. */
  readonly memory: { readonly requests: number; readonly before: number; readonly after: number }
  readonly audit: { readonly records: number; readonly ok: boolean }
  /** Load averages of one minute. */
  readonly load: { readonly before: number; readonly after: number }
}

export async function measureKms(quick: boolean): Promise<KmsResult> {
  const load = { before: loadavg()[0] ?? 0, after: 0 }
  const directory = mkdtempSync(join(tmpdir(), 'vmseal-bench-kms-'))
  const seconds = quick ? 2 : 6
  try {
    const served = await serve(join(directory, 'kms'))
    const rates: KmsRate[] = []
    const ids = await fill(served.options, 1000)
    const measure = async (operation: KmsRate['operation'], connections: number) =>
      rates.push({
        server: 'vmseal',
        ...(await measureRate(served.options, operation, connections, ids, seconds, served.child)),
      })
    for (const connections of [1, 4, 16, 64]) await measure('Create', connections)
    for (const connections of [1, 4, 16, 64]) await measure('Get', connections)
    const batched = await fetchBatched(served.options, ids, quick ? 10_000 : 40_000)
    const before = await memory(served.child)
    const requests = quick ? 20_000 : 200_000
    await repeat(served.options, 'Get', 16, ids, (done) => done < requests)
    const after = await memory(served.child)
    served.child.kill('SIGKILL')
    await once(served.child, 'exit')
    const { records, ok } = await Kms.verifyAudit(join(directory, 'kms'))
    const peer = await measurePyKmip(seconds)
    load.after = loadavg()[0] ?? 0
    return {
      rates: [...rates, ...peer],
      batched,
      memory: { requests, before, after },
      audit: { records, ok },
      load,
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

async function serve(directory: string): Promise<{ child: ChildProcess; options: KmipClientOptions }> {
  const script = fileURLToPath(new URL('kms-serve.ts', import.meta.url))
  const child = fork(script, [directory], { execArgv: ['--import=tsx', '--expose-gc'] })
  const [{ endpoint, credentials }] = (await once(child, 'message')) as [
    Pick<Served, 'endpoint' | 'credentials'>,
  ]
  return { child, options: { ...endpoint, ...credentials } }
}

interface Served {
  readonly endpoint: Pick<KmipClientOptions, 'host' | 'port'>
  readonly credentials: Omit<KmipClientOptions, 'host' | 'port'>
}

async function memory(child: ChildProcess): Promise<number> {
  child.send('memory')
  const [bytes] = (await once(child, 'message')) as [number]
  return bytes
}

async function fill(options: KmipClientOptions, count: number): Promise<string[]> {
  const client = await KmipClient.connect(options)
  try {
    return await Promise.all(Array.from({ length: count }, async () => (await client.create()).id))
  } finally {
    client.close()
  }
}

async function fetchBatched(
  options: KmipClientOptions,
  ids: readonly string[],
  count: number,
): Promise<KmsResult['batched']> {
  const clients = await Promise.all(Array.from({ length: 4 }, () => KmipClient.connect(options)))
  let [next, keys] = [0, 0]
  const begin = performance.now()
  await Promise.all(
    clients.map(async (client) => {
      while (next < count) {
        const from = next
        next += 100
        const batch = Array.from({ length: 100 }, (_, index) => ids[(from + index) % ids.length] as string)
        const results = await client.batch(
          batch.map((id) => ({ operation: 'Get', request: { id } }) as const),
        )
        for (const result of results) {
          if (result.status === 'rejected') throw result.reason
          result.value.key?.dispose()
          keys++
        }
      }
    }),
  )
  const elapsed = performance.now() - begin
  for (const client of clients) client.close()
  return { keys, perSecond: (keys / elapsed) * 1000 }
}

async function measurePyKmip(seconds: number): Promise<KmsRate[]> {
  if (!runs('/usr/bin/python3', '-c', 'import kmip')) return []
  const endings: (() => unknown)[] = []
  try {
    const options = await startPyKmip({ teardown: (end) => void endings.push(end) })
    const ids = await fill(options, 50)
    const rates: KmsRate[] = []
    for (const connections of [1, 16])
      rates.push({ server: 'PyKMIP', ...(await measureRate(options, 'Get', connections, ids, seconds)) })
    return rates
  } finally {
    for (const end of endings.toReversed()) await end()
  }
}

async function measureRate(
  options: KmipClientOptions,
  operation: KmsRate['operation'],
  connections: number,
  ids: readonly string[],
  seconds: number,
  server?: ChildProcess,
): Promise<Omit<KmsRate, 'server'>> {
  await repeat(options, operation, connections, ids, (done, elapsed) => elapsed < 500 && done < 2000)
  const before = server && (await cpuTimes(server))
  const { times, elapsed } = await repeat(
    options,
    operation,
    connections,
    ids,
    (_, ms) => ms < seconds * 1000,
  )
  const sorted = times.toSorted((a, b) => a - b)
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
  const after = server && (await cpuTimes(server))
  const perRequest = (side: 'server' | 'client') =>
    ((after?.[side] ?? 0) - (before?.[side] ?? 0)) / times.length
  return {
    operation,
    connections,
    perSecond: (times.length / elapsed) * 1000,
    p50: at(0.5),
    p99: at(0.99),
    ...(server ? { cpu: { server: perRequest('server'), client: perRequest('client') } } : {}),
  }
}

/** Microseconds since each process began. */
async function cpuTimes(child: ChildProcess): Promise<{ server: number; client: number }> {
  child.send('cpu')
  const [server] = (await once(child, 'message')) as [NodeJS.CpuUsage]
  const client = process.cpuUsage()
  return { server: server.user + server.system, client: client.user + client.system }
}

type Ask = (id: string) => Promise<void>

/** Asks over a connection of its own, with messages that are made beforehand: the server is measured, not our client. */
async function open(
  options: KmipClientOptions,
  operation: KmsRate['operation'],
  messages: ReadonlyMap<string, Buffer>,
): Promise<{ ask: Ask; close: () => void }> {
  const { caCertificate, ...rest } = options
  const connection = await native.KmipConnection.open({ ...rest, caCertificates: caCertificate })
  const ask = async (id: string) => {
    const { message, keys } = await connection.request(messages.get(id) as Buffer, [])
    for (const key of keys) key.dispose()
    const isDone = operation === 'Get' ? keys.length === 1 : message.includes(isSuccess)
    if (!isDone) throw new Error(`${operation} failed`)
  }
  return { ask, close: () => connection.close() }
}

/** Result Status Success as an item. */
const isSuccess = Buffer.from('42007f050000000400000000', 'hex')

function prepare(operation: KmsRate['operation'], ids: readonly string[]): Map<string, Buffer> {
  const attributes = [
    { name: 'Cryptographic Algorithm', value: 'AES' },
    { name: 'Cryptographic Usage Mask', value: 12 },
    { name: 'Cryptographic Length', value: 256 },
  ]
  const message = (payload: TtlvNode[]) =>
    encodeTtlv(
      encodeRequest({
        header: { version: '1.1' },
        items: [
          { operation: enumerations.Operation[operation], payload: structure(tags.RequestPayload, payload) },
        ],
      }),
    )
  return new Map(
    ids.map((id) => [
      id,
      message(
        operation === 'Get'
          ? operationTable.Get.encodeRequest({ id }, '1.1')
          : operationTable.Create.encodeRequest({ objectType: 'SymmetricKey', attributes }, '1.1'),
      ),
    ]),
  )
}

async function repeat(
  options: KmipClientOptions,
  operation: KmsRate['operation'],
  connections: number,
  ids: readonly string[],
  goesOn: (done: number, elapsedMs: number) => boolean,
): Promise<{ times: number[]; elapsed: number }> {
  const messages = prepare(operation, ids)
  const clients = await Promise.all(
    Array.from({ length: connections }, () => open(options, operation, messages)),
  )
  const times: number[] = []
  const begin = performance.now()
  let next = 0
  await Promise.all(
    clients.map(async (client) => {
      while (goesOn(next, performance.now() - begin)) {
        const id = ids[next++ % ids.length] as string
        const start = performance.now()
        await client.ask(id)
        times.push(performance.now() - start)
      }
    }),
  )
  const elapsed = performance.now() - begin
  for (const client of clients) client.close()
  return { times, elapsed }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const result = await measureKms(process.argv.includes('--quick'))
  if (process.argv.includes('--json')) process.stdout.write(`${JSON.stringify(result, undefined, 2)}\n`)
  else show(result)
}

function show({ rates, batched, memory: used, audit, load }: KmsResult): void {
  for (const { server, operation, connections, perSecond, p50, p99, cpu } of rates)
    process.stdout.write(
      `${server} ${operation} x${connections}: ${Math.round(perSecond)}/s, p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms${cpu ? `, CPU ${Math.round(cpu.server)} + ${Math.round(cpu.client)} us` : ''}\n`,
    )
  process.stdout.write(`${batched.keys} keys in batches of 100: ${Math.round(batched.perSecond)}/s\n`)
  const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1)
  process.stdout.write(`memory over ${used.requests} Gets: ${mib(used.before)} -> ${mib(used.after)} MiB\n`)
  process.stdout.write(`audit: ${audit.records} records, ${audit.ok ? 'whole' : 'BROKEN'}\n`)
  process.stdout.write(`load: ${load.before.toFixed(1)} -> ${load.after.toFixed(1)}\n`)
}
