/** A VM as its files show it, without keys. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { VmConfig } from '../rpc/host-api.js'
import { missingKeyOf, readDiskState, type DiskState } from './disks.js'
import { describeHome, type HomeDescription } from './home-description.js'
import type { KeyCache } from './key-cache.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { keyOfWrap } from './vm-home.js'
import type { VmxDocument } from './vmx.js'

export interface VirtualMachine {
  readonly document: VmxDocument
  readonly description: HomeDescription
  readonly disks: readonly DiskState[]
  /** The KEK of VM home; absent: VM home is plain. */
  readonly homeKey?: CryptoKeyId
}

/** Rejects with VMSEAL_NOT_FOUND if there is no .vmx. */
export async function readVirtualMachine(files: VirtualMachineFiles): Promise<VirtualMachine> {
  const document = await files.readVmx()
  if (document === undefined) throw notFound(files)
  const description = describeHome(document, files)
  const disks: DiskState[] = []
  for (const entry of description.disks) disks.push(await readDiskState(entry, files))
  const homeKey = description.wrap && keyOfWrap(description.wrap, files)
  return { document, description, disks, ...(homeKey && { homeKey }) }
}

export function toConfig(
  vm: VirtualMachine,
  files: VirtualMachineFiles,
  keys: KeyCache,
  powerState: VmConfig['powerState'],
): VmConfig {
  const homeMissing = vm.homeKey !== undefined && keys.get(vm.homeKey) === undefined
  return {
    ...files.reference,
    vmId: vm.description.vmId,
    name: vm.description.name,
    ...(vm.homeKey && { homeKey: vm.homeKey }),
    disks: vm.disks.map(({ diskId, device, file, capacityBytes, keys: [key] }) => ({
      diskId,
      device,
      file,
      capacityBytes,
      ...(key && { key }),
    })),
    cryptoState: homeMissing ? 'locked' : 'unlocked',
    missingKeys: missingKeysOf(vm, keys),
    powerState,
  }
}

/** The KEKs that the files name and the host lacks, each once, VM home first. */
export function missingKeysOf(vm: VirtualMachine, keys: KeyCache): CryptoKeyId[] {
  const homeMissing = vm.homeKey !== undefined && keys.get(vm.homeKey) === undefined
  return distinctKeys([
    ...(homeMissing ? [vm.homeKey] : []),
    ...vm.disks.map((disk) => missingKeyOf(disk, keys)),
  ])
}

export function distinctKeys(keys: readonly (CryptoKeyId | undefined)[]): CryptoKeyId[] {
  const distinct = new Map<string, CryptoKeyId>()
  for (const key of keys)
    if (key !== undefined) distinct.set(JSON.stringify([key.providerId, key.keyId]), key)
  return [...distinct.values()]
}

export function notFound(files: VirtualMachineFiles): VmsealError {
  const subject = files.label(files.vmx)
  return new VmsealError('VMSEAL_NOT_FOUND', `there is no VM ${subject}`, { details: { subject } })
}

/** The error of a VM whose KEKs are not on this host. */
export function keysRequired(files: VirtualMachineFiles, requiredKeys: readonly CryptoKeyId[]): VmsealError {
  const subject = files.label(files.vmx)
  const names = requiredKeys.map(({ keyId, providerId }) => `${keyId} of ${providerId}`).join(', ')
  return new VmsealError(
    'VMSEAL_ENCRYPTION_KEY_REQUIRED',
    `${subject} needs keys that are not on this host: ${names}`,
    {
      details: { requiredKeys, subject },
    },
  )
}
