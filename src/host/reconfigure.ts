/**
 * Encryption, decryption and recrypt of a VM, all of it or parts, and new disks. A change that a VM may be powered on for is a
 * shallow recrypt; every other one is one transaction, unless its disks are to be converted where they lie.
 */
import type { ReconfigureSpec, Work } from '../rpc/host-api.js'
import { requireKeys } from './change-keys.js'
import { checkChange, mayBePoweredOn } from './change-rules.js'
import { commitChange } from './commit-change.js'
import type { Datastore } from './datastore.js'
import { holdVirtualMachine, type HostContext } from './host-context.js'
import { convertInPlace } from './in-place.js'
import { requestText } from './interrupted-request.js'
import type { VirtualMachineLock } from './lock.js'
import type { PoweredOnVms } from './power.js'
import { shallowRecrypt } from './shallow-recrypt.js'
import type { TaskManifest } from './task-manifest.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { cryptoStatesOf, readVirtualMachine } from './vm-config.js'
import { paceOf, type PacedWork } from './work.js'

export async function reconfigure(
  context: HostContext,
  powered: PoweredOnVms,
  datastore: Datastore,
  files: VirtualMachineFiles,
  spec: ReconfigureSpec,
  work: Work,
): Promise<void> {
  if (mayBePoweredOn(spec)) {
    await powered.hold(files, (lock) => shallowRecrypt(context, files, lock, spec, work))
    return
  }
  powered.requireOff(files)
  const change = spec.conversion === 'inPlace' && spec.disks?.length ? convertInPlace : changeAtOnce
  await change(context, datastore, files, spec, { ...work, ...paceOf(spec) })
}

/** Validates everything, then changes everything or nothing. The VM is powered off: the caller saw to that. */
async function changeAtOnce(
  context: HostContext,
  datastore: Datastore,
  files: VirtualMachineFiles,
  spec: ReconfigureSpec,
  work: PacedWork,
): Promise<void> {
  const request = requestText(spec)
  let interrupted: TaskManifest | undefined
  const resumes = (manifest: TaskManifest): boolean => {
    if (request === undefined || manifest.request !== request) return false
    interrupted = manifest
    return true
  }
  const change = async (lock: VirtualMachineLock): Promise<void> => {
    const vm = await readVirtualMachine(files)
    checkChange(cryptoStatesOf(vm, files), spec)
    if (isEmpty(spec)) return
    requireKeys(context, files, vm, spec)
    await commitChange(context, datastore, files, lock, vm, spec, work, { request, interrupted })
  }
  await holdVirtualMachine(context, files, change, resumes)
}

function isEmpty({ home, disks, addDisks, attachDisks, removeDisks }: ReconfigureSpec): boolean {
  return !home && ![disks, addDisks, attachDisks, removeDisks].some((list) => list?.length)
}
