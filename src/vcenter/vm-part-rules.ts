/** What may be asked of a part of a VM: refusals by vSphere's fault names, before a key is made. Pure. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { DiskConfig, VmConfig } from '../rpc/host-api.js'
import type { CryptoPlan } from './policy-plan.js'
import type { StoragePolicy } from './storage-policies.js'
import { homePart, type KeyChoice, type KeyName } from './task-keys.js'
import { findDisk } from './vm-record.js'

/** A disk by device node or disk id. VMSEAL_DEVICE_NOT_DISK for what a VM has besides disks, else VMSEAL_NOT_FOUND. */
export function requireDisk<Disk extends { readonly device: string; readonly diskId: string }>(
  disks: readonly Disk[],
  selector: string,
): Disk {
  const known = disks.some(({ device, diskId }) => device === selector || diskId === selector)
  if (!known && otherDevices.test(selector))
    throw new VmsealError('VMSEAL_DEVICE_NOT_DISK', `${selector} is no virtual disk`, {
      details: { subject: selector },
    })
  return findDisk(disks, selector)
}

/** Device nodes as a .vmx names them. CD drives stand at IDE and SATA; unit 7 of a SCSI controller is the controller. */
const otherDevices =
  /^(?:ide\d:\d|sata\d:\d+|scsi\d:7|floppy\d|ethernet\d+|serial\d|parallel\d|usb.*|sound|vtpm|nvram|pciPassthru\d+)$/

interface ChosenPolicies {
  readonly home: StoragePolicy | undefined
  readonly disks: ReadonlyMap<string, StoragePolicy>
}

/** A key that was named for a part which this change does not encrypt would be dropped without a word. */
export function refuseIdleKeys(
  { named = new Map<string, KeyName>() }: KeyChoice,
  plan: CryptoPlan,
  config: VmConfig,
  policies: ChosenPolicies,
): void {
  for (const [part, name] of named) {
    const change = part === homePart ? plan.home : plan.disks.get(part)
    if (change === 'encrypt') continue
    const policy = part === homePart ? policies.home : policies.disks.get(part)
    const disk = part === homePart ? undefined : findDisk(config.disks, part)
    const label = disk?.device ?? 'VM home'
    const key = disk ? disk.key : config.homeKey
    if (!policy?.encryption && (policy || !key)) throw refuseKey(label, policy?.name)
    if (!isNamed(key, name)) throw encryptedAlready(label, disk)
  }
}

/** VMSEAL_POLICY_NOT_ENCRYPTION: a key makes no sense without a policy that encrypts. */
export function refuseKey(part: string, policy: string | undefined): VmsealError {
  const which = policy === undefined ? 'no storage policy that encrypts' : `the storage policy '${policy}'`
  return new VmsealError(
    'VMSEAL_POLICY_NOT_ENCRYPTION',
    `a key was named for ${part}, which has ${which}, so it is not encrypted`,
    { details: { subject: part } },
  )
}

export function refuseShared(device: string, vm: string): VmsealError {
  return new VmsealError(
    'VMSEAL_DISK_SHARED',
    `the disk ${device} of ${vm} is open for several writers, which would not have its key`,
    { details: { subject: device } },
  )
}

function isNamed(key: CryptoKeyId | undefined, name: KeyName): boolean {
  if (typeof name === 'string') return key?.keyId === name
  return key?.keyId === name.keyId && key.providerId === name.providerId
}

function encryptedAlready(label: string, disk: DiskConfig | undefined): VmsealError {
  return new VmsealError(
    disk ? 'VMSEAL_DISK_STATE' : 'VMSEAL_INVALID_STATE',
    `${label} is encrypted already, with another key: recrypt gives it a new one`,
    { details: { subject: label } },
  )
}
