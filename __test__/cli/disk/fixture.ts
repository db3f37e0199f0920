/** A KMS, a folder for disks, and the `vmseal` command as it is shipped. */
import { spawn, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { Kms } from '../../../src/kms/kms.js'

const command = fileURLToPath(new URL('../../../dist/cli/main.js', import.meta.url))

export interface Outcome {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
  /** The lines of standard output, parsed; the last one is the answer. */
  readonly lines: readonly Record<string, unknown>[]
  readonly answer: Record<string, unknown>
  /** The code of the error on the error stream. */
  readonly code: string | undefined
}

export interface Site {
  readonly kms: Kms
  readonly folder: string
  /** Options that name the KMS and this client. */
  readonly keys: readonly string[]
  path(name: string): string
  /** Runs `vmseal --json ...`. */
  run(...argv: readonly string[]): Promise<Outcome>
}

export async function startSite(t: ExecutionContext): Promise<Site> {
  const folder = mkdtempSync(join(tmpdir(), 'vmseal-disk-'))
  const kms = await Kms.start({ directory: join(folder, 'kms') })
  t.teardown(async () => {
    await kms.stop()
    rmSync(folder, { recursive: true, force: true })
  })
  const credentials = join(folder, 'credentials')
  await kms.enrol('operator', { directory: credentials })
  const { host, port } = kms.endpoint
  return {
    kms,
    folder,
    keys: ['--server', `${host}:${port}`, '--credentials', credentials],
    path: (name) => join(folder, name),
    run: (...argv) => outcomeOf(start(['--json', ...argv])),
  }
}

/** The command, running. */
export function start(argv: readonly string[], prefix: readonly string[] = []): ChildProcess {
  const [program = '', ...rest] = [...prefix, process.execPath, command, ...argv]
  return spawn(program, rest, { stdio: ['ignore', 'pipe', 'pipe'] })
}

export async function outcomeOf(child: ChildProcess): Promise<Outcome> {
  const text = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const)
    child[name]?.setEncoding('utf8').on('data', (chunk: string) => {
      text[name] += chunk
    })
  const status = await new Promise<number | null>((done) => {
    child.once('close', done)
  })
  const lines = text.stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Record<string, unknown>)
  return { status, ...text, lines, answer: lines.at(-1) ?? {}, code: /"code":"(\w+)"/.exec(text.stderr)?.[1] }
}

export function sha256(file: string): string {
  return createHash('sha256').update(readFileSync(file)).digest('hex')
}
