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

/**
 * What a reconfiguration changes; it happens as a whole or not at all. Shallow recrypts and conversions in place are requests of
 * their own: each part changes by itself, and the same request again does what is left.
 */
export interface ReconfigureSpec {
  /**
   * How the data of disks gets its new form. `copy` (default): beside the old one, which goes when the new one was read back;
   * needs room for both. `inPlace`: where it lies, in room for a journal. A failure, a cancel or a crash then leaves the disk
   * in conversion (`DiskConfig.conversion`), which `resumeConversion` ends: nothing is lost, and until then the VM stays off.
   */
  readonly conversion?: 'copy' | 'inPlace'
  /**
   * What becomes of the old form of a disk after a copy: `unlink` (default), or `overwrite` with zeros before that, as far as
   * the file system shows it: not the old blocks of copy-on-write, snapshots, backups or the spare blocks of an SSD.
   */
  readonly discardSource?: 'unlink' | 'overwrite'
  readonly home?: CryptoSpec
  readonly disks?: readonly {
    readonly diskId: string
    readonly crypto: CryptoSpec
    readonly sectorSize?: 512 | 4096
  }[]
  readonly addDisks?: readonly NewDisk[]
  /** Ids of disks that leave the VM; their files stay. Their keys are not needed. */
  readonly removeDisks?: readonly string[]
}

/** How far an in-place conversion of a disk is. */
export interface DiskConversion {
  readonly mode: 'encrypt' | 'decrypt' | 'recrypt'
  readonly doneBytes: number
  readonly totalBytes: number
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
  /**
   * The data is in two forms: an in-place conversion was interrupted or is under way. `key` and `formerKeys` are then the
   * keys that going on takes.
   */
  readonly conversion?: DiskConversion
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
  /**
   * A crash interrupted a conversion to a copy: the keys that it began with, by `home` and disk id. The same request with them
   * goes on where it stood; any other change of the VM, and power-on, undoes what it left.
   */
  readonly interruptedKeys?: readonly { readonly part: string; readonly key: CryptoKeyId }[]
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
  /**
   * Goes on with every in-place conversion of the VM and ends it. VMSEAL_ENCRYPTION_KEY_REQUIRED when a key of one is not here,
   * VMSEAL_INVALID_STATE when no disk is in conversion.
   */
  resumeConversion(vm: VmReference, work?: Work): Promise<VmConfig>
  readVirtualMachine(vm: VmReference): Promise<VmConfig>
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
