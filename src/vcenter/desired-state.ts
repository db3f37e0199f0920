/** The declared state of a VM, and what has to change to come to it. Pure: the same state twice gives nothing to do. */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { VmConfig } from '../rpc/host-api.js'
import { planCryptoChange } from './policy-plan.js'
import type { StoragePolicy } from './storage-policies.js'
import { homePart } from './task-keys.js'
import type { PolicyWish } from './vm-reconfiguration.js'

/** What is absent stays as it is. */
export interface DesiredState extends PolicyWish {
  /** Everything that is encrypted is under keys of this provider; which key, is not said. */
  readonly keyProvider?: string
}

export interface PlannedChange {
  /** `home`, or the device node of a disk. */
  readonly part: string
  /** `policy`: another storage policy, and the crypto state stays. */
  readonly change: 'encrypt' | 'decrypt' | 'recrypt' | 'policy'
  /** Names of storage policies; with `recrypt`, ids of key providers. */
  readonly from: string
  readonly to: string
}

export interface StatePlan {
  readonly changes: readonly PlannedChange[]
  /** Disk ids and `home`: parts that stay encrypted and get a key of the provider. */
  readonly recrypt: readonly string[]
}

/** Every part of a VM with the policy it has and the one it is to have. */
export interface PartPolicies {
  readonly part: string
  /** Absent: VM home. */
  readonly diskId?: string
  readonly present: StoragePolicy | undefined
  /** It was changed since it was applied. */
  readonly outOfDate: boolean
  readonly wanted: StoragePolicy | undefined
}

/** VMSEAL_ENCRYPTION_MISMATCH if the state cannot be: an encrypted disk in a plain VM. */
export function planState(
  { keyProvider }: DesiredState,
  config: VmConfig,
  parts: readonly PartPolicies[],
): StatePlan {
  const wantedOf = (diskId: string | undefined) =>
    parts.find((part) => part.diskId === diskId)?.wanted?.encryption
  const diskIds = config.disks.map(({ diskId }) => diskId)
  const plan = planCryptoChange(
    {
      home: config.homeKey !== undefined,
      disks: new Map(config.disks.map(({ diskId, key }) => [diskId, key !== undefined])),
    },
    {
      home: wantedOf(undefined),
      disks: new Map(
        diskIds.flatMap((id) => {
          const encryption = wantedOf(id)
          return encryption === undefined ? [] : [[id, encryption] as const]
        }),
      ),
    },
  )
  const changes: PlannedChange[] = []
  const recrypt: string[] = []
  for (const { part, diskId, present, outOfDate, wanted } of parts) {
    const change = diskId === undefined ? plan.home : plan.disks.get(diskId)
    const [from, to] = [present?.name ?? 'none', wanted?.name ?? present?.name ?? 'none']
    if (change) changes.push({ part, change, from, to })
    else if (wanted && (wanted.id !== present?.id || outOfDate))
      changes.push({ part, change: 'policy', from, to })
    const foreign = change ? undefined : foreignKey(keysOfPart(config, diskId), keyProvider)
    if (!foreign || keyProvider === undefined) continue
    recrypt.push(diskId ?? homePart)
    changes.push({ part, change: 'recrypt', from: foreign.providerId, to: keyProvider })
  }
  return { changes, recrypt }
}

/** VMSEAL_INVALID_ARGUMENT for anything that is no declared state. */
export function checkState(state: unknown): asserts state is DesiredState {
  const refuse = (what: string): never => {
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `a declared state has ${what}`)
  }
  if (typeof state !== 'object' || state === null || Array.isArray(state)) return refuse('policies by part')
  for (const [name, value] of Object.entries(state)) {
    if (!['home', 'disks', 'keyProvider'].includes(name))
      refuse(`home, disks and keyProvider, but no ${JSON.stringify(name)}`)
    if (value === undefined || typeof value === 'string') continue
    const byDisk = name === 'disks' && typeof value === 'object' && value !== null
    if (!byDisk || !Object.values(value).every((policy) => typeof policy === 'string'))
      refuse(`names of policies and of a key provider: ${name} is none`)
  }
}

function keysOfPart(config: VmConfig, diskId: string | undefined): readonly CryptoKeyId[] {
  if (diskId === undefined) return config.homeKey ? [config.homeKey, ...(config.homeFormerKeys ?? [])] : []
  const disk = config.disks.find((one) => one.diskId === diskId)
  return disk?.key ? [disk.key, ...(disk.formerKeys ?? [])] : []
}

/** A key of another provider that opens the part. */
function foreignKey(keys: readonly CryptoKeyId[], keyProvider: string | undefined): CryptoKeyId | undefined {
  return keyProvider === undefined ? undefined : keys.find(({ providerId }) => providerId !== keyProvider)
}
