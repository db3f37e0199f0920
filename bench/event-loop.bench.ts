/** How long the event loop waits while `encryptAsync` works on a large buffer. */
import { monitorEventLoopDelay, performance, type IntervalHistogram } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { SecretKey, XtsCipher } from '../src/crypto.js'
import type { EventLoopResult } from './report.js'

/** The histogram's timer fires every millisecond; what it shows includes that millisecond. */
const resolution = 1

export async function measureEventLoop(bytes: number, calls: number): Promise<EventLoopResult> {
  const cipher = new XtsCipher(SecretKey.generate(64), { sectorSize: 512 })
  let data: Uint8Array = Buffer.allocUnsafeSlow(bytes).fill(0x5a)
  data = await cipher.encryptAsync(data, 0)
  const idle = await watched(() => sleep(500))
  const begin = performance.now()
  const busy = await watched(async () => {
    for (let call = 0; call < calls; call++) data = await cipher.encryptAsync(data, 0)
  })
  const seconds = (performance.now() - begin) / 1000
  for (let call = 0; call <= calls; call++) data = await cipher.decryptAsync(data, 0)
  if (data.length !== bytes || data[0] !== 0x5a || data[bytes - 1] !== 0x5a)
    throw new Error('encryptAsync and decryptAsync do not undo one another')
  cipher.dispose()
  return {
    bytes,
    calls,
    gbps: (bytes * calls) / seconds / 1e9,
    samples: busy.count,
    p50Ms: busy.percentile(50) / 1e6,
    p99Ms: busy.percentile(99) / 1e6,
    maxMs: busy.max / 1e6,
    idleP99Ms: idle.percentile(99) / 1e6,
  }
}

async function watched(work: () => Promise<unknown>): Promise<IntervalHistogram> {
  const histogram = monitorEventLoopDelay({ resolution })
  histogram.enable()
  await work()
  histogram.disable()
  return histogram
}
