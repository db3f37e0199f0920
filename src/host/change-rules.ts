/** The rules of a reconfiguration: which states of VM home and disks go together, and which change fits which state. */
import { VmsealError } from '../errors.js'
import type { CryptoSpec, ReconfigureSpec } from '../rpc/host-api.js'
import type { ChainShape } from './snapshot-table.js'

type CryptoState = 'plain' | 'encrypted'

interface CryptoTransition {
  readonly from: CryptoState
  readonly to: CryptoState
  /** The VM may be on meanwhile: no byte of data changes. */
  readonly whilePoweredOn: boolean
  /** The VM may have snapshots: no file gets another DEK. */
  readonly withSnapshots: boolean
}

/** What each change needs and leaves, of VM home and of a disk alike. */
export const cryptoTransitions: Readonly<Record<CryptoSpec['type'], CryptoTransition>> = {
  encrypt: { from: 'plain', to: 'encrypted', whilePoweredOn: false, withSnapshots: false },
  decrypt: { from: 'encrypted', to: 'plain', whilePoweredOn: false, withSnapshots: false },
  shallowRecrypt: { from: 'encrypted', to: 'encrypted', whilePoweredOn: true, withSnapshots: true },
  deepRecrypt: { from: 'encrypted', to: 'encrypted', whilePoweredOn: false, withSnapshots: false },
}

export interface CryptoStates {
  readonly homeSealed: boolean
  /** `unknown`: the .vmsd cannot be read. */
  readonly snapshots: number | 'unknown'
  readonly shape: ChainShape
  readonly disks: readonly {
    readonly diskId: string
    readonly sealed: boolean
    readonly label: string
    /** Open for several writers. */
    readonly shared?: true
    /** An in-place conversion is unfinished: until it is ended, the disk is not changed. */
    readonly inConversion?: boolean
    /** A snapshot keeps files of it. */
    readonly chained?: boolean
  }[]
}

/** True if every change of the request, of which there is one at least, may be made while the VM is on. */
export function mayBePoweredOn(spec: ReconfigureSpec): boolean {
  const changes = changesOf(spec)
  return (
    changes.length > 0 &&
    !spec.addDisks?.length &&
    !spec.attachDisks?.length &&
    !spec.removeDisks?.length &&
    changes.every(({ type }) => cryptoTransitions[type].whilePoweredOn)
  )
}

/** True if the change wraps with keys of VMs, which only a safe host takes. */
export function asksForKeys(spec: ReconfigureSpec): boolean {
  const wraps = changesOf(spec).some(({ type }) => cryptoTransitions[type].to === 'encrypted')
  return wraps || (spec.addDisks ?? []).some(({ key }) => key !== undefined)
}

/** Refuses a change that does not fit the states before it, or leaves states that do not go together. */
export function checkChange(before: CryptoStates, spec: ReconfigureSpec): void {
  refuseMixture(spec)
  refuseInConversion(before, spec)
  refuseSnapshots(before, spec)
  refuseChain(before, spec)
  const homeAfter = checkHome(before, spec)
  const changes = new Map(spec.disks?.map(({ diskId, crypto }) => [diskId, crypto.type]))
  const removed = new Set(spec.removeDisks)
  for (const diskId of [...changes.keys(), ...removed])
    if (!before.disks.some((disk) => disk.diskId === diskId))
      throw new VmsealError('VMSEAL_NOT_FOUND', `the VM has no disk ${diskId}`, {
        details: { subject: diskId },
      })
  for (const { diskId } of [...(spec.addDisks ?? []), ...(spec.attachDisks ?? [])])
    if (before.disks.some((disk) => disk.diskId === diskId))
      throw new VmsealError('VMSEAL_ALREADY_EXISTS', `the VM has a disk ${diskId}`, {
        details: { subject: diskId },
      })
  for (const disk of before.disks) {
    if (removed.has(disk.diskId)) continue
    const after = checkDisk(disk, changes.get(disk.diskId))
    if (homeAfter === 'plain' && after === 'encrypted')
      throw mismatch(`the disk ${disk.label} would be encrypted and VM home plain`)
  }
  if (homeAfter === 'plain' && spec.addDisks?.some(({ key }) => key !== undefined))
    throw mismatch('an encrypted disk cannot belong to a VM whose home is plain')
}

/**
 * A shallow recrypt and a conversion in place change files where they are, everything else makes new ones: one request cannot
 * promise both.
 */
