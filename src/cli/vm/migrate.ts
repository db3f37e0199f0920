/** `vmseal vm migrate`: another host for a VM that is off, or on. */
import { VmsealError } from '../../errors.js'
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import { verb } from '../verb/verb.js'
import { describeVm } from './describe.js'

interface Values {
  readonly vm: string
  readonly host: string
  readonly memory?: string
  readonly memoryTarget?: string
}

export const vmMigrate = verb<Values, VirtualMachineInfo>({
  name: 'vm migrate',
  summary: 'Move a VM to another host of its cluster; with --memory one that is on, while it runs.',
  cmdlets: ['Move-VM'],
  help: `The host is made safe and given the VM's keys first, sealed; the files stay where they are on the datastore that both hosts have.
A VM that is off stays on its host until the other one opens every part of it. The host that it leaves need not answer, if the VM was off.

A VM that is on takes its memory along: --memory is what its host reads it from, --memory-target what the other host writes it to.
It travels under a one-time key that the two hosts make, always for an encrypted VM, else as its migrateEncryption says (vm set).
The guest runs on one of the two hosts at every moment, or on none and its disks are whole.

Examples:
  vmseal vm migrate db01 esx-2
  vmseal vm migrate db01 esx-2 --memory /run/qemu/db01.out --memory-target /run/qemu/db01.in`,
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .argument('<host>', 'host of its cluster that has its datastore')
      .option('--memory <path>', 'file or pipe on its host with the memory of the running guest')
      .option('--memory-target <path>', 'new file, or pipe, on the other host for it'),
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm, host, memory, memoryTarget }) => {
    const found = await vcenter.virtualMachines.get(vm)
    if (memory === undefined && memoryTarget === undefined) return found.migrate({ host }).done
    if (memory === undefined || memoryTarget === undefined)
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', '--memory and --memory-target go together')
    return found.liveMigrate({ host, memory, memoryTarget }).done
  },
  show: describeVm,
})
