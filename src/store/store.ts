/**
 * The seam to durable state: what vCenter keeps, as typed records. Every method is asynchronous, so a database
 * server fits as well as SQLite; each call is durable and all or nothing when its promise resolves.
 * Only key ids live here, never a key. Declarations alone, one for each record and table: the whole schema is read in one place.
 */
import type { CryptoKeyId, ErrorCode } from '../errors.js'

export interface Store {
  readonly keyProviders: KeyProviderTable
  readonly keyProviderTrust: KeyProviderTrustTable
  readonly keyCreations: KeyCreationTable
  readonly clusters: ClusterTable
  readonly hosts: HostTable
  readonly hostLinks: HostLinkTable
  readonly hostAuthority: HostAuthorityTable
  readonly storagePolicies: StoragePolicyTable
  readonly virtualMachines: VmTable
  readonly rekeys: RekeyTable
  readonly keyRotations: KeyRotationTable
  readonly missingKeys: MissingKeyTable
  readonly vmIntents: VmIntentTable
  readonly tasks: TaskTable
  readonly events: EventTable
  readonly alarms: AlarmTable
  readonly authorization: AuthorizationTable
  close(): Promise<void>
}

export interface KmsServerAddress {
  readonly host: string
  readonly port: number
  /** Name in the server's certificate when it is not `host`. */
  readonly serverName?: string
  /** HTTP proxy that it is reached through (CONNECT, without a password), which then resolves the name. */
  readonly proxy?: { readonly host: string; readonly port: number }
}

export interface KeyProviderRecord {
  /** Written into VM files: never changes. */
  readonly id: string
  readonly servers: readonly KmsServerAddress[]
  /** PEM. */
  readonly caCertificate: string
  /** PEM. */
  readonly certificate: string
  /** File name of the client key below vCenter's credential directory. */
  readonly privateKeyFile: string
  readonly addedAt: string
}

/** A certificate that a person looked at and trusted for one server. */
export interface TrustedServer {
  readonly providerId: string
  readonly host: string
  readonly port: number
  /** PEM chain as the server presented it. */
  readonly certificate: string
  /** Hex SHA-256 of the server's public key (SPKI). */
  readonly keyHash: string
  readonly trustedAt: string
}

/** A client key that was made and is not used yet: its certificate has to become known to the KMS first. */
export interface PendingClientCertificate {
  readonly providerId: string
  readonly kind: 'self-signed' | 'request'
  /** PEM of the certificate or of the certificate signing request. */
  readonly pem: string
  /** File name of the key below vCenter's credential directory. */
  readonly privateKeyFile: string
  readonly createdAt: string
}

/** A user name that goes with every message, beside the client certificate. */
export interface KeyProviderLogin {
  readonly username: string
  /** File name of the password below vCenter's credential directory. */
  readonly passwordFile: string
}

/** A Create that was sent, or may have been sent, and whose key nobody uses yet. */
export interface KeyCreationRecord {
  readonly providerId: string
  /** The Name that the key has at the KMS: unique for each Create. */
  readonly name: string
  /** The server that was asked, `host:port`. */
  readonly server: string
  /** Known once it is clear that there is a key. */
  readonly keyId: string | null
  readonly beganAt: string
}

export interface ClusterRecord {
  readonly id: string
  readonly name: string
  readonly createdAt: string
  /** Whether its hosts are safe on demand or always. */
  readonly cryptoMode: 'onDemand' | 'forceEnable'
  /** Where host keys come from; null: the default provider. With `cryptoKeyId` that key of it, else a new one for each host. */
  readonly cryptoProviderId: string | null
  readonly cryptoKeyId: string | null
}

type ClusterCryptoColumns = Pick<ClusterRecord, 'cryptoMode' | 'cryptoProviderId' | 'cryptoKeyId'>

export interface HostRecord {
  readonly id: string
  readonly name: string
  readonly clusterId: string
  /** Of the last time the host was brought up to date. */
  readonly bootId: string
  readonly datastores: readonly string[]
  readonly addedAt: string
  /** The host key; absent: the host is not to be in encryption mode. */
  readonly cryptoKey: CryptoKeyId | null
}

/** How a host is reached over a network, and known there. */
export interface HostLinkRecord {
  readonly hostId: string
  readonly host: string
  readonly port: number
  /** Hex SHA-256 of the public key (SPKI) in the host's certificate. */
  readonly keyHash: string
}

