/** What happened, on record: each event is durable before anyone is told. Details hold ids and names only. */
import type { CryptoKeyId, ErrorCode } from '../errors.js'
import type { DiskConversion } from '../rpc/host-api.js'
import type {
  AlarmEntity,
  AlarmKind,
  AlarmStatus,
  EventHead,
  EventTable,
  EventVerification,
} from '../store/store.js'
import { actingUser } from './authorization/access.js'
import type { MissingKey } from './missing-keys.js'

const pageSize = 100

/** What is done to a VM with keys. */
export type CryptoOperationName =
  | 'create'
  | 'reconfigure'
  | 'recrypt'
  | 'register'
  | 'unlock'
  | 'destroy'
  | 'createSnapshot'
  | 'revertToSnapshot'
  | 'removeSnapshot'
  | 'consolidateDisks'
  | 'clone'
  | 'migrate'
  | 'relocate'
  | 'export'
  | 'powerOn'
  | 'restore'
  /** Reading a disk, and whatever else a locked VM refused. */
  | 'access'

/** Details by event id. Ids of vSphere where it has one, `vmseal.` where it has none. */
export interface VCenterEventDetails {
  'vmseal.kms.crypto.KeyCreated': CryptoKeyId & { readonly context: string }
  'vmseal.host.crypto.KeyPushed': CryptoKeyId & { readonly host: string }
  /** vCenter cannot talk to a host that it reaches over a network. */
  'vim.event.HostConnectionLostEvent': {
    readonly host: string
    readonly error: ErrorCode
    readonly message: string
  }
  'vim.event.HostConnectedEvent': { readonly host: string }
  'com.vmware.vc.kms.crypto.KeyGenerateFail': {
    readonly providerId: string
    /** Set when the KMS made a key that nobody uses. */
    readonly keyId?: string
    readonly error: ErrorCode
    readonly message: string
  }
  'com.vmware.vc.kms.crypto.Unreachable': { readonly providerId: string; readonly message: string }
  /** A provider that could not be reached answers again. */
  'vmseal.kms.crypto.Reachable': { readonly providerId: string }
  /** An alarm: the server shows another certificate, or no TLS that is good enough. It is not used. */
  'vmseal.kms.crypto.ServerNotTrusted': {
    readonly providerId: string
    readonly server: string
    readonly message: string
  }
  /** A server that was not trusted is used again. */
  'vmseal.kms.crypto.ServerTrusted': { readonly providerId: string; readonly server: string }
  /** A certificate that was about to expire was replaced: of the server, or without one of vCenter. */
  'vmseal.kms.crypto.CertificateRenewed': { readonly providerId: string; readonly server?: string }
  'vmseal.kms.crypto.KeyDestroyed': CryptoKeyId
  'vmseal.host.certificate.Renewed': { readonly host: string; readonly expires: string }
  'vmseal.host.certificate.RenewalFailed': {
    readonly host: string
    readonly expires: string
    readonly error: ErrorCode
    readonly message: string
  }
  'vmseal.host.crypto.KeyRemoved': CryptoKeyId & { readonly host: string }
  'com.vmware.vc.vecs.KMSClientCertExpirationEvent': Expiry
  'com.vmware.vc.vecs.KMSServerCertExpirationEvent': Expiry & { readonly server: string }
  'com.vmware.vc.kms.crypto.SendKeyError.KeyMissingOnKMS': CryptoKeyId & { readonly error: ErrorCode }
  'com.vmware.vc.kms.crypto.SendKeyError.KMSClusterError': CryptoKeyId & { readonly error: ErrorCode }
  'com.vmware.vc.host.Crypto.SendKeyError.HostError': CryptoKeyId & {
    readonly host: string
    readonly error: ErrorCode
  }
  'com.vmware.vc.host.Crypto.Enabled': CryptoKeyId & { readonly host: string }
  /** Hosts of the cluster are safe on demand or always; `keyId` or `providerId`: where their host keys come from. */
  'vmseal.cluster.crypto.ModeChanged': {
    readonly cluster: string
    readonly mode: 'onDemand' | 'forceEnable'
    readonly keyId?: CryptoKeyId
    readonly providerId?: string
  }
  'com.vmware.vc.host.Crypto.HostCryptoDisabled': { readonly host: string }
  /** The host got a new host key, because the KMS has lost its own: older dumps need the lost one. */
  'com.vmware.vc.host.Crypto.HostKey.NewKey.KeyMissingOnKMS': {
    readonly host: string
    readonly lost: CryptoKeyId
    readonly key: CryptoKeyId
  }
  'com.vmware.vc.host.Crypto.ReqEnable.KeyMissingOnKMS': EnableFailure
  'com.vmware.vc.host.Crypto.ReqEnable.KMSClusterError': EnableFailure
  'com.vmware.vc.crypto.HostKeyUpdatedEvent': {
    readonly host: string
    readonly key: CryptoKeyId
    /** Dumps that open with the new key now, and those that need an older one still. */
    readonly rewrapped: readonly string[]
    readonly failed: readonly string[]
  }
  'com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnHost': LockedVm
  'com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnKMS': LockedVm
  'com.vmware.vc.vm.Crypto.VMLocked.KMSClusterError': LockedVm
  'com.vmware.vc.vm.Crypto.VMUnlocked': VmKeys
  'com.vmware.vc.vm.crypto.RekeyFail': VmKeys & { readonly error: ErrorCode }
  /** A task needs room for a copy, and the datastore has none. Nothing was changed. */
  'com.vmware.vc.vm.crypto.NoDiskSpace': VmKeys
  /** A shallow recrypt was interrupted: parts of the VM have wraps of the old key and of the new one. */
  'com.vmware.vc.vm.crypto.DiskchainUsingMixedKeys': VmKeys
  /** Disks are in conversion in place, and nothing works on them: the VM stays off until it is gone on with. */
  'vmseal.vm.crypto.ConversionInterrupted': {
    readonly vm: string
    readonly host: string
    readonly disks: readonly (DiskConversion & { readonly device: string })[]
  }
  'vmseal.vm.crypto.ConversionEnded': { readonly vm: string; readonly host: string }
  /** An encrypted VM that is off is about to get another host; `sourceHost` is absent when nobody knows its host any more. */
  'com.vmware.vc.vm.VmMigratingWithEncryptionEvent': VmKeys & { readonly sourceHost?: string }
  /** A VM that runs is about to get another host, with its memory encrypted on the way. */
  'com.vmware.vc.vm.VmHotMigratingWithEncryptionEvent': VmKeys & { readonly sourceHost: string }
  /** A VM that runs could not be moved, or it is not known yet whether it was. */
  'vim.event.VmFailedMigrateEvent': {
    readonly vm: string
    readonly host: string
    readonly sourceHost: string
    readonly error: ErrorCode
    /** What became of it: `unknown` until its hosts can be asked. */
    readonly powerState: 'poweredOn' | 'poweredOff' | 'unknown'
  }
  /** A VM has another host. */
  'vim.event.VmMigratedEvent': {
    readonly vm: string
    readonly host: string
    readonly sourceHost?: string
  }
  /** The files of a VM are on another datastore. */
  'vim.event.VmRelocatedEvent': {
    readonly vm: string
    readonly host: string
    readonly datastore: string
    readonly sourceDatastore: string
  }
  /** Unregistered or destroyed. */
  'vim.event.VmRemovedEvent': { readonly vm: string }
  /** Taken out of its cluster. */
  'vim.event.HostRemovedEvent': { readonly host: string }
  'vim.event.ClusterRenamedEvent': { readonly oldName: string; readonly newName: string }
  'vim.event.ClusterDestroyedEvent': { readonly cluster: string }
  'vim.event.AlarmStatusChangedEvent': {
    readonly alarm: AlarmKind
    readonly entity: AlarmEntity
    readonly from: AlarmStatus
    readonly to: AlarmStatus
    /** The event that it followed from; absent: somebody cleared it. */
    readonly event?: string
    readonly message: string
  }
  'vim.event.AlarmAcknowledgedEvent': { readonly alarm: AlarmKind; readonly entity: AlarmEntity }
  /** A warning: a VM was registered whose files are from before a deep recrypt that this vCenter saw. */
  'vmseal.vm.crypto.RolledBack': VmGenerations
  /** A warning: this vCenter never saw the DEKs of a VM that was registered, so it cannot tell whether its files are old ones. */
  'vmseal.vm.crypto.GenerationUnverified': VmGenerations
  /** A user lacked a privilege. Nothing was done. */
  'vmseal.authorization.Refused': {
    readonly user: string
    readonly privilege: string
    /** For people, for instance `virtual machine db01`. */
    readonly object: string
    readonly operation?: string
  }
  'com.vmware.vc.crypto.Operation': {
    readonly operation: CryptoOperationName
    readonly vm: string
    readonly host: string
    /** `began` stands before the act, `success` and `error` after it; `refused` without one: nothing was done. */
    readonly outcome: 'began' | 'success' | 'error' | 'refused'
    readonly keys: readonly CryptoKeyId[]
    readonly error?: ErrorCode
  }
}

