/** `vmseal vm recrypt` and `recrypt-disk`: new keys for what is encrypted. */
import type { Command } from 'commander'
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
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

interface Values extends ConversionValues {
  readonly vm: string
  readonly deep?: true
  readonly homeOnly?: true
  readonly provider?: string
  readonly keyId?: string
  readonly sectorSize?: 512 | 4096
  readonly host?: string
}

interface DiskValues extends Values {
  readonly disk: readonly string[]
}

export const vmRecrypt = verb<Values, VirtualMachineInfo>({
  name: 'vm recrypt',
  summary: 'Give a VM a new KEK (shallow), or with --deep a new KEK and new DEKs.',
  cmdlets: ['Set-VMEncryptionKey'],
  help: `Shallow: no data is touched, it takes moments, and the VM may be on. Whoever learned an old KEK and kept the old files
can still read the data. What interrupts it leaves a VM that opens; the same call again ends the work. All VMs of a provider:
vmseal rekey. Deep: the VM is off and every sector is written anew.
${conversionHelp}

Examples:
  vmseal vm recrypt db01
  vmseal vm recrypt db01 --provider kms-2      away from its key provider
  vmseal vm recrypt db01 --deep
  vmseal vm recrypt db01 --deep --discard-source overwrite`,
  declare: (command) =>
    recryption(command.argument('<vm>', 'name of the VM')).option(
      '--home-only',
      'leave the disks as they are',
    ),
  kind: 'task',
  hosts: 'needed',
  run: (call, values) => recrypt(call, values, values.homeOnly ? { disks: false } : {}),
  show: describeVm,
})

export const vmRecryptDisk = verb<DiskValues, VirtualMachineInfo>({
  name: 'vm recrypt-disk',
  summary: 'Give some disks of a VM a new KEK (shallow), or with --deep a new KEK and new DEKs.',
  cmdlets: ['Set-VMDiskEncryptionKey'],
  declare: (command) =>
    recryption(command.argument('<vm>', 'name of the VM').argument('<disk...>', 'for instance scsi0:1')),
  kind: 'task',
  hosts: 'needed',
  run: (call, values) => recrypt(call, values, { home: false, disks: values.disk }),
  show: describeVm,
})

function recryption(command: Command): Command {
  return conversionOptions(
    command.option('--deep', 'new DEKs too: the VM is off, every sector is written anew'),
  )
    .option('--provider <provider>', 'key provider of the new key (default: that of the cluster)')
    .option('--key-id <key>', `an existing key instead of a new one: ${keyNameHelp}`)
    .option('--sector-size <bytes>', 'with --deep: 512 or 4096 (default: as it is)', sectorSize)
    .option('--host <host>', 'host that does the work (default: the one the VM is registered on)')
}

async function recrypt(
  { vcenter }: VerbCall,
  { vm, deep, provider, keyId, sectorSize: bytes, host, ...conversion }: Values,
  parts: { readonly home?: boolean; readonly disks?: boolean | readonly string[] },
): Promise<VirtualMachineInfo> {
  const key = keyId === undefined ? undefined : keyName(keyId)
  return (await vcenter.virtualMachines.get(vm)).recrypt({
    depth: deep ? 'deep' : 'shallow',
    ...parts,
    ...conversionOf(conversion),
    ...given({ keyProvider: provider, key, sectorSize: bytes, host }),
  }).done
}