export interface StoragePolicyRecord {
  readonly id: string
  readonly name: string
  readonly encryption: boolean
  /** I/O filters of the host may see the data before it is encrypted, for instance to replicate it. */
  readonly filtersBeforeEncryption: boolean
  readonly bundled: boolean
  /** Goes up with every change; 1 at first. */
  readonly version: number
}

/** The policy that a part of a VM was given, as it was then. */
export interface AppliedPolicyVersion {
  readonly policyId: string
  readonly version: number
}

export interface DiskRecord {
  readonly diskId: string
  /** Device node, for instance `scsi0:0`. */
  readonly device: string
  readonly file: string
  readonly capacityBytes: number
  readonly policyId: string
  readonly key: CryptoKeyId | null
  /** Generation of the DEK; null: the disk is plain. */
  readonly generation: number | null
}

export interface VmRecord {
  readonly id: string
  /** Goes up with every update; 1 at first. */
  readonly revision: number
  readonly name: string
  readonly clusterId: string
  /** The host it is registered on. */
  readonly hostId: string | null
  readonly datastore: string
  readonly vmx: string
  readonly homePolicyId: string
  readonly homeKey: CryptoKeyId | null
  /** Generation of the DEK of VM home; null: VM home is plain. */
  readonly homeGeneration: number | null
  /** Further KEKs that open parts of the VM: a shallow recrypt was interrupted, or only snapshots keep files of theirs. */
  readonly formerKeys: readonly CryptoKeyId[]
  readonly cryptoState: 'unlocked' | 'locked'
  readonly powerState: 'poweredOn' | 'poweredOff'
  readonly disks: readonly DiskRecord[]
}

/** The recrypt of everything under one provider's keys, which goes on after a restart. */
export interface RekeyRecord {
  readonly id: string
  readonly providerId: string
  /** Where the new keys are made. */
  readonly newProviderId: string
  readonly beganAt: string
}

export interface RekeyVmRecord {
  readonly vmId: string
  readonly name: string
  readonly state: 'waiting' | 'done' | 'failed'
  /** The new key; null until it is made. */
  readonly key: CryptoKeyId | null
  readonly errorCode: ErrorCode | null
  readonly errorMessage: string | null
}

/** A VM that is about to be made, moved or removed as a whole, or to run on another host. */
export interface VmIntentRecord {
  readonly vmId: string
  /** `relocate`: the place is the new one. */
  readonly kind: 'create' | 'destroy' | 'relocate' | 'migrate'
  readonly clusterId: string
  readonly datastore: string
  readonly vmx: string
  /** The keys that its files name, or will name: they are in use. */
  readonly keys: readonly CryptoKeyId[]
  readonly homePolicyId: string
  /** By disk id. */
  readonly diskPolicyIds: Readonly<Record<string, string>>
  readonly beganAt: string
}

/** Where the way of a key from its KMS to a host ends. */
export type KeyHop =
  /** Not in the key cache of the host, and not asked for yet. */
  | 'hostCache'
  | 'hostNotSafe'
  | 'hostRefused'
  | 'providerNotRegistered'
  | 'kmsUnreachable'
  | 'kmsRefused'
  | 'keyMissing'
  | 'keyNotActive'

/** A key that a VM lacks on its host. */
export interface MissingKeyRecord {
  readonly key: CryptoKeyId
  readonly hop: KeyHop
  readonly code: ErrorCode | null
  readonly message: string
  /** Since when the hop is this one. */
  readonly since: string
}

export type TaskState = 'queued' | 'running' | 'success' | 'error' | 'cancelled'

export interface TaskRecord {
  readonly id: string
  readonly name: string
  /** Name of the object it works on. */
  readonly entity: string
  readonly state: TaskState
  readonly createdAt: string
  readonly startedAt: string | null
  readonly endedAt: string | null
  readonly errorCode: ErrorCode | null
  readonly errorMessage: string | null
  readonly doneBytes: number
  readonly totalBytes: number
}

export interface EventRecord {
  /** Position in the log, from 1, without gaps. */
  readonly sequence: number
  /** Event type, for instance `com.vmware.vc.crypto.Operation`. */
  readonly id: string
  readonly time: string
  /** The user on whose behalf it happened; `system`: vCenter did it by itself. */
  readonly actor: string
  readonly details: Readonly<Record<string, unknown>>
}