interface Expiry {
  readonly providerId: string
  /** Negative: it has expired. */
  readonly daysToExpiry: number
  /** ISO 8601, UTC. */
  readonly notAfter: string
}

interface EnableFailure {
  readonly host: string
  readonly error: ErrorCode
  readonly message: string
}

interface VmKeys {
  readonly vm: string
  readonly host: string
  readonly keys: readonly CryptoKeyId[]
}

interface VmGenerations {
  readonly vm: string
  readonly host: string
  /** The generations found, by `home` and device node. */
  readonly generations: Readonly<Record<string, number>>
}

interface LockedVm extends VmKeys {
  /** For each key: where its way to the host ends, since when, and what to do. */
  readonly reasons: readonly MissingKey[]
}

export type VCenterEventId = keyof VCenterEventDetails

/** One event; `id` tells the type of `details`. */
export type VCenterEvent = {
  readonly [Id in VCenterEventId]: {
    readonly sequence: number
    readonly id: Id
    /** ISO 8601, UTC. */
    readonly time: string
    /** The user on whose behalf it happened; `system`: vCenter did it by itself. */
    readonly actor: string
    readonly details: VCenterEventDetails[Id]
  }
}[VCenterEventId]

export class EventLog {
  readonly #table: EventTable
  readonly #clock: () => Date
  readonly #tell: (event: VCenterEvent) => void
  readonly #consider: (event: VCenterEvent) => Promise<void>
  readonly #waiting = new Set<() => void>()
  #closed = false

