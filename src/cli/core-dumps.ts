/** Core dumps of the commands that serve, and so hold keys: none, unless somebody who looks for a fault wants them. */
import type { Command } from 'commander'
import { native } from '../native/load.js'

export interface CoreDumpOption {
  readonly coreDumps?: true
}

export function addCoreDumps(command: Command): Command {
  return command.option(
    '--core-dumps',
    'leave core dumps and debuggers to the system, to look for a fault; default: a crash leaves no core dump, and nobody but root may trace this process',
  )
}

/** Call it before there is any key. */
export function settleCoreDumps({ coreDumps }: CoreDumpOption): void {
  if (coreDumps !== true) native.forbidCoreDumps()
}

/** Whether a crash of this process would leave a core dump. */
export function leavesCoreDumps(): boolean {
  return native.keyMemoryStatus().coreDumpsPossible
}

export function coreDumpText(leaves: boolean): string {
  return leaves ? 'possible: start it without --core-dumps' : 'none'
}
