import type { Command } from 'commander'
import { addDumpCommands } from './dump.js'
import { addLeave } from './leave.js'
import { addStart } from './start.js'
import { addStatus } from './status.js'

export function addHostCommands(program: Command): void {
  const host = program
    .command('host')
    .description('A host agent: it holds keys in memory only, and encrypts virtual disks on its datastores.')
  addStart(host)
  addStatus(host)
  addLeave(host)
  addDumpCommands(host)
}