  /** @internal `consider` draws its conclusions from an event before `append` resolves. */
  constructor(
    table: EventTable,
    clock: () => Date,
    tell: (event: VCenterEvent) => void,
    consider: (event: VCenterEvent) => Promise<void> = async () => {},
  ) {
    this.#table = table
    this.#clock = clock
    this.#tell = tell
    this.#consider = consider
  }

  /** @internal Durable when it resolves, and bound to the event before it. */
  async append<Id extends VCenterEventId>(id: Id, details: VCenterEventDetails[Id]): Promise<void> {
    const record = await this.#table.append({
      id,
      time: this.#clock().toISOString(),
      actor: actingUser(),
      details: { ...details },
    })
    this.#wake()
    this.#tell(record as VCenterEvent)
    await this.#consider(record as VCenterEvent)
  }

  /** Oldest first. */
  async list(options: { readonly after?: number; readonly limit?: number } = {}): Promise<VCenterEvent[]> {
    return (await this.#table.list(options.after ?? 0, options.limit ?? 1000)) as VCenterEvent[]
  }

  /**
   * Every event from now on, or with `after` from the one that follows this sequence number, without a gap: whoever stopped
   * goes on from the last one he saw. A slow reader costs nothing, what he has not read stays in the store. Ends with
   * `signal` or when vCenter closes.
   */
  async *subscribe(
    options: { readonly after?: number; readonly signal?: AbortSignal } = {},
  ): AsyncGenerator<VCenterEvent, void, undefined> {
    const { signal } = options
    let last = options.after ?? (await this.#table.head()).sequence
    while (!this.#closed && !signal?.aborted) {
      const page = await this.list({ after: last, limit: pageSize })
      if (page.length === 0) await this.#next(last, signal)
      for (const event of page) {
        if (signal?.aborted) return
        yield event
        last = event.sequence
      }
    }
  }

  /** The end of the log. Noted elsewhere, `verify` proves by it that nothing before was touched since. */
  head(): Promise<EventHead> {
    return this.#table.head()
  }

  /** Finds the first event that was changed, removed, put in or reordered; by a noted head also a log written anew. */
  verify(known?: EventHead): Promise<EventVerification> {
    return this.#table.verify(known)
  }

  /** @internal Ends every subscription. */
  close(): void {
    this.#closed = true
    this.#wake()
  }

  async #next(last: number, signal: AbortSignal | undefined): Promise<void> {
    const waiting = new Promise<void>((resolve) => {
      const done = (): void => {
        this.#waiting.delete(done)
        signal?.removeEventListener('abort', done)
        resolve()
      }
      this.#waiting.add(done)
      signal?.addEventListener('abort', done, { once: true })
    })
    // An event that came since the last look has woken nobody.
    if (this.#closed || signal?.aborted || (await this.#table.head()).sequence > last) this.#wake()
    return waiting
  }

  #wake(): void {
    for (const wake of this.#waiting) wake()
  }
}
