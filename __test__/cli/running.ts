/** A command that goes on running, line by line. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'

const program = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

export interface Running {
  readonly pid: number
  /** The next line of its output that `wanted` takes. */
  line(wanted: (line: Record<string, unknown>) => boolean): Promise<Record<string, unknown>>
  /** Its exit status. */
  readonly ended: Promise<number | null>
  kill(signal: NodeJS.Signals): void
}

/** Starts a command of the built program, which prints JSON. It ends with the test. */
export function run(t: ExecutionContext, ...argv: readonly string[]): Running {
  const child = spawn(process.execPath, [program, '--json', ...argv], { stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = once(child, 'close').then(([status]) => status as number | null)
  t.teardown(async () => {
    child.kill('SIGKILL')
    await ended
  })
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text))
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  return {
    pid: child.pid ?? 0,
    ended,
    kill: (signal) => void child.kill(signal),
    line: async (wanted) => {
      for (;;) {
        const { value, done } = await lines.next()
        if (done === true) throw new Error(`${argv.join(' ')} ended without the line: ${errors}`)
        const line = JSON.parse(value) as Record<string, unknown>
        if (wanted(line)) return line
      }
    },
  }
}
