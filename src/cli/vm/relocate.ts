/** `vmseal vm relocate`: another datastore for a VM that is off. */
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import { verb } from '../verb/verb.js'
import { describeVm } from './describe.js'

interface Values {
  readonly vm: string
  readonly datastore: string
}

export const vmRelocate = verb<Values, VirtualMachineInfo>({
  name: 'vm relocate',
  summary: 'Move the files of a VM that is off to another datastore of its host, as they lie.',
  help: `Every file moves byte for byte, with snapshots and memory: encrypted ones as ciphertext, without a key. Each copy is made durable and
compared with its source; then the VM is in its new place, and only then the old files go. Whatever interrupts that, a cancel or a crash,
leaves it whole in one of the two places. All files of a VM lie on one datastore. Disks that were detached from it stay where they are.
Policies and keys do not change: apply a policy, or recrypt, before or after.

Example:
  vmseal vm relocate db01 ds2`,
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .argument('<datastore>', 'datastore that the host of the VM has too'),
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm, datastore }) =>
    (await vcenter.virtualMachines.get(vm)).relocate({ datastore }).done,
  show: describeVm,
})
