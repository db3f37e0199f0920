/** What happened, on record: each event is durable before anyone is told. Details hold ids and names only. */
import type { CryptoKeyId, ErrorCode } from '../errors.js'
import type { EventTable } from '../store/store.js'
import type { MissingKey } from './missing-keys.js'

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
  /** An alarm: the server shows another certificate, or no TLS that is good enough. It is not used. */
  'vmseal.kms.crypto.ServerNotTrusted': {
    readonly providerId: string
    readonly server: string
    readonly message: string
  }
  'vmseal.kms.crypto.KeyDestroyed': CryptoKeyId
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
    readonly operation: 'create' | 'reconfigure' | 'recrypt' | 'register' | 'unlock' | 'destroy'
    readonly vm: string
    readonly host: string
    /** `began` stands before the act, the others after it. */
    readonly outcome: 'began' | 'success' | 'error'
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
    readonly details: VCenterEventDetails[Id]
  }
}[VCenterEventId]

export class EventLog {
  readonly #table: EventTable
  readonly #clock: () => Date
  readonly #tell: (event: VCenterEvent) => void

  constructor(table: EventTable, clock: () => Date, tell: (event: VCenterEvent) => void) {
    this.#table = table
    this.#clock = clock
    this.#tell = tell
  }

  async append<Id extends VCenterEventId>(id: Id, details: VCenterEventDetails[Id]): Promise<void> {
    const record = await this.#table.append({
      id,
      time: this.#clock().toISOString(),
      details: { ...details },
    })
    this.#tell(record as VCenterEvent)
  }

  /** Oldest first. */
  async list(options: { after?: number; limit?: number } = {}): Promise<VCenterEvent[]> {
    return (await this.#table.list(options.after ?? 0, options.limit ?? 1000)) as VCenterEvent[]
  }
}
