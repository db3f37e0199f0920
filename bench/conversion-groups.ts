/** Runs `crates/disk/examples/conversion`, in which every way of a group takes turns with the others, and reads its JSON. */
import { spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './machine.js'

export interface WayTimes {
  readonly name: string
  readonly seconds: readonly number[]
}

export interface GroupTimes {
  readonly name: string
  readonly bytes: number
  readonly fileSystem: string
  /** The first is ours. */
  readonly ways: readonly WayTimes[]
}

export interface Peak {
  readonly way: 'copy' | 'in-place'
  readonly bytes: number
  readonly peakBytes: number
}

/** A folder on a disk, and one in memory: what is measured in the page cache must not wait for write-back. */
export const diskFolder = join(root, 'build/bench')
export const memoryFolder = '/dev/shm'

/** Builds the program; needs cargo. */
export function build(): void {
  process.stderr.write('building the measuring program ...\n')
  mkdirSync(diskFolder, { recursive: true })
  const argv = ['build', '--release', '--locked', '--quiet', '-p', 'vmseal-disk', '--example', 'conversion']
  if (spawnSync('cargo', argv, { cwd: root, stdio: ['ignore', 2, 2] }).status !== 0)
    throw new Error('the measuring program could not be built')
}

export function measureGroup(folder: string, bytes: number, rounds: number, name: string): GroupTimes {
  process.stderr.write(`${name} ...\n`)
  const found = run([folder, String(bytes), String(rounds), name]) as {
    fileSystem: string
    groups: { ways: WayTimes[] }[]
  }
  return { name, bytes, fileSystem: found.fileSystem, ways: found.groups[0]?.ways ?? [] }
}

/** In a process of its own, with a sparse disk. */
export function measurePeak(bytes: number, way: Peak['way']): Peak {
  process.stderr.write(`memory of ${way} ...\n`)
  return run(['peak', diskFolder, String(bytes), way]) as Peak
}

function run(argv: readonly string[]): unknown {
  const program = join(root, 'target/release/examples/conversion')
  const { status, stdout } = spawnSync(program, argv, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  if (status !== 0) throw new Error(`the measuring program failed: ${argv.join(' ')}`)
  return JSON.parse(stdout)
}
