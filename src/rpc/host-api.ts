/**
 * What vCenter and a host say to each other. Everything here but `Work` is plain JSON, so the same
 * types serve a host in this process and one across a network. Keys travel only sealed (`SealedKey`).
 * Declarations alone, one for each message: both sides, and their reviewers, read the conversation in one place.
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
  /** Absent: a host of an earlier release, which can do none of it. */
  readonly capabilities?: readonly HostCapability[]
}

/** `encryptedMigration`: vSphere's encryptedVMotionSupported. */
export type HostCapability = 'liveMigration' | 'encryptedMigration'

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
  /** Most bytes of disks per second that are converted, on average; default: as fast as it goes. */
  readonly maxBytesPerSecond?: number
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

/** How fast disks may be converted. */
export type ConversionPace = Pick<ReconfigureSpec, 'maxBytesPerSecond'>

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
   * Of a disk of several files that are not all under `key` alone: the KEKs of each encrypted one, base first. One of each
   * is needed. Absent: any one of `key` and `formerKeys` opens the disk.
   */
  readonly linkKeys?: readonly (readonly CryptoKeyId[])[]
  /** Open for several writers (`sharing = "multi-writer"`). */
  readonly shared?: true
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
  /** Those that vmseal took, parents before children; absent: none. */
  readonly snapshotTree?: readonly SnapshotConfig[]
  /** The snapshot that the present state comes after. */
  readonly currentSnapshot?: string
  /** KEKs of files that only snapshots are made of. */
  readonly keptKeys?: readonly CryptoKeyId[]
  /** Always `required` while VM home is encrypted; absent: told by a host of an earlier release. */
  readonly migrateEncryption?: MigrateEncryption
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

/**
 * Whether the memory of a running VM is encrypted on its way to another host, vSphere's migrateEncryption. `opportunistic`:
 * when both hosts can.
 */
export type MigrateEncryption = 'disabled' | 'opportunistic' | 'required'

/**
 * The one-time key of one live migration, made by the host that the VM goes to and sealed (HPKE) to the one that it leaves. Every
 * field but `sealed` is authenticated: see `migrationSealContext`.
 */
export interface SealedMigrationKey {
  readonly migrationId: string
  readonly vmId: string
  /** The host that it is sealed to. */
  readonly hostId: string
  /** The host that made it. */
  readonly targetHostId: string
  /** Unique for each seal, base64. */
  readonly nonce: string
  /** ISO 8601, UTC. */
  readonly expiresAt: string
  /** `enc || ciphertext`, base64. */
  readonly sealed: string
}

/** The authenticated data of a sealed migration key; never that of a sealed KEK, which has fewer parts. */
export function migrationSealContext(key: Omit<SealedMigrationKey, 'sealed'>): Buffer {
  const { migrationId, vmId, hostId, targetHostId, nonce, expiresAt } = key
  return Buffer.from(
    JSON.stringify(['vmseal migration key 1', migrationId, vmId, hostId, targetHostId, nonce, expiresAt]),
  )
}

/** What the host is told that a running VM goes to. */
export interface IncomingMigrationSpec {
  /** UUID. */
  readonly migrationId: string
  /** Where the memory goes: a new file of the host, or a pipe that the hypervisor reads. */
  readonly memory: string
  /** The host that the VM leaves, to whose present key a migration key is sealed. Absent: the memory comes in plaintext. */
  readonly sealTo?: { readonly hostId: string; readonly publicKey: string }
}

export interface IncomingMigration {
  /** The record with which the VM's lock is handed to this start of the host. */
  readonly lock: string
  readonly key?: SealedMigrationKey
}

/** What the host is told that a running VM leaves. */
export interface OutgoingMigrationSpec {
  /** UUID. */
  readonly migrationId: string
  readonly targetHostId: string
  /** Where the memory comes from: a file of the host, or a pipe that the hypervisor writes to. */
  readonly memory: string
  /** Absent: the memory leaves in plaintext, which the host does not do for a VM that is encrypted or asks for encryption. */
  readonly key?: SealedMigrationKey
}

/** Up to 1 MiB of the memory of a VM, sealed under the migration key if there is one. */
export interface MigrationPiece {
  /** Base64. */
  readonly data: string
  /** It is the last one. */
  readonly last: boolean
}

/** A folder outside the datastores that is made of a VM that is off: ciphertext under one KEK, and sums of all of it. */
export interface ExportSpec {
  /** Absolute path on the host of the folder that is made. */
  readonly to: string
  /** The KEK that every part of the export is wrapped with; whoever restores it needs no other. */
  readonly key: CryptoKeyId
}

/** What an export says of itself. */
export interface ExportDescription {
  readonly vmId: string
  readonly name: string
  /** ISO 8601, UTC. */
  readonly exportedAt: string
  readonly key: CryptoKeyId
  readonly disks: readonly {
    readonly diskId: string
    readonly device: string
    readonly capacityBytes: number
  }[]
}

