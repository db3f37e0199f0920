/** A VM whose lock is held and whose home is open, on or off. */
import type { KeyHandle } from '../native/load.js'
import type { Work } from '../rpc/host-api.js'
import { commitTransaction, type FileTransaction } from './file-transaction.js'
import type { HostContext } from './host-context.js'
import type { VirtualMachineLock } from './lock.js'
import type { PoweredOnVms } from './power.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { openHomeOf, readVirtualMachine, type VirtualMachine } from './vm-config.js'
import { WorkMeter } from './work.js'

export interface HeldVm {
  readonly lock: VirtualMachineLock
  readonly vm: VirtualMachine
  /** There when VM home is encrypted. */
  readonly dek?: KeyHandle
}

/** Runs `body` with the VM: with the open DEK of one that is on, else opened for the time of `body`. */
export function holdOpenVm<T>(
  context: HostContext,
  powered: PoweredOnVms,
  files: VirtualMachineFiles,
  body: (held: HeldVm) => Promise<T>,
): Promise<T> {
  return powered.hold(files, async (lock, running) => {
    const vm = await readVirtualMachine(files)
    const opened = running ? undefined : openHomeOf(vm, context.keys, files)
    const dek = running ?? opened?.dek
    try {
      return await body({ lock, vm, ...(dek && { dek }) })
    } finally {
      opened?.dek.dispose()
    }
  })
}

export async function commitHeld(
  files: VirtualMachineFiles,
  { lock }: HeldVm,
  work: Work,
  transaction: FileTransaction,
): Promise<void> {
  const meter = new WorkMeter(work, transaction.steps)
  await commitTransaction(files, lock, transaction, meter)
  meter.finish('committed')
}
