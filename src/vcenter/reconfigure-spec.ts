/** What a host is asked to change of a VM, from what the policies want; and the same in words. Pure. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { ReconfigureSpec, VmConfig } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import type { CryptoPlan } from './policy-plan.js'
import { homePart, type KeyChoice, type KeyName } from './task-keys.js'
import { conversionOf } from './vm-conversion.js'
import { requireDisk } from './vm-part-rules.js'
import type { ApplyPolicyOptions } from './vm-reconfiguration.js'
import { findDisk } from './vm-record.js'

export function keyChoice(options: ApplyPolicyOptions, config: VmConfig): KeyChoice {
  const named = new Map<string, KeyName>()
  if (options.keyIds?.home !== undefined) named.set(homePart, options.keyIds.home)
  for (const [selector, name] of Object.entries(options.keyIds?.disks ?? {}))
    named.set(requireDisk(config.disks, selector).diskId, name)
  return { perDiskKeys: options.perDiskKeys, named, providerId: options.keyProvider }
}

export function reconfigureSpec(
  plan: CryptoPlan,
  keys: ReadonlyMap<string, CryptoKeyId>,
  options: ApplyPolicyOptions,
): ReconfigureSpec {
  const cryptoOf = (part: string, change: 'encrypt' | 'decrypt') => {
    if (change === 'decrypt') return { type: 'decrypt' } as const
    const key = keys.get(part)
    if (!key) throw new VmsealError('VMSEAL_INTERNAL', `no key was provided for ${part}`)
    return { type: 'encrypt', key } as const
  }
  const disks = [...plan.disks].map(([diskId, change]) => ({
    diskId,
    crypto: cryptoOf(diskId, change),
    ...(change === 'encrypt' && options.sectorSize ? { sectorSize: options.sectorSize } : {}),
  }))
  return {
    ...conversionOf(options),
    ...(plan.home ? { home: cryptoOf(homePart, plan.home) } : {}),
    disks,
  }
}

export function disksThat(change: 'encrypt' | 'decrypt', plan: CryptoPlan): string[] {
  return [...plan.disks].filter(([, wanted]) => wanted === change).map(([id]) => id)
}

export function describeWork(spec: ReconfigureSpec, record: VmRecord): string {
  const home = spec.home ? [`${spec.home.type} home`] : []
  const disks = (spec.disks ?? []).map(
    ({ diskId, crypto }) => `${crypto.type} ${findDisk(record.disks, diskId).device}`,
  )
  const added = (spec.addDisks ?? []).map((disk) => (disk.key ? 'add encrypted disk' : 'add disk'))
  const attached = (spec.attachDisks ?? []).map(({ file }) => `attach ${file}`)
  const removed = (spec.removeDisks ?? []).map((id) => `detach ${findDisk(record.disks, id).device}`)
  return [...home, ...disks, ...added, ...attached, ...removed].join(', ')
}
