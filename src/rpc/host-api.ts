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
  /** Those that vmseal took, parents before children; absent: none. */
  readonly snapshotTree?: readonly SnapshotConfig[]
  /** The snapshot that the present state comes after. */
  readonly currentSnapshot?: string
  /** KEKs of files that only snapshots are made of. */
  readonly keptKeys?: readonly CryptoKeyId[]
  /** How its disks hang together; absent: each is one file. */
  readonly chain?: 'single' | 'tree' | 'linkedClone' | 'linkedCloneParent'
}

/** A VM that is made of another one. */
export interface CloneSpec {
  /** UUID of the new VM. */
  readonly vmId: string
  readonly name: string
  readonly datastore: string
  /** The state that is cloned; default: the present one, of a VM that is off. */
  readonly snapshotId?: string
  /** Read the disks of the snapshot and write to children; the keys are those of the source. */
  readonly linked?: boolean
  /** KEK of the clone's home; absent: it is plain. */
  readonly homeKey?: CryptoKeyId
  /** Each disk of the state once. */
  readonly disks: readonly {
    /** UUID of the source's disk. */
    readonly diskId: string
    /** UUID of the clone's. */
    readonly newDiskId: string
    /** KEK of the clone's disk; absent: it is plain. Its DEK is always a new one. */
    readonly key?: CryptoKeyId
    /** Data unit, default that of the source, 512 of a plain one. */
    readonly sectorSize?: 512 | 4096
  }[]
}

/** A snapshot as the VM's files show it. */
export interface SnapshotConfig {
  /** UUID. */
  readonly id: string
  readonly name: string
  readonly description: string
  /** ISO 8601, UTC. */
  readonly createdAt: string
  /** The snapshot it was taken after. */
  readonly parent?: string
  /** The guest's memory is in it. */
  readonly memory: boolean
  readonly disks: readonly { readonly diskId: string; readonly device: string }[]
}

export interface SnapshotSpec {
  /** UUID. */
  readonly snapshotId: string
  /** 1 to 80 characters. */
  readonly name: string
  readonly description?: string
  /** A file of the host, or a pipe, from which the memory of a VM that is on is read. Without it a snapshot is of the disks. */
  readonly memory?: string
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
  findVirtualMachines(datastore: string): Promise<readonly VmReference[]>
  destroyVirtualMachine(vm: VmReference): Promise<void>

  /** Opens VM home and every disk. Without a KEK: VMSEAL_ENCRYPTION_KEY_REQUIRED naming the ids. */
  powerOn(vm: VmReference): Promise<VmConfig>
  powerOff(vm: VmReference): Promise<VmConfig>

  /**
   * Keeps the present state of disks, settings and home files; the VM goes on in new children of its disks. All its disks stop at
   * one moment when it is on. VMSEAL_ENCRYPTION_KEY_REQUIRED without the KEKs of its disks.
   */
  createSnapshot(vm: VmReference, spec: SnapshotSpec, work?: Work): Promise<VmConfig>
  /** Back to the state of a snapshot; what was written since the last one is gone. A VM that is on is powered off. */
  revertToSnapshot(vm: VmReference, snapshotId: string, work?: Work): Promise<VmConfig>
  /**
   * Forgets a snapshot, or it and all that were taken after it, and merges files that nothing needs apart. The VM may be on. What
   * is not merged when it fails is merged by `consolidateDisks`; no state of the VM or of a snapshot changes.
   */
  removeSnapshot(vm: VmReference, snapshotId: string, children: boolean, work?: Work): Promise<VmConfig>
  /** Merges the files of its disks that no snapshot needs apart. */
  consolidateDisks(vm: VmReference, work?: Work): Promise<VmConfig>

  /**
   * Makes a VM of another one, in one step the same, encrypted, decrypted or under other keys. The source is only read. Whole or not
   * at all.
   */
  cloneVirtualMachine(vm: VmReference, spec: CloneSpec, work?: Work): Promise<VmConfig>

  /** Writes up to 1 MiB, base64, to a disk as a guest does, and makes it durable. */
  writeDisk(vm: VmReference, diskId: string, offset: number, data: string): Promise<void>
  /** SHA-256 (hex) of a disk as a guest reads it. */
  digestDisk(
    vm: VmReference,
    diskId: string,
    work?: Work,
  ): Promise<{ readonly sha256: string; readonly bytes: number }>
  /** Up to 1 MiB of a disk as a guest reads it, base64. */
  readDisk(vm: VmReference, diskId: string, offset: number, length: number): Promise<string>
}
