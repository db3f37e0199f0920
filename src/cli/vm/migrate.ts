/** `vmseal vm migrate`: another host for a VM that is off. */
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import { verb } from '../verb/verb.js'
import { describeVm } from './describe.js'

interface Values {
  readonly vm: string
  readonly host: string
}

export const vmMigrate = verb<Values, VirtualMachineInfo>({
  name: 'vm migrate',
  summary: 'Move a VM that is off to another host of its cluster.',
  cmdlets: ['Move-VM'],
  help: `The host is made safe and given the VM's keys first, sealed; the files stay where they are on the datastore that both hosts have.
The VM stays on its host until the other one opens every part of it. The host that it leaves need not answer, if the VM was off.

Example:
  vmseal vm migrate db01 esx-2`,
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .argument('<host>', 'host of its cluster that has its datastore'),
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm, host }) => (await vcenter.virtualMachines.get(vm)).migrate({ host }).done,
  show: describeVm,
})
