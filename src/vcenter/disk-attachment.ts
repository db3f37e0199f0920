/** Whether a disk that lies on a datastore may become one of a VM: vSphere's matrix, before anything is done. */
import { randomUUID } from 'node:crypto'
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type { AttachDisk, DiskDescription, VmConfig } from '../rpc/host-api.js'
import type { VmRecord } from '../store/store.js'
import type { HostConnection } from './host-connections.js'
import { heldOn } from './key-distribution.js'
import { refuseMismatch } from './policy-plan.js'
import type { Services } from './services.js'
import { plainPolicyName, type StoragePolicy } from './storage-policies.js'

export interface AttachDiskSpec {
  /** Folder and descriptor on the VM's datastore, for instance `db01/db01_1.vmdk` or `[ds1] db01/db01_1.vmdk`. */
  readonly file: string
  /**
   * An encrypted disk needs an encryption policy, which is not kept when a disk is detached. A plain one is attached plain, which is
   * the default, and encrypted later by `applyPolicy`.
   */
  readonly policy?: string
}

interface PlannedAttachment {
  readonly disk: AttachDisk
  readonly policy: StoragePolicy
  /** Absent: the disk is plain. */
  readonly key?: CryptoKeyId
}

export async function planDiskAttachment(
  services: Services,
  spec: AttachDiskSpec,
  record: VmRecord,
  config: VmConfig,
  host: HostConnection,
): Promise<PlannedAttachment> {
  const file = pathOn(record.datastore, spec.file)
  const found = await host.call((api) => api.describeDisk(record.datastore, file))
  refuseAttached(found, record)
  const policy = await policyFor(services, spec, found)
  refuseMismatch({ home: config.homeKey !== undefined, disks: new Map([[file, found.key !== undefined]]) })
  const disk = { diskId: idFor(found, record), file }
  if (!found.key) return { disk, policy }
  const vm = { type: 'vm', id: record.id } as const
  await services.access.require('Cryptographer.AddDisk', vm)
  const keys = [found.key, ...(found.formerKeys ?? [])]
  const [present] = await heldOn(host, keys)
  // Its key has to be fetched.
  if (!present) await services.access.require('Cryptographer.RegisterVM', vm)
  return { disk, policy, key: present ?? found.key }
}

/** `[datastore] folder/name` as vSphere writes it, or the path alone. */
function pathOn(datastore: string, file: unknown): string {
  const [, named, path] = typeof file === 'string' ? (/^(?:\[([^\]]*)\] ?)?(.+)$/s.exec(file) ?? []) : []
  if (path === undefined)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      'file must be a disk on the datastore, for instance db01/db01_1.vmdk',
    )
  if (named !== undefined && named !== datastore)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      `the disk lies on datastore ${named} and the VM on ${datastore}: import it instead`,
      { details: { subject: named } },
    )
  return path
}

function refuseAttached({ file, attachedTo }: DiskDescription, record: VmRecord): void {
  if (attachedTo === undefined) return
  const own = attachedTo === record.vmx
  throw new VmsealError(
    own ? 'VMSEAL_ALREADY_EXISTS' : 'VMSEAL_DISK_SHARED',
    own
      ? `${file} is a disk of ${record.name} already`
      : `${file} belongs to ${attachedTo}: detach it there first`,
    { details: { subject: file } },
  )
}

async function policyFor(
  { storagePolicies }: Services,
  { policy }: AttachDiskSpec,
  { file, key }: DiskDescription,
): Promise<StoragePolicy> {
  const named = policy === undefined ? undefined : await storagePolicies.get(policy)
  if (key && !named?.encryption)
    throw new VmsealError(
      'VMSEAL_POLICY_NOT_ENCRYPTION',
      named
        ? `${file} is encrypted, and the storage policy '${named.name}' does not encrypt`
        : `${file} is encrypted: name its encryption policy, which was not kept when it was detached`,
      { details: { subject: file } },
    )
  if (!key && named?.encryption)
    throw new VmsealError(
      'VMSEAL_DISK_STATE',
      `${file} is plain: attach it plain, then give it the policy '${named.name}', which encrypts it`,
      { details: { subject: file } },
    )
  return named ?? storagePolicies.get(plainPolicyName)
}

/** A disk of the VM keeps its id, to which its wrap is bound; a copy is another disk. */
function idFor({ diskId, vmId, key }: DiskDescription, record: VmRecord): string {
  if (diskId === undefined || record.disks.some((disk) => disk.diskId === diskId)) return randomUUID()
  return key === undefined || vmId === record.id ? diskId : randomUUID()
}
