/** `vmseal vm add-disk` and `remove-disk`. */
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

interface RemoveValues {
  readonly vm: string
  readonly disk: string
}

export const vmRemoveDisk = verb<RemoveValues, VirtualMachineInfo>({
  name: 'vm remove-disk',
  summary: 'Take a disk out of a VM that is off, also one whose key is lost; its files stay.',
  declare: (command) =>
    command
      .argument('<vm>', 'name of the VM')
      .argument('<disk>', 'device node or disk id, for instance scsi0:1'),
  hosts: 'needed',
  run: async ({ vcenter }, { vm, disk }) => (await vcenter.virtualMachines.get(vm)).detachDisk(disk),
  show: describeVm,
})
