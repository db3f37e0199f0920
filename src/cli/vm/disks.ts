/** `vmseal vm add-disk`, `attach-disk` and `detach-disk`. */
import { resolve } from 'node:path'
import { VmsealError } from '../../errors.js'
import type { VirtualMachineInfo } from '../../vcenter/vm-inventory.js'
import { byteSize, sectorSize } from '../arguments.js'
import { keyName, keyNameHelp } from '../key/key-name.js'
import { given, verb } from '../verb/verb.js'
import { describeVm } from './describe.js'

interface AddValues {
  readonly vm: string
  readonly size?: number
  readonly image?: string
  readonly policy?: string
  readonly keyId?: string
  readonly sectorSize?: 512 | 4096
  readonly host?: string
}

export const vmAddDisk = verb<AddValues, VirtualMachineInfo>({
  name: 'vm add-disk',
  summary: 'Add an empty disk, or a copy of an image, to a VM that is off.',
  help: `Examples:
  vmseal vm add-disk db01 --size 100G
  vmseal vm add-disk db01 --image /images/data.raw --policy 'Datastore Default'`,
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .option('--size <size>', 'an empty disk, for instance 100G', byteSize)
      .option('--image <file>', 'a file of the host, which is copied')
      .option('--policy <policy>', 'its policy (default: that of VM home)')
      .option('--key-id <key>', `an existing key instead of a new one: ${keyNameHelp}`)
      .option('--sector-size <bytes>', '512: every tool opens it; 4096: less CPU', sectorSize)
      .option('--host <host>', 'host that does the work'),
  prepare: ({ image, ...values }) => {
    if ((image === undefined) === (values.size === undefined))
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'give --size or --image')
    return image === undefined ? values : { ...values, image: resolve(image) }
  },
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm, size, image, policy, keyId, sectorSize: bytes, host }) =>
    (await vcenter.virtualMachines.get(vm)).addDisk(
      given({
        capacityBytes: size,
        source: image,
        policy,
        keyId: keyId === undefined ? undefined : keyName(keyId),
        sectorSize: bytes,
      }),
      given({ host }),
    ).done,
  show: describeVm,
})

interface AttachValues {
  readonly vm: string
  readonly file: string
  readonly policy?: string
  readonly host?: string
}

export const vmAttachDisk = verb<AttachValues, VirtualMachineInfo>({
  name: 'vm attach-disk',
  summary: "Take in a disk that lies on the VM's datastore, with its key; no key is made.",
  help: `One that was this VM's own stays where it is. Every other is copied into the VM's folder, an encrypted one under a DEK of its own;
its source stays. An encrypted disk needs a policy with encryption, which it lost when it was detached. A plain one is attached plain
and encrypted later: vmseal vm encrypt-disk.

Examples:
  vmseal vm attach-disk db01 db01/db01_1.vmdk --policy 'VM Encryption Policy'
  vmseal vm attach-disk db01 '[ds1] old/data.vmdk'`,
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .argument('<file>', 'folder and descriptor on the datastore')
      .option('--policy <policy>', 'its policy (default: Datastore Default, plain)')
      .option('--host <host>', 'host that does the work'),
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm, file, policy, host }) =>
    (await vcenter.virtualMachines.get(vm)).attachDisk({ file, ...given({ policy }) }, given({ host })).done,
  show: describeVm,
})

interface DetachValues {
  readonly vm: string
  readonly disk: string
  readonly host?: string
}

export const vmDetachDisk = verb<DetachValues, VirtualMachineInfo>({
  name: 'vm detach-disk',
  summary: 'Take a disk out of a VM that is off, also one whose key is lost; its files stay.',
  help: `Its file keeps the id of its key, and loses its policy. Back again: vmseal vm attach-disk.`,
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .argument('<disk>', 'device node or disk id, for instance scsi0:1')
      .option('--host <host>', 'host that does the work'),
  kind: 'task',
  hosts: 'needed',
  run: async ({ vcenter }, { vm, disk, host }) =>
    (await vcenter.virtualMachines.get(vm)).detachDisk(disk, given({ host })),
  show: describeVm,
})
