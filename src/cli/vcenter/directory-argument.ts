/** The directory of a vCenter, as `vmseal vcenter` takes it. */
import { Argument, type Command } from 'commander'
import { VmsealError } from '../../errors.js'
import { directoryName } from '../arguments.js'

/** `[dir]`, else what VMSEAL_VCENTER names. */
export function addDirectory(command: Command, what: string): Command {
  return command.addArgument(
    new Argument('[dir]', `${what} (default: what VMSEAL_VCENTER names)`).argParser(directoryName),
  )
}

export function requireDirectory(given: string | undefined): string {
  const directory = given ?? process.env['VMSEAL_VCENTER']
  if (directory) return directory
  throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'name the directory of the vCenter, or set VMSEAL_VCENTER')
}
