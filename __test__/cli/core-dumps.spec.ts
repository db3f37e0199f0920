/**
 * What the commands that serve leave of themselves: no core dump and nothing to trace, seen in /proc and by an abort of
 * real processes; with --core-dumps what the system does with everybody.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'

const program = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
/** Somebody who is not root: /proc shows only of his processes which of them are dumpable. */
const nobody = { uid: 65_534, gid: 65_534 }

interface Serving {
  readonly child: ChildProcess
  readonly pid: number
  readonly directory: string
  /** Where a core file would go. */
  readonly place: string
  readonly uid: number
  readonly facts: Record<string, unknown>
  /** The JSON of another command of the same user. */
  ask(...argv: string[]): Record<string, unknown>
}

const commands: Record<string, (directory: string) => { start: string[]; status: string[] }> = {
  kms: (directory) => ({
    start: ['kms', 'start', '--directory', directory, '--port', '0'],
    status: ['kms', 'status', '--directory', directory],
  }),
  vcenter: (directory) => ({
    start: ['vcenter', 'start', directory],
    status: ['vcenter', 'status', directory],
  }),
  host: (directory) => ({
    start: ['host', 'start', '--name', 'esx-1', '--directory', directory, '--listen', '127.0.0.1:0'],
    status: ['host', 'status', '--directory', directory],
  }),
}

/** As nobody where that may be, else as who runs the tests. */
function someone(): { uid: number; gid: number } {
  const self = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
  if (self.uid !== 0) return self
  const readable = spawnSync(process.execPath, [program, '--version'], { ...nobody, cwd: '/' })
  return readable.status === 0 ? nobody : self
}

async function serve(t: ExecutionContext, what: string, ...options: string[]): Promise<Serving> {
  const who = someone()
  const place = mkdtempSync(join(tmpdir(), 'vmseal-dumps-'))
  chownSync(place, who.uid, who.gid)
  const directory = join(place, 'serving')
  const { start, status } = commands[what]?.(directory) ?? { start: [], status: [] }
  if (what === 'host') {
    mkdirSync(join(place, 'ds1'))
    chownSync(join(place, 'ds1'), who.uid, who.gid)
    start.push('--datastore', `ds1=${join(place, 'ds1')}`)
  }
  const words = [process.execPath, program, '--json', ...start, ...options]
  // A core file would be cut after 4 MiB, which is enough to see it.
  const child = spawn('/bin/sh', ['-c', 'ulimit -c 4096; exec "$@"', 'sh', ...words], {
    ...who,
    cwd: place,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = once(child, 'close')
  t.teardown(async () => {
    child.kill('SIGKILL')
    await ended
    rmSync(place, { recursive: true, force: true })
  })
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string]
  return {
    child,
    pid: child.pid ?? 0,
    directory,
    place,
    uid: who.uid,
    facts: JSON.parse(line) as Record<string, unknown>,
    ask: (...argv) => {
      const all = argv.length > 0 ? argv : status
      const { stdout, stderr } = spawnSync(process.execPath, [program, '--json', ...all], {
        ...who,
        cwd: '/',
        encoding: 'utf8',
      })
      return JSON.parse(stdout || stderr) as Record<string, unknown>
    },
  }
}

function coreLimit(pid: number): string[] {
  const line = /^Max core file size +(\S+) +(\S+)/m.exec(readFileSync(`/proc/${pid}/limits`, 'utf8')) ?? []
  return line.slice(1)
}

async function abort({ child, place }: Serving): Promise<string[]> {
  const ended = once(child, 'exit')
  child.kill('SIGABRT')
  const [, signal] = (await ended) as [number | null, string | null]
  return [signal ?? '', ...readdirSync(place).filter((name) => name.startsWith('core'))]
}

for (const what of Object.keys(commands)) {
  test(`A6: vmseal ${what} start leaves no core dump, and nobody of its user may trace it`, async (t) => {
    const serving = await serve(t, what)
    t.deepEqual(coreLimit(serving.pid), ['0', '0'])
    // What may not be dumped is root's in /proc: its memory, its environment, its open files.
    for (const name of ['mem', 'environ', 'maps']) t.is(statSync(`/proc/${serving.pid}/${name}`).uid, 0, name)
    t.is(serving.facts.coreDumps, false)
    t.is(serving.ask().coreDumps, false, 'it takes orders as before')
    t.deepEqual(await abort(serving), ['SIGABRT'])
  })

  test(`vmseal ${what} start --core-dumps leaves dumps to the system, and says so`, async (t) => {
    const serving = await serve(t, what, '--core-dumps')
    t.deepEqual(coreLimit(serving.pid).map((bytes) => bytes !== '0'), [true, true]) // prettier-ignore
    t.is(statSync(`/proc/${serving.pid}/mem`).uid, serving.uid)
    t.is(serving.facts.coreDumps, true)
    t.is(serving.ask().coreDumps, true)
    // The control of the other test: here the same abort is seen, unless cores of this machine go elsewhere.
    const pattern = readFileSync('/proc/sys/kernel/core_pattern', 'utf8')
    const [signal, ...cores] = await abort(serving)
    t.is(signal, 'SIGABRT')
    if (/^core/.test(pattern)) t.is(cores.length, 1)
    else t.log(`cores of this machine go to ${pattern.trim()}`)
  })
}