/** The end of the event log: its hash vouches for every event before it. */
export interface EventHead {
  readonly sequence: number
  /** Hex SHA-256. */
  readonly hash: string
}

export interface EventVerification {
  /** Events that were found good, up to the first break. */
  readonly events: number
  readonly ok: boolean
  readonly head: EventHead
  /** The event that is not what was written, or is missing. */
  readonly firstBreak?: { readonly sequence: number; readonly reason: 'altered' | 'gap' | 'cut' }
}

/** What an alarm is about; one of each kind is open for an object at most. */
export type AlarmKind =
  | 'vm.locked'
  | 'vm.recrypt'
  | 'vm.noSpace'
  | 'vm.conversion'
  | 'host.needsEncryptionMode'
  | 'host.hostKeyReplaced'
  | 'host.refusesKeys'
  | 'host.connection'
  | 'host.certificate'
  | 'keyProvider.unreachable'
  | 'keyProvider.notTrusted'
  | 'keyProvider.clientCertificate'
  | 'keyProvider.serverCertificate'

export type AlarmStatus = 'green' | 'yellow' | 'red'

export interface AlarmEntity {
  readonly type: 'vm' | 'host' | 'keyProvider' | 'kmsServer'
  /** Of the VM or host, or the id of the provider; of a server `provider host:port`. */
  readonly name: string
}

/** An alarm that is open. */
export interface AlarmRecord {
  readonly kind: AlarmKind
  readonly entity: AlarmEntity
  readonly status: 'yellow' | 'red'
  readonly message: string
  /** The event that opened it, and its position in the log. */
  readonly event: string
  readonly sequence: number
  readonly openedAt: string
  readonly acknowledgedBy: string | null
  readonly acknowledgedAt: string | null
}

/** An object that permissions stand on. The root has the id ''; a datastore has its name. */
export interface InventoryEntity {
  readonly type: 'root' | 'cluster' | 'host' | 'vm' | 'datastore'
  readonly id: string
}

export interface UserRecord {
  readonly name: string
  readonly createdAt: string
}

/** A role of one's own; the built-in ones are not in the store. */
export interface RoleRecord {
  readonly name: string
  readonly privileges: readonly string[]
}

export interface PermissionRecord {
  readonly user: string
  readonly role: string
  readonly entity: InventoryEntity
  /** It holds for what is below the object too. */
  readonly propagate: boolean
}

export interface KeyProviderTable {
  list(): Promise<KeyProviderRecord[]>
  /** Fails with VMSEAL_ALREADY_EXISTS. The first one becomes the default in the same step. */
  insert(record: KeyProviderRecord): Promise<void>
  /** Replaces everything but `id` and `addedAt`. */
  update(record: KeyProviderRecord): Promise<void>
  /** A default that it was, of all or of a cluster, is cleared in the same step; so is its trust. */
  remove(id: string): Promise<void>
  /** Of a cluster, or without one of the whole vCenter. A cluster without its own has `null`. */
  getDefault(clusterId?: string): Promise<string | null>
  setDefault(id: string | null, clusterId?: string): Promise<void>
  /** The clusters that have `id` as their own default. */
  clustersOf(id: string): Promise<string[]>
}

export interface KeyProviderTrustTable {
  listServers(providerId: string): Promise<TrustedServer[]>
  /** Trusts one more certificate of a server, for instance the next one before it changes. */
  trustServer(record: TrustedServer): Promise<void>
  distrustServer(providerId: string, host: string, port: number): Promise<void>
  getPending(providerId: string): Promise<PendingClientCertificate | null>
  setPending(record: PendingClientCertificate): Promise<void>
  clearPending(providerId: string): Promise<void>
  getLogin(providerId: string): Promise<KeyProviderLogin | null>
  setLogin(providerId: string, login: KeyProviderLogin | null): Promise<void>
  /** False if this warning about a certificate was noted before. */
  noteWarning(keyHash: string, days: number): Promise<boolean>
}

export interface KeyCreationTable {
  /** Oldest first. */
  list(providerId: string): Promise<KeyCreationRecord[]>
  begin(record: KeyCreationRecord): Promise<void>
  found(name: string, keyId: string): Promise<void>
  end(name: string): Promise<void>
}

