/** Whether what is encrypted is what the storage policies say, part by part, and why not. */
import type { AppliedPolicyVersion, StoragePolicyRecord, VmRecord } from '../store/store.js'
import type { Services } from './services.js'

/**
 * `outOfDate`: the policy was changed since it was applied. `notApplicable`: the policy asks for nothing (`Datastore Default` of a
 * plain part), or is not known.
 */
export type ComplianceStatus = 'compliant' | 'nonCompliant' | 'outOfDate' | 'notApplicable'

export interface PartCompliance {
  /** `home`, or the device node of a disk. */
  readonly part: string
  /** Absent: VM home. */
  readonly diskId?: string
  /** Name of the storage policy. */
  readonly policy: string
  readonly encrypted: boolean
  readonly status: ComplianceStatus
  /** For people; with what to do when it is not compliant. */
  readonly reason: string
}

export interface VmCompliance {
  readonly id: string
  readonly name: string
  /** The worst of its parts. */
  readonly status: ComplianceStatus
  readonly parts: readonly PartCompliance[]
  /** Whether a host was asked just now, or the state is the last one that vCenter saw. */
  readonly seen: 'now' | 'before'
}

export interface PolicyKnowledge {
  readonly policies: readonly StoragePolicyRecord[]
  readonly applied: ReadonlyMap<string, AppliedPolicyVersion>
}

/** From the VM's host if it answers, else from what vCenter last saw. */
export async function readCompliance(
  { id, name }: Pick<VmRecord, 'id' | 'name'>,
  { inventory, store }: Pick<Services, 'inventory' | 'store'>,
): Promise<VmCompliance> {
  const { connectionState } = await inventory.describe(id, name)
  const record = await inventory.require(id, name)
  const [policies, applied] = await Promise.all([
    store.storagePolicies.list(),
    store.storagePolicies.appliedVersions(id),
  ])
  return complianceOf(record, { policies, applied }, connectionState === 'disconnected' ? 'before' : 'now')
}

export function complianceOf(
  record: VmRecord,
  knowledge: PolicyKnowledge,
  seen: VmCompliance['seen'],
): VmCompliance {
  const parts = [
    partCompliance('home', undefined, record.homePolicyId, record.homeKey !== null, knowledge),
    ...record.disks.map(({ device, diskId, policyId, key }) =>
      partCompliance(device, diskId, policyId, key !== null, knowledge),
    ),
  ]
  const status = worstFirst.find((one) => parts.some((part) => part.status === one)) ?? 'notApplicable'
  return { id: record.id, name: record.name, status, parts, seen }
}

const worstFirst: readonly ComplianceStatus[] = ['nonCompliant', 'outOfDate', 'compliant', 'notApplicable']

function partCompliance(
  part: string,
  diskId: string | undefined,
  policyId: string,
  encrypted: boolean,
  { policies, applied }: PolicyKnowledge,
): PartCompliance {
  const policy = policies.find(({ id }) => id === policyId)
  const version = applied.get(diskId ?? 'home')
  const appliedVersion = version?.policyId === policyId ? version.version : 1
  const known = { part, ...(diskId && { diskId }), policy: policy?.name ?? policyId, encrypted }
  return { ...known, ...judge(policy, appliedVersion, encrypted) }
}

function judge(
  policy: StoragePolicyRecord | undefined,
  appliedVersion: number,
  encrypted: boolean,
): Pick<PartCompliance, 'status' | 'reason'> {
  if (!policy) return { status: 'notApplicable', reason: 'its storage policy is not known here: apply one' }
  const state = encrypted ? 'encrypted' : 'plain'
  if (policy.version > appliedVersion)
    return {
      status: 'outOfDate',
      reason: `the policy was changed since it was applied (version ${appliedVersion}, now ${policy.version}): apply it again`,
    }
  if (policy.encryption !== encrypted)
    return {
      status: 'nonCompliant',
      reason: `the policy ${policy.encryption ? 'encrypts' : 'does not encrypt'} and the part is ${state}: apply the policy`,
    }
  if (!policy.encryption && policy.bundled)
    return { status: 'notApplicable', reason: `${policy.name} asks for nothing` }
  return { status: 'compliant', reason: `${state}, as the policy says` }
}
