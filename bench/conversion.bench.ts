/** Encrypting a disk into a new one, beside `cp` of the same file to a new file. */
import { spawnSync } from 'node:child_process'
import { createHash, randomFillSync, randomUUID } from 'node:crypto'
import { closeSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { native, type KeyHandle, type SealSpec } from '../src/native/load.js'
import { spreadOf, type ConversionResults } from './report.js'

const sectorSize = 512

interface Way {
  readonly name: string
  readonly run: (source: string, folder: string) => Promise<unknown> | void
}

/** Makes new files below `parent`, and removes them. The source stays in the page cache. */
export async function measureConversion(
  bytes: number,
  rounds: number,
  parent: string,
): Promise<ConversionResults> {
  const folder = mkdtempSync(join(parent, 'vmseal-bench-'))
  const kek = native.KeyHandle.generate(32)
  const binding = { vmId: randomUUID(), diskId: randomUUID() }
  const spec: SealSpec = { keyId: 'kek', providerId: 'provider', ...binding, generation: 1, sectorSize }
  const encrypt = (source: string, target: string) =>
    native.encryptDisk(source, join(target, 'disk.vmdk'), kek, spec).done()
  const ways: Way[] = [
    { name: 'vmseal encryptDisk, durable when done', run: encrypt },
    {
      name: 'cp, durable (cp and sync of the file)',
      run: (from, to) => run('sh', '-c', 'cp "$0" "$1" && sync "$1"', from, join(to, 'copy')),
    },
    { name: 'cp, left in the page cache', run: (from, to) => run('cp', from, join(to, 'copy')) },
  ]
  try {
    const source = join(folder, 'source.raw')
    const digest = makeSource(source, bytes)
    const target = mkdtempSync(join(folder, 'checked-'))
    await encrypt(source, target)
    await verify(join(target, 'disk.vmdk'), kek, binding, digest)
    rmSync(target, { recursive: true })
    const samples = await alternate(ways, source, folder, rounds)
    return { bytes, sectorSize, ways: figures(ways, samples, bytes) }
  } finally {
    kek.dispose()
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Seconds of every way in every round, each to a new folder, nobody always first. */
async function alternate(ways: readonly Way[], source: string, folder: string, rounds: number) {
  const samples: number[][] = ways.map(() => [])
  for (let round = 0; round < rounds; round++) {
    for (const place of ways.keys()) {
      const index = (place + round) % ways.length
      const target = mkdtempSync(join(folder, 'round-'))
      // What others left to be written is not written on our time.
      run('sync')
      const begin = performance.now()
      await ways[index]!.run(source, target)
      samples[index]!.push((performance.now() - begin) / 1000)
      if (readdirSync(target).length === 0) throw new Error(`${ways[index]!.name} made nothing`)
      rmSync(target, { recursive: true })
    }
  }
  return samples
}

function figures(ways: readonly Way[], samples: number[][], bytes: number): ConversionResults['ways'] {
  const ours = samples[0] ?? []
  return ways.map(({ name }, index) => {
    const theirs = samples[index] ?? []
    const ratios = theirs.map((one, round) => one / (ours[round] ?? Number.NaN))
    return {
      name,
      gbps: spreadOf(theirs.map((seconds) => bytes / seconds / 1e9)),
      ours: index === 0 ? null : spreadOf(ratios),
    }
  })
}

/** A file without holes; gives its SHA-256. */
function makeSource(path: string, bytes: number): string {
  const hash = createHash('sha256')
  const block = Buffer.alloc(16 * 1024 * 1024)
  const file = openSync(path, 'wx')
  try {
    for (let written = 0; written < bytes; written += block.length) {
      const piece = randomFillSync(block).subarray(0, Math.min(block.length, bytes - written))
      hash.update(piece)
      writeSync(file, piece)
    }
  } finally {
    closeSync(file)
  }
  return hash.digest('hex')
}

async function verify(
  disk: string,
  kek: KeyHandle,
  binding: { vmId: string; diskId: string },
  digest: string,
): Promise<void> {
  if (!readFileSync(disk, 'utf8').includes('vmseal')) throw new Error('the disk is not sealed')
  const handle = native.DiskHandle.openSealed(disk, kek, binding)
  const { sha256 } = JSON.parse(await handle.digest().done()) as { sha256: string }
  handle.close()
  if (sha256 !== digest) throw new Error('the encrypted disk does not hold the source')
}

function run(command: string, ...argv: string[]): void {
  const { status, error } = spawnSync(command, argv, { stdio: ['ignore', 'ignore', 'inherit'] })
  if (status !== 0) throw new Error(`${command} failed: ${error?.message ?? `status ${status}`}`)
}
