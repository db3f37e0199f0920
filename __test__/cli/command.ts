/** The built command, as a process of its own. */
import { spawn, spawnSync } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import type { KmipClientOptions } from '../../src/kmip/client.js'

const program = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

export interface Ended {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

export function vmseal(argv: readonly string[], input = ''): Ended {
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...argv], {
    encoding: 'utf8',
    input,
    timeout: 60_000,
  })
  return { status, stdout, stderr }
}

/** The JSON of a command that must be done. */
export function answer<T = Record<string, unknown>>(t: ExecutionContext, argv: readonly string[]): T {
  const { status, stdout, stderr } = vmseal(['--json', ...argv])
  t.is(status, 0, `${argv.join(' ')}: ${stderr}`)
  t.is(stderr, '')
  return JSON.parse(stdout) as T
}

/** The code of the error of a command that must be refused with this status; text and JSON must both tell it. */
export function refused(t: ExecutionContext, argv: readonly string[], status: 1 | 2 | 4): string {
  const told = vmseal(argv)
  t.is(told.status, status, `${argv.join(' ')}: ${told.stdout}${told.stderr}`)
  t.is(told.stdout, '')
  const { status: again, stdout, stderr } = vmseal(['--json', ...argv])
  t.is(again, status)
  t.is(stdout, '')
  const { error } = JSON.parse(stderr) as { error: { code: string; message: string; action: string } }
  t.true(error.message.length > 0 && error.action.length > 0)
  t.true(told.stderr.includes(error.message), told.stderr)
  return error.code
}

export interface ServingKms {
  readonly child: ChildProcess
  readonly pid: number
  readonly endpoint: Pick<KmipClientOptions, 'host' | 'port'>
  readonly serving: Record<string, unknown>
  /** The line of the next event of this name. */
  event(name: string): Promise<Record<string, unknown>>
  /** Ends it; its exit status. */
  stop(signal?: NodeJS.Signals): Promise<number | null>
}

/** `vmseal kms start` on a free port, with further options. */
export async function startServing(
  t: Pick<ExecutionContext, 'teardown'>,
  directory: string,
  options: readonly string[] = [],
  input = '',
): Promise<ServingKms> {
  const argv = ['--json', 'kms', 'start', '--directory', directory, '--port', '0', ...options]
  const child = spawn(process.execPath, [program, ...argv], { stdio: ['pipe', 'pipe', 'pipe'] })
  child.stdin.end(input)
  const ended = once(child, 'close') as Promise<[number | null]>
  t.teardown(async () => {
    child.kill('SIGKILL')
    await ended
  })
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text))
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const event = async (name: string): Promise<Record<string, unknown>> => {
    for (;;) {
      const { value, done } = await lines.next()
      if (done === true) throw new Error(`it ended without the event ${name}: ${errors}`)
      const line = JSON.parse(value) as Record<string, unknown>
      if (line.event === name) return line
    }
  }
  const serving = await event('serving')
  return {
    child,
    pid: child.pid ?? 0,
    endpoint: serving.endpoint as ServingKms['endpoint'],
    serving,
    event,
    stop: async (signal = 'SIGTERM') => {
      child.kill(signal)
      return (await ended)[0]
    },
  }
}
