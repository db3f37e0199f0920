/** vmware.log of a VM: what was done, in clear text, never a secret. */
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import type { VirtualMachineFiles } from './virtual-machine-files.js'

/**
 * Adds a line. What it reports has happened already, so a log that cannot be written (full
 * datastore, a link in its place) must not turn it into a failure: then the line is lost.
 */
export async function logLine(files: VirtualMachineFiles, host: string, text: string): Promise<void> {
  const flags =
    constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK
  try {
    const file = await open(files.path(files.log), flags, 0o600)
    try {
      await file.write(`${new Date().toISOString()} ${host}: ${singleLine(text)}\n`)
    } finally {
      await file.close()
    }
  } catch {
    return
  }
}

function singleLine(text: string): string {
  // eslint-disable-next-line no-control-regex
  return text.replace(/[\0-\x1f\x7f]+/g, ' ')
}
