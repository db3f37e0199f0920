/**
 * What vCenter and a host say to each other. Everything here but `Work` is plain JSON, so the same
 * types serve a host in this process and one across a network. Keys travel only sealed (`SealedKey`).
 */
import type { CryptoKeyId } from '../errors.js'

/** Who a host is. A new `bootId` means: its key cache is empty and seals to its old public key are void. */
export interface HostIdentity {
  readonly hostId: string
  readonly name: string
  readonly bootId: string
  /** X25519 public key of this boot, base64 (RFC 9180). */
  readonly publicKey: string
  readonly datastores: readonly string[]
  readonly cryptoState: HostCryptoState
  /** The host key, while the host is safe: encrypts its dumps. */
  readonly cryptoKeyId?: CryptoKeyId
}

/**
 * vSphere's host encryption mode. Only a `safe` host takes keys of VMs. `pendingIncapable`: switched off, which a
 * restart completes. Kept in memory: every start begins `incapable`.
 */
export type HostCryptoState = 'incapable' | 'prepared' | 'safe' | 'pendingIncapable'

/** A KEK sealed to one host (HPKE). Every field but `sealed` is authenticated: see `sealContext`. */
export interface SealedKey extends CryptoKeyId {
  readonly hostId: string
  /** Unique for each seal, base64. */
  readonly nonce: string
  /** ISO 8601, UTC. */
  readonly expiresAt: string
  /** `enc || ciphertext`, base64. */
  readonly sealed: string
}

/** What became of the dumps of a host whose key was changed. */
export interface HostKeyChange {
  /** Names of dumps that open with the new host key now. */
  readonly rewrapped: readonly string[]
  /** Names of dumps that still need an older host key, and why. */
  readonly failed: readonly { readonly dump: string; readonly message: string }[]
}

/** The authenticated data of a seal: host, provider, key, nonce and expiry, in this order. */
export function sealContext(key: Omit<SealedKey, 'sealed'>): Buffer {
  return Buffer.from(JSON.stringify([key.hostId, key.providerId, key.keyId, key.nonce, key.expiresAt]))
}

/** vSphere's CryptoSpecEncrypt, CryptoSpecDecrypt, CryptoSpecShallowRecrypt and CryptoSpecDeepRecrypt. */
export type CryptoSpec =
  | { readonly type: 'encrypt'; readonly key: CryptoKeyId }
  | { readonly type: 'decrypt' }
  /** The same DEK under another KEK; the data stays and the VM may be on. */
  | { readonly type: 'shallowRecrypt'; readonly newKey: CryptoKeyId }
  /** Another KEK and another DEK; the data is written anew. */
  | { readonly type: 'deepRecrypt'; readonly newKey: CryptoKeyId }

/** Where a VM lives: the name of its folder and .vmx on a datastore, for instance `db01/db01.vmx`. */
export interface VmReference {
  readonly datastore: string
  readonly vmx: string
  /**
   * The newest generation of each DEK that vCenter has seen, by `home` and disk id. Files with an older one come from before a
   * deep recrypt: VMSEAL_ROLLBACK_DETECTED. What is not named is not checked.
   */
  readonly knownGenerations?: Readonly<Record<string, number>>
}

export interface NewDisk {
  /** UUID. */
  readonly diskId: string
  /** An image on the host's file system that is copied; the image is never changed. Without it the disk is empty. */
  readonly source?: string
  /** Size of an empty disk. */
  readonly capacityBytes?: number
  /** Encrypt from the first byte with this KEK: no plaintext of the disk reaches the datastore. */
  readonly key?: CryptoKeyId
  /** Data unit of an encrypted disk, default 512. */
  readonly sectorSize?: 512 | 4096
}

export interface CreateSpec {
  /** UUID. */
  readonly vmId: string
  readonly name: string
  readonly datastore: string
  /** Encrypt VM home with this KEK. */
  readonly homeKey?: CryptoKeyId
  readonly disks: readonly NewDisk[]
  /** Further .vmx settings, for instance memsize; secret when VM home is encrypted. */
  readonly settings?: Readonly<Record<string, string>>
}

/** A disk that lies on the VM's datastore already. */
export interface AttachDisk {
  /** UUID that the disk gets; one that stays where it is keeps its own, which this must be. */
  readonly diskId: string
  /** Folder and descriptor, for instance `db01/db01_1.vmdk`. */
  readonly file: string
}

/** A disk on a datastore as its descriptor shows it, attached or not. Nothing is proved: no key is used. */
export interface DiskDescription {
  readonly datastore: string
  /** Folder and descriptor, for instance `db01/db01_1.vmdk`. */
  readonly file: string
  readonly capacityBytes: number
  /** Absent: the descriptor names none. */
  readonly diskId?: string
  /** Absent: the disk is plain. */
  readonly key?: CryptoKeyId
  /** Further KEKs that open the disk. */
  readonly formerKeys?: readonly CryptoKeyId[]
  /** The VM that the wrapped DEK is bound to. */
  readonly vmId?: string
  /** Generation of the DEK. */
  readonly generation?: number
  /** The .vmx that names the disk, for instance `db01/db01.vmx`; absent: it is attached to no VM of its folder. */
  readonly attachedTo?: string
}

/** The keys that files of a datastore name, registered or not, attached or not. One page: a message has its limit. */
export interface KeysInFiles {
  /** For each key how many files name it, and the first of them as folder and name. */
  readonly found: readonly {
    readonly key: CryptoKeyId
    readonly count: number
    readonly files: readonly string[]
  }[]
  /** Files that could not be read, and so may name any key; the first of them. */
  readonly unreadable: readonly string[]
  /** Folder to go on after; absent: this was the last page. */
  readonly next?: string
}

