/** How the data of disks is written anew, as options say it; and the verb that ends what something interrupted. */
import { Option, type Command } from 'commander'
import type { ConversionOptions } from '../../vcenter/vm-conversion.js'
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import { maxRateOption } from '../arguments.js'
import { given, verb } from '../verb/verb.js'
import { describeVm } from './describe.js'

export interface ConversionValues {
  readonly inPlace?: true
  readonly discardSource?: 'unlink' | 'overwrite'
  readonly maxRate?: number
}

export const conversionHelp = `Disks are converted to a copy: it needs room for a second copy of each, and whatever interrupts it, the VM is as before. With
--in-place they are converted where they lie, in room for some megabytes: what interrupts that leaves the disk in conversion and the
VM off, nothing is lost, and vmseal vm resume-conversion (or the same call again) goes on where it stood.
--discard-source overwrite reaches what the file system shows: not the old blocks of copy-on-write, snapshots, backups, an SSD.
--max-rate 200M leaves the datastore to others: no more bytes of disks than that are converted in a second.`

export function conversionOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--in-place', 'convert disks where they lie, not to a copy').conflicts('discardSource'),
    )
    .addOption(
      new Option(
        '--discard-source <how>',
        'what becomes of the old form of a disk after a copy: unlink (default), or overwrite with zeros before that',
      ).choices(['unlink', 'overwrite']),
    )
    .option(...maxRateOption)
}

export function conversionOf({ inPlace, discardSource, maxRate }: ConversionValues): ConversionOptions {
  return given({ conversion: inPlace && ('inPlace' as const), discardSource, maxBytesPerSecond: maxRate })
}

interface ResumeValues {
  readonly vm: string
  readonly host?: string
  readonly maxRate?: number
}

export const vmResumeConversion = verb<ResumeValues, VirtualMachineInfo>({
  name: 'vm resume-conversion',
  summary: 'End the conversions in place that a failure, a cancel or a crash interrupted, with their keys.',
  help: `A disk in conversion has its data in two forms, so its VM stays off. \`vmseal vm show\` tells which disk, and how far it is.

Example:
  vmseal vm resume-conversion db01`,
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .option('--host <host>', 'host that does the work (default: the one the VM is registered on)')
      .option(...maxRateOption),
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm, host, maxRate }) =>
    (await vcenter.virtualMachines.get(vm)).resumeConversion(given({ host, maxBytesPerSecond: maxRate }))
      .done,
  show: describeVm,
})
