/** `vmseal vm set`: settings of a VM. */
import type { MigrateEncryption } from '../../rpc/host-api.js'
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import { verb } from '../verb/verb.js'
import { describeVm } from './describe.js'

interface Values {
  readonly vm: string
  readonly migrateEncryption: MigrateEncryption
}

export const vmSet = verb<Values, VirtualMachineInfo>({
  name: 'vm set',
  summary: 'Change a setting of a VM.',
  cmdlets: ['Set-vMotionEncryptionConfig'],
  help: `--migrate-encryption is what becomes of the memory of a running VM that is moved to another host. required: encrypted, or it is not
moved. opportunistic: encrypted when both hosts can. disabled: not encrypted but for the TLS of vCenter's links, so vCenter sees it.
Of an encrypted VM it is required and cannot be changed; it stays required when the VM is decrypted, and can be changed then.

Example:
  vmseal vm set db01 --migrate-encryption required`,
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .requiredOption('--migrate-encryption <mode>', 'disabled, opportunistic or required'),
  hosts: 'needed',
  run: async ({ vcenter }, { vm, migrateEncryption }) =>
    (await vcenter.virtualMachines.get(vm)).setMigrateEncryption(migrateEncryption),
  show: describeVm,
})
