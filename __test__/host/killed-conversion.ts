/** A conversion in a process of its own that is killed in the middle. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, readdirSync, watch } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Lab } from './fixture.js'

/** When the process is killed: so long after it is ready, after so many changes in the folder, or when part of a copy is durable. */
export type Moment =
  { readonly milliseconds: number } | { readonly changes: number } | { readonly copied: 'part' }

/** What runs in the process, and the folder of the datastore whose changes are counted. */
interface Child {
  readonly script: string
  readonly folder: string
}

/** Starts a conversion, or what `child` says, in another process and kills it. True: it was done before the moment came. */
export async function convertAndKill(
  lab: Lab,
  action: string,
  secret: Buffer,
  moment: Moment,
  source = '',
  { script: name, folder }: Child = { script: 'convert-child.ts', folder: 'db01' },
): Promise<boolean> {
  const script = fileURLToPath(new URL(name, import.meta.url))
  const child = spawn(process.execPath, ['--import=tsx', script, lab.datastore, action, source], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const exit = once(child, 'exit') as Promise<[number | null, string | null]>
  let output = ''
  const ready = new Promise<void>((resolve) => {
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text
      if (output.startsWith('ready')) resolve()
    })
  })
  child.stdin.end(secret)
  let changes = 0
  const watcher = watch(join(lab.datastore, folder), () => {
    changes += 1
    if ('changes' in moment && changes === moment.changes) child.kill('SIGKILL')
    if ('copied' in moment && isCopiedInPart(join(lab.datastore, 'db01'))) child.kill('SIGKILL')
  })
  if ('milliseconds' in moment) {
    await Promise.race([ready, exit])
    await delay(moment.milliseconds)
    child.kill('SIGKILL')
  }
  const [code, signal] = await exit
  watcher.close()
  if (code !== 0 && signal !== 'SIGKILL') throw new Error(`the child failed with ${String(code)}`)
  return output.includes('done')
}

/** The record of a copy says that some of it is there, and its end is not. */
function isCopiedInPart(folder: string): boolean {
  const records = readdirSync(folder).filter((name) => name.endsWith('.vmseal-copy') && !name.startsWith('.'))
  return records.some((name) => {
    try {
      return /"frontier":[1-9]/.test(readFileSync(join(folder, name), 'utf8'))
    } catch {
      return false
    }
  })
}
