/** Writing to a disk as its guest does, while the VM is off. */
import { VmsealError } from '../errors.js'
import { openForGuest } from './disk-chain.js'
import { holdVirtualMachine, type HostContext } from './host-context.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { readVirtualMachine } from './vm-config.js'

/** Durable when it resolves. */
export function writeToDisk(
  context: HostContext,
  files: VirtualMachineFiles,
  diskId: string,
  offset: number,
  data: Uint8Array,
): Promise<void> {
  return holdVirtualMachine(context, files, async () => {
    const vm = await readVirtualMachine(files)
    const disk = vm.disks.find((candidate) => candidate.diskId === diskId)
    if (disk === undefined)
      throw new VmsealError('VMSEAL_NOT_FOUND', `${files.label(files.vmx)} has no disk ${diskId}`)
    const handle = openForGuest(disk, vm.description.vmId, context.keys, files)
    try {
      await handle.write(offset, data)
      await handle.flush()
    } finally {
      handle.close()
    }
  })
}