interface ClusterTable {
  list(): Promise<ClusterRecord[]>
  insert(record: Omit<ClusterRecord, keyof ClusterCryptoColumns>): Promise<void>
  /** False if there is no such cluster. Fails with VMSEAL_ALREADY_EXISTS. */
  rename(id: string, name: string): Promise<boolean>
  /** With its permissions and its default provider. False while a host or a VM is in it, or one is being made there. */
  remove(id: string): Promise<boolean>
  setCryptoMode(id: string, columns: ClusterCryptoColumns): Promise<void>
}

interface HostTable {
  list(): Promise<HostRecord[]>
  /** Everything but the host key. */
  save(record: Omit<HostRecord, 'cryptoKey'>): Promise<void>
  setCryptoKey(id: string, key: CryptoKeyId | null): Promise<void>
  remove(id: string): Promise<void>
}

/** A link goes with its host. */
interface HostLinkTable {
  list(): Promise<HostLinkRecord[]>
  save(record: HostLinkRecord): Promise<void>
}

/** What vCenter's CA for its hosts has signed for itself, PEM, and what it knows of their keys. Its private keys are files. */
export interface HostAuthorityTable {
  get(name: HostAuthorityPem): Promise<string | undefined>
  set(name: HostAuthorityPem, pem: string): Promise<void>
}

/**
 * The CA's certificate; vCenter's signing request and certificate; of a host id the hash of the public key that it gets next
 * (empty: none); of the hash of a public key that counts no more, since when.
 */
type HostAuthorityPem = 'authority' | 'request' | 'certificate' | `next ${string}` | `withdrawn ${string}`

export interface StoragePolicyTable {
  list(): Promise<StoragePolicyRecord[]>
  insert(record: StoragePolicyRecord): Promise<void>
  /** False, and nothing changes, for a bundled one, and if the policy is not at the version before `record.version`. */
  update(record: StoragePolicyRecord): Promise<boolean>
  /** False for a bundled one, and while a VM has it. */
  remove(id: string): Promise<boolean>
  /** By `home` and disk id; a part that is missing has its policy as it was at first. */
  appliedVersions(vmId: string): Promise<ReadonlyMap<string, AppliedPolicyVersion>>
  /** The parts (`home` or disk ids) were given these policies, as they are now. */
  noteApplied(vmId: string, parts: ReadonlyMap<string, string>): Promise<void>
}

export interface VmTable {
  /** All of every VM. Where names are enough, `listNames` takes a fraction of the time and memory. */
  list(): Promise<VmRecord[]>
  /** By name. */
  listNames(): Promise<Pick<VmRecord, 'id' | 'name' | 'clusterId'>[]>
  /** By name. */
  search(query: VmQuery): Promise<VmSummaryRecord[]>
  findByName(name: string): Promise<VmRecord | undefined>
  findById(id: string): Promise<VmRecord | undefined>
  listByHost(hostId: string): Promise<VmRecord[]>
  insert(record: VmRecord): Promise<void>
  /**
   * Replaces the VM and its disks and raises the revision; generations of disks that are gone are kept. False, and nothing changes, if the VM is not at
   * `record.revision` any more.
   */
  update(record: VmRecord): Promise<boolean>
  /** The generations of its DEKs are kept. */
  remove(id: string): Promise<void>
  /** Of a VM or disks that were removed: the newest generation of each DEK, by `home` and disk id. */
  retiredGenerations(id: string): Promise<ReadonlyMap<string, number>>
  /** Every key that a VM home or disk of the cluster is wrapped with, each once. */
  keysOfCluster(clusterId: string): Promise<CryptoKeyId[]>
  /** Every key that opens a part of a VM, each once. */
  usedKeys(): Promise<CryptoKeyId[]>
  /** The parts of VMs that a key opens, by name and device. Indexed: the size of the inventory does not matter. */
  partsOfKey(key: CryptoKeyId): Promise<KeyPart[]>
  /** The ids of all keys of a provider that a VM home or disk is wrapped with or that are host keys, each once. */
  keysOfProvider(providerId: string): Promise<string[]>
}

/** What VMs are looked for by; what is absent does not matter. */
export interface VmQuery {
  /** Part of the name, in any case. */
  readonly name?: string
  readonly clusterId?: string
  readonly hostId?: string
  readonly datastore?: string
  /** Of VM home or of any disk. */
  readonly policyId?: string
  /** Any part is wrapped with this key, or with any of the provider. */
  readonly key?: { readonly providerId: string; readonly keyId?: string }
  /** VM home is. */
  readonly encrypted?: boolean
  readonly cryptoState?: VmRecord['cryptoState']
  readonly powerState?: VmRecord['powerState']
  /** VMs that follow this name. */
  readonly after?: string
  readonly limit?: number
}

