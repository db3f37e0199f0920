/** The keys that a change needs on this host, to open what there is and to seal what comes. */
import type { CryptoKeyId } from '../errors.js'
import type { ReconfigureSpec } from '../rpc/host-api.js'
import { diskOf } from './disk-changes.js'
import { keyRequired, missingKeysOfDisk } from './disks.js'
import type { HostContext } from './host-context.js'
import { newKeyOf } from './interrupted-request.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { distinctKeys, keysRequired, missingHomeKeys, type VirtualMachine } from './vm-config.js'

/** VMSEAL_ENCRYPTION_KEY_REQUIRED with the ids of all that are missing. */
export function requireKeys(
  context: HostContext,
  files: VirtualMachineFiles,
  vm: VirtualMachine,
  spec: ReconfigureSpec,
): void {
  const lacks = (key: CryptoKeyId | undefined) => (key && context.keys.get(key) === undefined ? [key] : [])
  const missing = [...missingHomeKeys(vm, context.keys), ...lacks(newKeyOf(spec.home))]
  for (const { diskId, crypto } of spec.disks ?? []) {
    const disk = diskOf(vm, diskId)
    const keys = missingKeysOfDisk(disk, context.keys)
    if (keys.length > 0 && missing.length === 0 && spec.disks?.length === 1) throw keyRequired(disk, files)
    missing.push(...keys, ...lacks(newKeyOf(crypto)))
  }
  for (const { key } of spec.addDisks ?? []) missing.push(...lacks(key))
  const required = distinctKeys(missing)
  if (required.length > 0) throw keysRequired(files, required)
}
