/** What the figures were taken on. */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { cpus, release, totalmem, type } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { Machine, Report } from './report.js'

export const root = fileURLToPath(new URL('..', import.meta.url))

const telling = /^(aes|vaes|pclmulqdq|vpclmulqdq|avx|avx2|avx512f|avx512vl|gfni|asimd|sve2?)$/

export function describeMachine(): Machine {
  const processors = cpus()
  return {
    cpu: cpuModel() ?? processors[0]?.model ?? 'unknown CPU',
    flags: cpuFlags(),
    cpus: processors.length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: `${type()} ${release()}`,
  }
}

export function describeVersions(): Report['versions'] {
  const { version } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8')) as { version: string }
  const changed = output('git', 'status', '--porcelain')
  const commit = output('git', 'rev-parse', '--short=12', 'HEAD') ?? 'not committed'
  return {
    vmseal: version,
    commit: changed ? `${commit} with changes` : commit,
    rustc: output('rustc', '--version') ?? 'no rustc',
  }
}

/** Why two results cannot be compared; undefined when they can. */
export function differenceBetween(one: Machine, other: Machine): string | undefined {
  const differing = (['cpu', 'cpus', 'kernel'] as const).filter((name) => one[name] !== other[name])
  if (differing.length === 0) return undefined
  const named = differing.map((name) => `${name}: ${one[name]} / ${other[name]}`)
  return `results of different machines are not compared (${named.join('; ')})`
}

function field(name: string): string | undefined {
  return new RegExp(`^${name}\\s*: (.+)$`, 'm').exec(cpuInfo())?.[1]
}

/** Family and model, too, because a virtual machine's model name says little. */
function cpuModel(): string | undefined {
  const [model, family, number] = [field('model name'), field('cpu family'), field('model')]
  return model && family && number ? `${model} (family ${family} model ${number})` : model
}

function cpuFlags(): string[] {
  const line = /^(?:flags|Features)\s*: (.+)$/m.exec(cpuInfo())?.[1] ?? ''
  return line.split(' ').filter((name) => telling.test(name))
}

function cpuInfo(): string {
  try {
    return readFileSync('/proc/cpuinfo', 'utf8')
  } catch {
    return ''
  }
}

function output(command: string, ...argv: string[]): string | undefined {
  const { status, stdout } = spawnSync(command, argv, { cwd: root, encoding: 'utf8' })
  return status === 0 ? stdout.trim() : undefined
}
