/** The JavaScript part in a process of its own, once for each Node: `node javascript.ts REQUEST`, a JSON text. */
import { writeFileSync } from 'node:fs'
import { measureEventLoop } from './event-loop.bench.js'
import { measureKeyWrap } from './key-wrap.bench.js'
import type { JavaScriptResults, Part } from './report.js'
import { loadNative } from './native-rate.js'
import { measureXts } from './xts.bench.js'

export interface JavaScriptRequest {
  readonly output: string
  readonly quick: boolean
  readonly only: readonly Part[]
  /** The native half, which part xts compares itself with. */
  readonly library: string
}

const { output, quick, only, library } = JSON.parse(process.argv[2] ?? '') as JavaScriptRequest
const pace = quick ? { rounds: 2, seconds: 0.04 } : { rounds: 7, seconds: 0.2 }
/** Bytes per call of those that are no question of the call's own cost. */
const large = [2 ** 26, 2 ** 29]
const nothing: ReturnType<typeof measureXts> = { results: [], kernel: 'not measured' }
const { results, kernel } = only.includes('xts')
  ? measureXts(pace, quick ? [] : large, loadNative(library))
  : nothing
const found: JavaScriptResults = {
  node: process.versions.node,
  openssl: process.versions.openssl,
  kernel,
  xts: results,
  keyWrap: only.includes('key-wrap') ? measureKeyWrap(pace) : [],
  eventLoop: only.includes('event-loop') ? await measureEventLoop(quick ? 2 ** 28 : 2 ** 30, 10) : null,
}
writeFileSync(output, JSON.stringify(found))
