/** `vmseal vm show`, `unlock` and `reload`: the state of a VM, and what keeps it locked. */
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import { verb } from '../verb/verb.js'
import { describeVm } from './describe.js'

interface Values {
  readonly vm: string
}

export const vmShow = verb<Values, VirtualMachineInfo>({
  name: 'vm show',
  summary: 'Show state, policies and keys of a VM; of each key that its host lacks, why and what to do.',
  cmdlets: ['Get-VMEncryptionInfo'],
  declare: (command) => command.argument('<vm>', 'name of the VM'),
  run: async ({ vcenter }, { vm }) => (await vcenter.virtualMachines.get(vm)).info(),
  show: describeVm,
})

export const vmUnlock = verb<Values, VirtualMachineInfo>({
  name: 'vm unlock',
  summary: 'Fetch the keys that the host of a VM lacks and send them to it.',
  cmdlets: ['Unlock-VM', 'Set-VMCryptoUnlock'],
  help: 'A locked VM unlocks by itself once its keys can be had; this does it now, or says why it cannot be.',
  declare: (command) => command.argument('<vm>', 'name of the VM'),
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm }) => (await vcenter.virtualMachines.get(vm)).unlock(),
  show: describeVm,
})

export const vmReload = verb<Values, VirtualMachineInfo>({
  name: 'vm reload',
  summary: 'Read the files of a VM again, also of a locked one.',
  declare: (command) => command.argument('<vm>', 'name of the VM'),
  hosts: 'needed',
  run: async ({ vcenter }, { vm }) => (await vcenter.virtualMachines.get(vm)).reload(),
  show: describeVm,
})
