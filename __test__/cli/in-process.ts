/** The command in this process: what it prints, and its exit status. For serial tests, which have the streams to themselves. */
import { run } from '../../src/cli/program.js'

export interface Called {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

export async function call(...argv: readonly string[]): Promise<Called> {
  const texts = { stdout: '', stderr: '' }
  const writes = { stdout: process.stdout.write, stderr: process.stderr.write }
  for (const name of ['stdout', 'stderr'] as const)
    process[name].write = (text: string) => {
      texts[name] += text
      return true
    }
  try {
    return { status: await run(argv), ...texts }
  } finally {
    Object.assign(process.stdout, { write: writes.stdout })
    Object.assign(process.stderr, { write: writes.stderr })
    process.exitCode = 0
  }
}
