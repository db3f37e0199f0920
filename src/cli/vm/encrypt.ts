/** `vmseal vm encrypt`, `decrypt`, `encrypt-disk`, `decrypt-disk` and `set-policy`: encryption follows the storage policy. */
import type { Command } from 'commander'
import { encryptionPolicyName, plainPolicyName } from '../../vcenter/storage-policies.js'
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import type { ApplyPolicyOptions, PolicyWish } from '../../vcenter/vm-reconfiguration.js'
import { sectorSize } from '../arguments.js'
import { keyName, keyNameHelp } from '../key/key-name.js'
import { given, verb, type VerbCall } from '../verb/verb.js'
import {
  conversionHelp,
  conversionOf,
  conversionOptions,
  type ConversionValues,
} from './conversion-options.js'
import { describeVm } from './describe.js'
import { policyOptions, policyWish, type PolicyValues } from './policy-options.js'

interface Values extends ConversionValues {
  readonly vm: string
  readonly policy?: string
  readonly host?: string
  readonly homeOnly?: true
  readonly perDiskKeys?: true
  readonly keyId?: string
  readonly sectorSize?: 512 | 4096
}

interface DiskValues extends Values {
  readonly disk: readonly string[]
}

export const vmEncrypt = verb<Values, VirtualMachineInfo>({
  name: 'vm encrypt',
  summary: 'Encrypt VM home and every disk of a VM that is off, as one task with one new key.',
  cmdlets: ['Enable-VMEncryption'],
  help: `The policy of home and disks is set. What is encrypted already stays as it is; where nothing changes no key is made.
${conversionHelp}

Examples:
  vmseal vm encrypt db01
  vmseal vm encrypt db01 --in-place       without room for a copy
  vmseal vm encrypt db01 --home-only      then its disks one by one: vmseal vm encrypt-disk db01 scsi0:0`,
  declare: (command) =>
    encryption(command.argument('<vm>', 'name of the VM')).option(
      '--home-only',
      'leave the disks as they are',
    ),
  kind: 'task',
  hosts: 'needed',
  run: async (call, values) => {
    const { policy = encryptionPolicyName, homeOnly } = values
    return apply(call, values, { home: policy, ...(homeOnly ? {} : { disks: policy }) })
  },
  show: describeVm,
})

export const vmDecrypt = verb<Values, VirtualMachineInfo>({
  name: 'vm decrypt',
  summary: 'Decrypt VM home and every disk of a VM that is off, as one task.',
  cmdlets: ['Disable-VMEncryption'],
  help: `Its policies become \`${plainPolicyName}\`. Selected disks: vmseal vm decrypt-disk.
${conversionHelp}`,
  declare: (command) =>
    conversionOptions(command.argument('<vm>', 'name of the VM'))
      .option('--policy <policy>', 'a policy without encryption', plainPolicyName)
      .option('--host <host>', 'host that does the work'),
  kind: 'task',
  hosts: 'needed',
  run: async (call, values) => {
    const { policy = plainPolicyName } = values
    return apply(call, values, { home: policy, disks: policy })
  },
  show: describeVm,
})

export const vmEncryptDisk = verb<DiskValues, VirtualMachineInfo>({
  name: 'vm encrypt-disk',
  summary: 'Encrypt some disks of a VM whose home is encrypted, as one task with one new key.',
  cmdlets: ['Enable-VMDiskEncryption'],
  declare: (command) =>
    encryption(command.argument('<vm>', 'name of the VM').argument('<disk...>', 'for instance scsi0:1')),
  kind: 'task',
  hosts: 'needed',
  run: (call, values) => {
    const { disk, policy = encryptionPolicyName } = values
    return apply(call, values, { disks: Object.fromEntries(disk.map((name) => [name, policy])) })
  },
  show: describeVm,
})

export const vmDecryptDisk = verb<DiskValues, VirtualMachineInfo>({
  name: 'vm decrypt-disk',
  summary: 'Decrypt some disks of a VM, as one task.',
  cmdlets: ['Disable-VMDiskEncryption'],
  declare: (command) =>
    conversionOptions(
      command.argument('<vm>', 'name of the VM').argument('<disk...>', 'for instance scsi0:1'),
    ).option('--host <host>', 'host that does the work'),
  kind: 'task',
  hosts: 'needed',
  run: (call, values) =>
    apply(call, values, { disks: Object.fromEntries(values.disk.map((name) => [name, plainPolicyName])) }),
  show: describeVm,
})

export const vmSetPolicy = verb<Values & PolicyValues, VirtualMachineInfo>({
  name: 'vm set-policy',
  summary: 'Set storage policies of VM home and disks; encryption follows them, as one task.',
  help: `Examples:
  vmseal vm set-policy db01 --home 'VM Encryption Policy' --disks 'VM Encryption Policy'
  vmseal vm set-policy db01 --disk 'scsi0:1=Datastore Default'`,
  declare: (command) => policyOptions(encryptionOptions(command.argument('<vm>', 'name of the VM'))),
  kind: 'task',
  hosts: 'needed',
  run: (call, values) => apply(call, values, policyWish(values)),
  show: describeVm,
})

function encryption(command: Command): Command {
  return encryptionOptions(
    command.option('--policy <policy>', 'a policy with encryption', encryptionPolicyName),
  )
}

function encryptionOptions(command: Command): Command {
  return conversionOptions(command)
    .option('--host <host>', 'host that does the work (default: the one the VM is registered on)')
    .option('--per-disk-keys', 'a new key for VM home and for each disk, instead of one for all')
    .option('--key-id <key>', `an existing key instead of a new one: ${keyNameHelp}`)
    .option('--sector-size <bytes>', '512: every tool opens the disks; 4096: less CPU', sectorSize)
}

async function apply(
  { vcenter }: VerbCall,
  { vm: name, host, perDiskKeys, keyId, sectorSize: bytes, ...conversion }: Values,
  wish: PolicyWish,
): Promise<VirtualMachineInfo> {
  const vm = await vcenter.virtualMachines.get(name)
  const keyIds = keyId === undefined ? undefined : oneKey(keyName(keyId), wish, await vm.info())
  const options: ApplyPolicyOptions = {
    ...conversionOf(conversion),
    ...given({ host, perDiskKeys, keyIds, sectorSize: bytes }),
  }
  return vm.applyPolicy(wish, options).done
}

/** The key for every part that the wish is about. */
function oneKey(
  key: ReturnType<typeof keyName>,
  { home, disks }: PolicyWish,
  info: VirtualMachineInfo,
): NonNullable<ApplyPolicyOptions['keyIds']> {
  const devices =
    typeof disks === 'string' ? info.disks.map(({ device }) => device) : Object.keys(disks ?? {})
  return {
    ...(home === undefined ? {} : { home: key }),
    disks: Object.fromEntries(devices.map((device) => [device, key])),
  }
}