/**
 * What a reconfiguration changes; it happens as a whole or not at all. Shallow recrypts are a request of their own: each part
 * changes by itself, and the same request again does what is left.
 */
export interface ReconfigureSpec {
  readonly home?: CryptoSpec
  readonly disks?: readonly {
    readonly diskId: string
    readonly crypto: CryptoSpec
    readonly sectorSize?: 512 | 4096
  }[]
  readonly addDisks?: readonly NewDisk[]
  /**
   * Disks of the VM's datastore. One in the VM's folder that was the VM's own stays where it is. Every other is copied: an encrypted
   * one under a new DEK that is bound to this VM, wrapped with the same KEK. Its key is needed.
   */
  readonly attachDisks?: readonly AttachDisk[]
  /** Ids of disks that leave the VM; their files stay. Their keys are not needed. */
  readonly removeDisks?: readonly string[]
}

export interface DiskConfig {
  readonly diskId: string
  /** Device node, for instance `scsi0:0`. */
  readonly device: string
  /** Descriptor file name in the VM's folder. */
  readonly file: string
  readonly capacityBytes: number
  /** Absent: the disk is plain. */
  readonly key?: CryptoKeyId
  /** Generation of the DEK; absent: the disk is plain. */
  readonly generation?: number
  /** Further KEKs that open the disk: a shallow recrypt was interrupted. */
  readonly formerKeys?: readonly CryptoKeyId[]
  /** Open for several writers (`sharing = "multi-writer"`). */
  readonly shared?: true
}

/** A VM as its files and the host's key cache show it. */
export interface VmConfig extends VmReference {
  readonly vmId: string
  readonly name: string
  /** Absent: VM home is plain. */
  readonly homeKey?: CryptoKeyId
  /** Generation of the DEK of VM home; absent: VM home is plain. */
  readonly homeGeneration?: number
  /** Further KEKs that open VM home: a shallow recrypt was interrupted. */
  readonly homeFormerKeys?: readonly CryptoKeyId[]
  readonly disks: readonly DiskConfig[]
  /** `locked`: the KEK of VM home is not on this host. */
  readonly cryptoState: 'unlocked' | 'locked'
  /** KEKs of the parts that cannot be opened on this host; one of each part is enough. */
  readonly missingKeys: readonly CryptoKeyId[]
  readonly powerState: 'poweredOn' | 'poweredOff'
  /** Snapshots of the VM; absent: none. */
  readonly snapshots?: number
}

/** Progress of one piece of a task. */
export interface WorkProgress {
  /** What is worked on, for instance `encrypt scsi0:0`. */
  readonly step: string
  /** Bytes over the whole request. */
  readonly doneBytes: number
  readonly totalBytes: number
  /** What they count where no data moves; default: bytes. */
  readonly unit?: 'virtualMachines'
}

/** The live side of a long request. */
export interface Work {
  readonly onProgress?: (progress: WorkProgress) => void
  readonly signal?: AbortSignal
}

/** A host agent, as vCenter sees it. Every method rejects with `VmsealError`. */
export interface HostApi {
  identify(): Promise<HostIdentity>

  /** Incapable to prepared; VMSEAL_INVALID_STATE from every other state. */
  prepareCrypto(): Promise<void>
  /**
   * Prepared to safe, with the sealed host key. The same key again is fine; VMSEAL_ALREADY_EXISTS while the host is safe
   * with another one.
   */
  enableCrypto(hostKey: SealedKey): Promise<void>
  /** Gives a safe host another host key and wraps the keys of its dumps anew. Which dumps could not be, is told. */
  changeHostKey(hostKey: SealedKey): Promise<HostKeyChange>
  /**
   * Wipes the host key; complete after a restart. VMSEAL_INVALID_STATE while the host holds keys of VMs or one of its
   * encrypted VMs is on, and when it is off already.
   */
  disableCrypto(): Promise<void>

  /**
   * Opens a seal into the key cache. Refused: altered, expired, repeated, or for another host or boot, and by a host
   * that is not safe (VMSEAL_INVALID_STATE).
   */
  installKey(key: SealedKey): Promise<void>
  listKeys(): Promise<readonly CryptoKeyId[]>
  removeKey(key: CryptoKeyId): Promise<void>

  createVirtualMachine(spec: CreateSpec, work?: Work): Promise<VmConfig>
  reconfigureVirtualMachine(vm: VmReference, spec: ReconfigureSpec, work?: Work): Promise<VmConfig>
  readVirtualMachine(vm: VmReference): Promise<VmConfig>
  /**
   * VMSEAL_DEVICE_NOT_DISK, VMSEAL_DISK_NOT_FILE (a raw device mapping), VMSEAL_DISK_IN_CONVERSION, VMSEAL_DESCRIPTOR_UNSUPPORTED
   * (encrypted by another program).
   */
  describeDisk(datastore: string, file: string): Promise<DiskDescription>
  /** The folders that follow `after`, by name; a key of several pages is in each of them. */
  findKeys(datastore: string, after?: string): Promise<KeysInFiles>
  findVirtualMachines(datastore: string): Promise<readonly VmReference[]>
  destroyVirtualMachine(vm: VmReference): Promise<void>

  /** Opens VM home and every disk. Without a KEK: VMSEAL_ENCRYPTION_KEY_REQUIRED naming the ids. */
  powerOn(vm: VmReference): Promise<VmConfig>
  powerOff(vm: VmReference): Promise<VmConfig>

  /** SHA-256 (hex) of a disk as a guest reads it. */
  digestDisk(
    vm: VmReference,
    diskId: string,
    work?: Work,
  ): Promise<{ readonly sha256: string; readonly bytes: number }>
  /** Up to 1 MiB of a disk as a guest reads it, base64. */
  readDisk(vm: VmReference, diskId: string, offset: number, length: number): Promise<string>
}