/** A VM as a list shows it. */
export interface VmSummaryRecord extends Pick<
  VmRecord,
  | 'id'
  | 'name'
  | 'clusterId'
  | 'hostId'
  | 'datastore'
  | 'cryptoState'
  | 'powerState'
  | 'homePolicyId'
  | 'homeKey'
> {
  readonly disks: number
  readonly encryptedDisks: number
}

/** A part of a VM that a key opens. */
export interface KeyPart {
  /** Name of the VM. */
  readonly virtualMachine: string
  /** `home`, or the device node of a disk; `former`: a wrap that an interrupted recrypt left, somewhere in the VM. */
  readonly part: string
}

/** When everything under the keys of a provider gets new ones by itself. */
export interface KeyRotationRecord {
  readonly providerId: string
  readonly everyDays: number
  /** VMs a minute; `null`: as fast as it goes. */
  readonly rateLimit: number | null
  /** ISO 8601. */
  readonly lastAt: string
}

export interface KeyRotationTable {
  /** By provider. */
  list(): Promise<KeyRotationRecord[]>
  set(record: KeyRotationRecord): Promise<void>
  rotated(providerId: string, lastAt: string): Promise<void>
  /** False: there was none. */
  remove(providerId: string): Promise<boolean>
}

export interface RekeyTable {
  /** The one of this provider that has not ended. */
  find(providerId: string): Promise<RekeyRecord | undefined>
  begin(record: RekeyRecord): Promise<void>
  /** By name. */
  listVms(rekeyId: string): Promise<RekeyVmRecord[]>
  saveVm(rekeyId: string, record: RekeyVmRecord): Promise<void>
  end(rekeyId: string): Promise<void>
}

interface VmIntentTable {
  /** Oldest first. */
  list(): Promise<VmIntentRecord[]>
  begin(record: VmIntentRecord): Promise<void>
  end(vmId: string): Promise<void>
}

export interface MissingKeyTable {
  list(vmId: string): Promise<MissingKeyRecord[]>
  /** All of a VM at once. Nothing happens for a VM that is not in the inventory any more. */
  replace(vmId: string, records: readonly MissingKeyRecord[]): Promise<void>
}

export interface TaskTable {
  /** Newest first. */
  list(limit: number): Promise<TaskRecord[]>
  save(record: TaskRecord): Promise<void>
  /** Ends every task that is queued or running; returns how many there were. */
  failUnfinished(endedAt: string, code: ErrorCode, message: string): Promise<number>
}

export interface EventTable {
  append(event: Omit<EventRecord, 'sequence'>): Promise<EventRecord>
  /** Oldest first. */
  list(afterSequence: number, limit: number): Promise<EventRecord[]>
  head(): Promise<EventHead>
  /**
   * Reads all of the log and finds the first event that was changed, removed, put in or reordered. With a head that was
   * noted elsewhere, also a log that was written anew as a whole.
   */
  verify(known?: EventHead): Promise<EventVerification>
}

export interface AlarmTable {
  /** Oldest first. */
  list(): Promise<AlarmRecord[]>
  /** Opens it, or replaces the one of the same kind and object. */
  open(record: AlarmRecord): Promise<void>
  /** False if there is none. */
  clear(kind: AlarmKind, entity: AlarmEntity): Promise<boolean>
  /** The last event that was considered. */
  getPosition(): Promise<number>
  setPosition(sequence: number): Promise<void>
}

export interface AuthorizationTable {
  listUsers(): Promise<UserRecord[]>
  insertUser(record: UserRecord): Promise<void>
  /** With its permissions. False if there is none. */
  removeUser(name: string): Promise<boolean>
  listRoles(): Promise<RoleRecord[]>
  insertRole(record: RoleRecord): Promise<void>
  updateRole(record: RoleRecord): Promise<boolean>
  removeRole(name: string): Promise<boolean>
  listPermissions(): Promise<PermissionRecord[]>
  permissionsOf(user: string): Promise<PermissionRecord[]>
  /** Replaces the one that the user has on the same object. */
  setPermission(record: PermissionRecord): Promise<void>
  removePermission(user: string, entity: InventoryEntity): Promise<boolean>
}
