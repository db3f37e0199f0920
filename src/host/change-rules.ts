/** The rules of a reconfiguration: which states of VM home and disks go together, and which change fits which state. */
import { VmsealError } from '../errors.js'
import type { ReconfigureSpec } from '../rpc/host-api.js'

export interface CryptoStates {
  readonly homeSealed: boolean
  readonly disks: readonly { readonly diskId: string; readonly sealed: boolean; readonly label: string }[]
}

/** Refuses a change that does not fit the states before it, or leaves states that do not go together. */
export function checkChange(before: CryptoStates, spec: ReconfigureSpec): void {
  const homeSealed = checkHome(before, spec)
  const changes = new Map(spec.disks?.map(({ diskId, crypto }) => [diskId, crypto.type]))
  for (const diskId of changes.keys())
    if (!before.disks.some((disk) => disk.diskId === diskId))
      throw new VmsealError('VMSEAL_NOT_FOUND', `the VM has no disk ${diskId}`, {
        details: { subject: diskId },
      })
  for (const { diskId } of spec.addDisks ?? [])
    if (before.disks.some((disk) => disk.diskId === diskId))
      throw new VmsealError('VMSEAL_ALREADY_EXISTS', `the VM has a disk ${diskId}`, {
        details: { subject: diskId },
      })
  for (const disk of before.disks) {
    const change = changes.get(disk.diskId)
    checkDisk(disk, change)
    if (!homeSealed && (change === undefined ? disk.sealed : change === 'encrypt'))
      throw mismatch(`the disk ${disk.label} would be encrypted and VM home plain`)
  }
  if (!homeSealed && spec.addDisks?.some(({ key }) => key !== undefined))
    throw mismatch('an encrypted disk cannot belong to a VM whose home is plain')
}

/** True if VM home is encrypted after the change. */
function checkHome(before: CryptoStates, spec: ReconfigureSpec): boolean {
  if (spec.home === undefined) return before.homeSealed
  const encrypt = spec.home.type === 'encrypt'
  if (encrypt === before.homeSealed)
    throw new VmsealError(
      'VMSEAL_INVALID_STATE',
      `VM home is ${encrypt ? 'encrypted already' : 'not encrypted'}`,
    )
  return encrypt
}

function checkDisk(disk: CryptoStates['disks'][number], change: 'encrypt' | 'decrypt' | undefined): void {
  if (change === undefined || (change === 'encrypt') !== disk.sealed) return
  const state = disk.sealed ? 'encrypted already' : 'not encrypted'
  throw new VmsealError('VMSEAL_DISK_STATE', `the disk ${disk.label} is ${state}`, {
    details: { subject: disk.label },
  })
}

function mismatch(reason: string): VmsealError {
  return new VmsealError('VMSEAL_ENCRYPTION_MISMATCH', reason)
}