/** A VM that is made of an export. */
export interface RestoreSpec {
  /** Absolute path on the host of the export, which is only read. */
  readonly from: string
  /** UUID of the VM: that of the export, or a new one. */
  readonly vmId: string
  readonly name: string
  readonly datastore: string
  readonly homeKey: CryptoKeyId
  /** Each disk of the export once. */
  readonly disks: readonly {
    readonly diskId: string
    /** UUID of the disk in the new VM. */
    readonly newDiskId: string
    readonly key: CryptoKeyId
  }[]
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
  /** Those of up to 1000 keys that the host has: the whole list may be long. */
  heldKeys(among: readonly CryptoKeyId[]): Promise<readonly CryptoKeyId[]>
  removeKey(key: CryptoKeyId): Promise<void>

  createVirtualMachine(spec: CreateSpec, work?: Work): Promise<VmConfig>
  reconfigureVirtualMachine(vm: VmReference, spec: ReconfigureSpec, work?: Work): Promise<VmConfig>
  /**
   * Goes on with every in-place conversion of the VM and ends it. VMSEAL_ENCRYPTION_KEY_REQUIRED when a key of one is not here,
   * VMSEAL_INVALID_STATE when no disk is in conversion.
   */
  resumeConversion(vm: VmReference, pace: ConversionPace, work?: Work): Promise<VmConfig>
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

  /**
   * Moves a VM that is off to another datastore of the host, byte for byte and without a key. Its place changes with the .vmx in the new
   * place, so it is whole in one of them at every instant. VMSEAL_NO_SPACE, VMSEAL_ALREADY_EXISTS (a folder of its name is there),
   * VMSEAL_DISK_IN_CONVERSION, VMSEAL_DISK_CHAIN (a linked clone, or its parent), VMSEAL_DISK_SHARED: then nothing was changed.
   */
  moveVirtualMachine(vm: VmReference, datastore: string, work?: Work): Promise<VmConfig>

  /** Whole, or not there. Of a VM with snapshots its present state. VMSEAL_ALREADY_EXISTS when there is something at the path. */
  exportVirtualMachine(vm: VmReference, spec: ExportSpec, work?: Work): Promise<ExportDescription>
  /** What an export says of itself; nothing is verified but its form. VMSEAL_EXPORT_INVALID, VMSEAL_NOT_FOUND. */
  describeExport(from: string): Promise<ExportDescription>
  /** Reads all of an export. VMSEAL_EXPORT_INVALID when it is not what was exported, VMSEAL_ENCRYPTION_KEY_REQUIRED without its KEK. */
  verifyExport(from: string, work?: Work): Promise<ExportDescription>
  /** Makes a VM of an export, its disks byte for byte under DEKs that are wrapped anew. Whole or not at all. */
  restoreVirtualMachine(spec: RestoreSpec, work?: Work): Promise<VmConfig>

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

  /** How the VM is moved while it runs. VMSEAL_INVALID_STATE for an encrypted VM, where it is `required` and stays so. */
  setMigrateEncryption(vm: VmReference, mode: MigrateEncryption): Promise<VmConfig>

  /**
   * Makes ready to run a VM that runs on another host: looks at its files and keys, and makes the migration key. Takes the place
   * of an earlier migration of the VM to this host.
   */
  prepareMigration(vm: VmReference, spec: IncomingMigrationSpec): Promise<IncomingMigration>
  /**
   * Begins to read the memory of a VM that runs here; the VM goes on. Refused: a key that is altered, expired, repeated, or of another
   * migration, VM or host.
   */
  beginMigration(vm: VmReference, spec: OutgoingMigrationSpec): Promise<{ readonly memoryBytes: number }>
  /** Piece `number`, counted from 0: the next one, or the last one that was read once more. */
  readMigrationPiece(
    vm: VmReference,
    migrationId: string,
    number: number,
    work?: Work,
  ): Promise<MigrationPiece>
  /** The next piece, or the last one that was written once more. */
  writeMigrationPiece(
    vm: VmReference,
    migrationId: string,
    number: number,
    piece: MigrationPiece,
    work?: Work,
  ): Promise<void>
  /**
   * Ends the VM here when all of its memory was read: what the guest wrote is durable, its disks are closed, and its lock is
   * that of the other host (`IncomingMigration.lock`). Done once more it changes nothing.
   */
  handOverMigration(vm: VmReference, migrationId: string, lock: string): Promise<void>
  /** Runs the VM here, whose lock was handed over and whose memory is whole. When it fails, the lock is given back. */
  takeOverMigration(vm: VmReference, migrationId: string): Promise<VmConfig>
  /**
   * Ends what there is of a migration of the VM; fine when there is none. The host that it was to leave runs it again, unless `moved`,
   * if the other one did not run it and has given the lock back: VMSEAL_FILE_LOCKED while it has not. What the other host has of
   * its memory is removed.
   */
  endMigration(vm: VmReference, outcome: 'moved' | 'abandoned'): Promise<VmConfig>
}