function refuseMixture(spec: ReconfigureSpec): void {
  if (spec.conversion === 'inPlace') {
    if ([spec.addDisks, spec.attachDisks, spec.removeDisks].some((list) => list?.length))
      throw invalid('a conversion in place and disks that come or go are two requests')
    if (spec.discardSource !== undefined) throw invalid('a conversion in place has no source to discard')
    if (
      spec.disks?.some(({ crypto, sectorSize }) => crypto.type === 'deepRecrypt' && sectorSize !== undefined)
    )
      throw invalid('a recrypt in place keeps the sector size; to change it, convert to a copy')
  }
  if (changesOf(spec).some(({ type }) => type === 'shallowRecrypt') && !mayBePoweredOn(spec))
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      'a shallow recrypt and other changes are two requests: make one after the other',
    )
}

/** Such a disk may leave the VM: its files say where they stand, and vmseal disk resume ends that too. */
function refuseInConversion({ disks }: CryptoStates, spec: ReconfigureSpec): void {
  const changed = new Set(spec.disks?.map(({ diskId }) => diskId))
  const disk = disks.find(({ diskId, inConversion }) => inConversion && changed.has(diskId))
  if (disk === undefined) return
  throw new VmsealError(
    'VMSEAL_DISK_IN_CONVERSION',
    `an in-place conversion of ${disk.label} is unfinished: resume it first`,
    { details: { subject: disk.label } },
  )
}

function refuseSnapshots({ snapshots }: CryptoStates, spec: ReconfigureSpec): void {
  if (snapshots === 0 || changesOf(spec).every(({ type }) => cryptoTransitions[type].withSnapshots)) return
  throw new VmsealError(
    'VMSEAL_SNAPSHOTS_EXIST',
    snapshots === 'unknown'
      ? 'the .vmsd of the VM cannot be read, so it may have snapshots'
      : `the VM has ${snapshots} snapshots`,
  )
}

/** What links are for other disks too cannot get other keys; and a disk of which a snapshot keeps files stays where it is. */
function refuseChain({ shape, disks }: CryptoStates, spec: ReconfigureSpec): void {
  const kept = disks.find(({ diskId, chained }) => chained && spec.removeDisks?.includes(diskId))
  if (kept)
    throw new VmsealError('VMSEAL_SNAPSHOTS_EXIST', `a snapshot keeps files of the disk ${kept.label}`, {
      details: { subject: kept.label },
    })
  const changes = changesOf(spec)
  const reason = chainRefusals[shape]
  if (changes.length === 0 || reason === undefined) return
  if (shape === 'single' && changes.every(({ type }) => cryptoTransitions[type].withSnapshots)) return
  throw new VmsealError('VMSEAL_DISK_CHAIN', reason)
}

const chainRefusals: Readonly<Record<ChainShape, string | undefined>> = {
  none: undefined,
  single: 'disks of the VM are chains that wait to be consolidated',
  tree: 'the snapshots of the VM have branches: only a single chain can get another key',
  linkedClone: 'the VM is a linked clone: its keys are those of the VM it was made of',
  linkedCloneParent: 'linked clones read disks of the VM: its keys are theirs too',
}

/** The state of VM home after the change. */
function checkHome({ homeSealed }: CryptoStates, { home }: ReconfigureSpec): CryptoState {
  const before = stateOf(homeSealed)
  if (home === undefined) return before
  const { from, to } = cryptoTransitions[home.type]
  if (from === before) return to
  throw new VmsealError('VMSEAL_INVALID_STATE', `VM home is ${whyNot(before)}`)
}

function checkDisk(disk: CryptoStates['disks'][number], change: CryptoSpec['type'] | undefined): CryptoState {
  const before = stateOf(disk.sealed)
  if (change === undefined) return before
  const { from, to } = cryptoTransitions[change]
  if (from === before) {
    if (disk.shared && from === 'plain') throw sharedDisk(disk.label)
    return to
  }
  throw new VmsealError('VMSEAL_DISK_STATE', `the disk ${disk.label} is ${whyNot(before)}`, {
    details: { subject: disk.label },
  })
}

/** The other writers have no key. */
function sharedDisk(label: string): VmsealError {
  return new VmsealError('VMSEAL_DISK_SHARED', `the disk ${label} is open for several writers`, {
    details: { subject: label },
  })
}

function changesOf({ home, disks = [] }: ReconfigureSpec): CryptoSpec[] {
  return [...(home ? [home] : []), ...disks.map(({ crypto }) => crypto)]
}

function stateOf(sealed: boolean): CryptoState {
  return sealed ? 'encrypted' : 'plain'
}

function whyNot(state: CryptoState): string {
  return state === 'encrypted' ? 'encrypted already' : 'not encrypted'
}

function invalid(reason: string): VmsealError {
  return new VmsealError('VMSEAL_INVALID_ARGUMENT', reason)
}

function mismatch(reason: string): VmsealError {
  return new VmsealError('VMSEAL_ENCRYPTION_MISMATCH', reason)
}
