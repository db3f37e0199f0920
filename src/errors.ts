/**
 * The one error type of vmseal and the one table of its codes.
 * `docs/errors.md` is generated from the table; the crates use the same codes. The file is as long as that table.
 */

/** Who has to act: the calling program, whoever made the data, the other side of a connection, the machine, or vmseal itself. */
export type Fault = 'caller' | 'data' | 'peer' | 'environment' | 'vmseal'

interface CodeEntry {
  /** What happened, in one sentence. */
  readonly summary: string
  readonly fault: Fault
  /** The next step. */
  readonly action: string
  /** The same call may succeed later without a change. */
  readonly retryable?: true
  /** The vSphere fault of the same meaning. */
  readonly vsphere?: string
}

export const errorCodes = {
  // Keys and key memory
  VMSEAL_KEY_DISPOSED: {
    summary: 'The key was disposed and its memory wiped.',
    fault: 'caller',
    action: 'Keep the key until the last use, or obtain it again.',
  },
  VMSEAL_KEY_LENGTH: {
    summary: 'The key has the wrong length for this use.',
    fault: 'caller',
    action: 'Use 32 bytes for a KEK or VM home DEK and 64 bytes for a disk DEK.',
  },
  VMSEAL_KEY_WEAK: {
    summary: 'The two halves of an XTS key are equal (FIPS 140-3 IG C.I).',
    fault: 'data',
    action: 'Make a new key.',
  },
  VMSEAL_KEY_MEMORY_EXHAUSTED: {
    summary: 'The limit of locked memory is reached; the key was not made.',
    fault: 'environment',
    action: 'Dispose of keys, or raise the limit (ulimit -l, LimitMEMLOCK in a service unit).',
  },
  VMSEAL_KEY_MEMORY_UNAVAILABLE: {
    summary: 'The system offers neither memfd_secret nor lockable memory.',
    fault: 'environment',
    action: 'Run on a Linux kernel and a sandbox that allow mlock or memfd_secret.',
  },
  VMSEAL_RANDOM_UNAVAILABLE: {
    summary: 'The random number generator of the system failed.',
    fault: 'environment',
    action: 'Check getrandom(2) in this sandbox.',
  },
  VMSEAL_SHUTTING_DOWN: {
    summary: 'The process is exiting and every key is wiped.',
    fault: 'caller',
    action: 'Finish or cancel work before the process exits.',
  },
  // Calls
  VMSEAL_INVALID_ARGUMENT: {
    summary: 'An argument has the wrong type, range or form.',
    fault: 'caller',
    action: 'Correct the argument that the message names.',
    vsphere: 'InvalidArgument',
  },
  VMSEAL_SECTOR_ALIGNMENT: {
    summary: 'The data is not a whole number of sectors.',
    fault: 'caller',
    action: 'Pass a multiple of the sector size.',
  },
  VMSEAL_BUFFER_DETACHED: {
    summary: 'The buffer is detached, resizable, shared or in use by another operation.',
    fault: 'caller',
    action: 'Pass an ordinary buffer and wait for the operation that holds it.',
  },
  VMSEAL_CANCELLED: {
    summary:
      'The operation was cancelled. A VM is as it was, or says that a disk is in conversion; a disk file can be resumed.',
    fault: 'caller',
    action: 'Start it again, or resume it, when it is wanted.',
  },
  VMSEAL_INTERNAL: {
    summary: 'vmseal broke one of its own rules; the operation was stopped.',
    fault: 'vmseal',
    action: 'Report it with the message.',
  },
  VMSEAL_NATIVE_NOT_FOUND: {
    summary: 'No native addon for this platform could be loaded.',
    fault: 'environment',
    action: 'Build it from source: npm run build:native (needs cargo).',
  },
  VMSEAL_NO_PERMISSION: {
    summary: 'The user lacks a privilege on an object; nothing was done and no key was made.',
    fault: 'caller',
    action: 'Ask an administrator for a role with the privilege on the object, or on one above it.',
    vsphere: 'NoPermission',
  },
  // Wraps and seals
  VMSEAL_UNWRAP_FAILED: {
    summary: 'A wrapped key failed its integrity check (RFC 3394, RFC 5649).',
    fault: 'data',
    action: 'Use the key it was wrapped with; if it is the right one, the wrap was altered.',
  },
  VMSEAL_ENVELOPE_INVALID: {
    summary: 'A wrapped DEK is no JWE of the form that vmseal writes.',
    fault: 'data',
    action: 'Restore the descriptor or .vmx from its second copy or a backup.',
  },
  VMSEAL_ENVELOPE_AUTHENTICATION: {
    summary: 'A wrapped DEK does not open: it was altered or the KEK is another one.',
    fault: 'data',
    action: 'Check that the key provider serves the key id that the file names.',
  },
  VMSEAL_ENVELOPE_MISMATCH: {
    summary: 'A wrapped DEK is sound but belongs to another VM, disk, size or generation.',
    fault: 'data',
    action: 'Put the files back where they belong; somebody moved a wrap.',
  },
  VMSEAL_SEAL_INVALID: {
    summary: 'A sealed KEK does not open on this host: altered, or meant for another host or boot.',
    fault: 'peer',
    action: 'Push the key again.',
    retryable: true,
  },
  VMSEAL_SEAL_EXPIRED: {
    summary: 'A sealed KEK arrived after its expiry.',
    fault: 'peer',
    action: 'Push the key again and compare the clocks of vCenter and host.',
    retryable: true,
  },
  VMSEAL_SEAL_REPLAYED: {
    summary: 'A sealed KEK was used a second time.',
    fault: 'peer',
    action: 'Push the key again; find out who repeated the message.',
  },
  VMSEAL_SEALED_RECORD_INVALID: {
    summary: 'A key record of the KMS was altered or moved.',
    fault: 'data',
    action: 'Restore the KMS store from a backup.',
  },
  VMSEAL_STREAM_INVALID: {
    summary: 'An encrypted VM home file was altered, cut, or belongs to another VM.',
    fault: 'data',
    action: 'Restore the file from a backup.',
  },
  // Disks and files
  VMSEAL_DESCRIPTOR_INVALID: {
    summary: 'A VMDK descriptor is broken or was altered.',
    fault: 'data',
    action: 'Restore it from the .vmseal copy beside it or a backup.',
  },
  VMSEAL_DESCRIPTOR_UNSUPPORTED: {
    summary: 'A VMDK descriptor is of a kind or version that vmseal does not work on.',
    fault: 'data',
    action: 'Import the disk, which converts it to a flat extent.',
    vsphere: 'NotSupported',
  },
  VMSEAL_EXTENT_INVALID: {
    summary: 'A flat extent is missing or has another size than its descriptor says.',
    fault: 'data',
    action: 'Restore the extent.',
  },
  VMSEAL_IMAGE_INVALID: {
    summary: 'The file is no disk image: empty, of odd size, or not readable as one.',
    fault: 'data',
    action: 'Pass a raw image, a VMDK descriptor, or (with qemu-img) qcow2, VHDX or sparse VMDK.',
  },
  VMSEAL_QEMU_IMG_REQUIRED: {
    summary: 'This image format is read through qemu-img, which is not installed.',
    fault: 'environment',
    action: 'Install qemu-img (Debian: qemu-utils) or convert the image to raw first.',
  },
  VMSEAL_QEMU_IMG_FAILED: {
    summary: 'qemu-img could not convert the image.',
    fault: 'data',
    action: 'Check the image with qemu-img check.',
  },
  VMSEAL_DISK_STATE: {
    summary: 'The disk is not in the state that the operation needs.',
    fault: 'caller',
    action: 'Look at the state with the VM or disk information and choose the fitting operation.',
    vsphere: 'InvalidDeviceOperation',
  },
  VMSEAL_DISK_IN_CONVERSION: {
    summary: 'An in-place conversion of the disk is unfinished: its data is in two forms.',
    fault: 'caller',
    action:
      'Go on with it: vmseal vm resume-conversion (resumeConversion of the VM), or vmseal disk resume for a disk of none. vmseal disk info says how far it is and which keys it needs.',
    vsphere: 'InvalidDeviceOperation',
  },
  VMSEAL_JOB_INVALID: {
    summary:
      'The job record of an in-place conversion is missing, damaged or of another disk; nothing was written.',
    fault: 'data',
    action:
      'Put the .vmseal-job file back beside its descriptor, and descriptor and record of one disk together.',
  },
  VMSEAL_JOB_AUTHENTICATION: {
    summary:
      'The job record of an in-place conversion was not made by a holder of the key of the disk; nothing was written.',
    fault: 'data',
    action: 'Restore the .vmseal-job file that belongs to the disk, and find out who replaced it.',
  },
  VMSEAL_VMX_INVALID: {
    summary: 'A .vmx file is broken or was altered.',
    fault: 'data',
    action: 'Restore it from a backup.',
  },
  // System
  VMSEAL_EXPORT_INVALID: {
    summary:
      'The export of a VM is incomplete, or is not what was exported: a file is missing, altered or of another export.',
    fault: 'data',
    action: 'Restore from another copy of the export. Nothing was made of it.',
  },
  VMSEAL_IO: {
    summary: 'The operating system refused a file operation.',
    fault: 'environment',
    action: 'See the errno name in the message.',
  },
  VMSEAL_NO_SPACE: {
    summary: 'The datastore is full; nothing was changed.',
    fault: 'environment',
    action:
      'Free space: a conversion to a copy needs room for a second disk, one in place for its journal and every hole that is filled.',
    vsphere: 'NoDiskSpace',
  },
  VMSEAL_NOT_FOUND: {
    summary: 'The named object or file does not exist.',
    fault: 'caller',
    action: 'Check the name.',
    vsphere: 'NotFound',
  },
  VMSEAL_ALREADY_EXISTS: {
    summary: 'An object or file of this name exists.',
    fault: 'caller',
    action: 'Choose another name.',
    vsphere: 'AlreadyExists',
  },
  VMSEAL_PERMISSION_DENIED: {
    summary: 'The operating system denied access to a file.',
    fault: 'environment',
    action: 'Give the process access to the file that the message names.',
  },
  VMSEAL_LUKS_INVALID: {
    summary: 'The header of a LUKS volume is damaged, or the file is no LUKS volume.',
    fault: 'data',
    action: 'Restore the header from its backup: cryptsetup luksHeaderRestore.',
  },
  VMSEAL_LUKS_UNSUPPORTED: {
    summary: 'A LUKS volume is sound but cannot become a disk as it lies; the message names the reason.',
    fault: 'data',
    action:
      'Do what the message says, or copy the volume: open it with cryptsetup and encrypt the mapped device.',
  },
  VMSEAL_LUKS_PASSPHRASE: {
    summary: 'No key slot of a LUKS header opens with the passphrase or key file.',
    fault: 'caller',
    action: 'Pass another passphrase; a key file counts to its last byte, line end included.',
  },
  VMSEAL_FILE_LOCKED: {
    summary: 'Another process works on the same files.',
    fault: 'caller',
    action: 'Wait for it to end.',
    retryable: true,
    vsphere: 'FileLocked',
  },
  // KMIP
  VMSEAL_KMIP_MALFORMED: {
    summary: 'A KMIP message breaks the TTLV or message rules.',
    fault: 'peer',
    action: 'Check which program sent it.',
  },
  VMSEAL_KMIP_TOO_LARGE: {
    summary: 'A KMIP message is larger than the limit.',
    fault: 'peer',
    action: 'Ask for fewer objects in one message.',
  },
  VMSEAL_ADDRESS_UNAVAILABLE: {
    summary: 'A server cannot listen on its address.',
    fault: 'environment',
    action: 'Choose another port or stop the program that has it; the address must be one of this machine.',
  },
  VMSEAL_KMS_NOT_SERVED: {
    summary: 'No KMS serves this directory.',
    fault: 'caller',
    action: 'Start it (vmseal kms start --directory ...), or name the directory of one that runs.',
  },
  VMSEAL_VCENTER_NOT_RUNNING: {
    summary: 'No vCenter runs in this directory.',
    fault: 'caller',
    action: 'Start it (vmseal vcenter start DIR), or name the directory of one that runs.',
  },
  VMSEAL_HOST_NOT_RUNNING: {
    summary: 'No host agent runs in this directory.',
    fault: 'caller',
    action: 'Start it (vmseal host start --directory ...), or name the directory of one that runs.',
  },
  VMSEAL_KMIP_CONNECTION: {
    summary: 'The KMS cannot be reached or the connection was lost.',
    fault: 'peer',
    action: 'Check address, port and network of the KMS.',
    retryable: true,
  },
  VMSEAL_KMIP_TLS: {
    summary: 'The TLS handshake with the KMS failed.',
    fault: 'peer',
    action: 'Check the certificates on both sides.',
  },
  VMSEAL_KMIP_TIMEOUT: {
    summary: 'The KMS did not answer in time.',
    fault: 'peer',
    action: 'Try again; check the load of the KMS.',
    retryable: true,
  },
  VMSEAL_KMIP_VERSION: {
    summary: 'Client and server have no KMIP version in common.',
    fault: 'peer',
    action: 'Use a KMS that speaks KMIP 1.0 to 1.4.',
  },
  VMSEAL_KMIP_OPERATION_FAILED: {
    summary: 'The KMS refused an operation.',
    fault: 'peer',
    action: 'See resultReason and the message of the KMS.',
  },
  VMSEAL_CERTIFICATE_INVALID: {
    summary: 'A certificate, certificate request or private key file cannot be used.',
    fault: 'data',
    action: 'Pass PEM that matches its private key.',
  },
  // vCenter and hosts
  VMSEAL_ENCRYPTION_KEY_REQUIRED: {
    summary: 'The host lacks a KEK that the VM or disk needs.',
    fault: 'environment',
    action: 'Make the key ids in requiredKeys available at the key provider, then unlock the VM.',
    vsphere: 'EncryptionKeyRequired',
  },
  VMSEAL_NO_DEFAULT_KEY_PROVIDER: {
    summary: 'There is no default key provider; no key was made.',
    fault: 'caller',
    action: 'Add a key provider or mark one as default.',
    vsphere: 'InvalidVmConfig (configSpec.crypto)',
  },
  VMSEAL_KEY_PROVIDER_UNREACHABLE: {
    summary: 'No server of the key provider answers.',
    fault: 'environment',
    action: 'Check the KMS servers of the provider.',
    retryable: true,
  },
  VMSEAL_KEY_MISSING_IN_KMS: {
    summary: 'The key provider does not know the key id.',
    fault: 'environment',
    action: 'Restore the key at the KMS under the same id.',
    vsphere: 'KeyStateMissingInKMS',
  },
  VMSEAL_KEY_NOT_ACTIVE: {
    summary: 'The key is not active at the key provider.',
    fault: 'environment',
    action: 'Activate the key at the KMS.',
    vsphere: 'KeyStateNotActiveOrEnabled',
  },
  VMSEAL_INVALID_STATE: {
    summary: 'The object is not in the state that the operation needs.',
    fault: 'caller',
    action: 'See the message for the state it is in.',
    vsphere: 'InvalidState',
  },
  VMSEAL_INVALID_POWER_STATE: {
    summary: 'The VM is in another power state than the operation needs.',
    fault: 'caller',
    action: 'Power the VM on or off, as the message says.',
    vsphere: 'InvalidPowerState',
  },
  VMSEAL_ENCRYPTION_MISMATCH: {
    summary: 'VM home and disks would be in states that do not go together.',
    fault: 'caller',
    action: 'Encrypt VM home before or with its disks; decrypt disks before or with VM home.',
    vsphere: 'InvalidVmConfig (msg.hostd.configSpec.enc.mismatch)',
  },
  VMSEAL_SNAPSHOTS_EXIST: {
    summary: 'The VM has snapshots, which the change would leave behind in the old form.',
    fault: 'caller',
    action: 'Remove the snapshots of the VM first. A shallow recrypt is possible with them.',
    vsphere: 'InvalidVmConfig (msg.hostd.configSpec.enc.snapshots)',
  },
  VMSEAL_DISK_CHAIN: {
    summary: 'Disks of the VM are links of chains that branch or that a linked clone shares.',
    fault: 'caller',
    action:
      'Remove the snapshots or linked clones that the message names, or consolidate the disks of the VM.',
    vsphere: 'InvalidDeviceOperation (msg.hostd.deviceSpec.enc.diskChain)',
  },
  VMSEAL_ROLLBACK_DETECTED: {
    summary:
      'The files of a VM or disk are older than what vCenter has seen: they are from before a deep recrypt.',
    fault: 'data',
    action:
      'Put the newer files back. If the older ones are wanted, for instance from a backup, unregister the VM and register it again.',
  },
  VMSEAL_POLICY_UNKNOWN: {
    summary: 'There is no storage policy of this name.',
    fault: 'caller',
    action: 'Create the policy or use one of the list.',
  },
  VMSEAL_POLICY_NOT_ENCRYPTION: {
    summary: 'A key, or an encrypted disk, came with a storage policy that does not encrypt, or with none.',
    fault: 'caller',
    action: 'Name an encryption policy for it; the policy of a disk that was detached is not kept.',
    vsphere: 'InvalidDeviceSpec (msg.hostd.deviceSpec.enc.badPolicy)',
  },
  VMSEAL_DISK_NOT_FILE: {
    summary: 'The disk is a raw device mapping, which cannot be encrypted.',
    fault: 'caller',
    action: 'Import the device as an image: its copy is a file.',
    vsphere: 'InvalidDeviceSpec (msg.hostd.deviceSpec.enc.notFile)',
  },
  VMSEAL_DISK_SHARED: {
    summary: 'Another VM uses the disk, or may: it belongs to it, or is open for several writers.',
    fault: 'caller',
    action: 'Detach the disk from the other VM, or take the multi-writer flag off, first.',
    vsphere: 'InvalidDeviceSpec (msg.hostd.deviceSpec.enc.sharedBacking)',
  },
  VMSEAL_DEVICE_NOT_DISK: {
    summary: 'The device or file is no virtual disk.',
    fault: 'caller',
    action: 'Name a disk of the VM (scsi0:0), or a VMDK descriptor (folder/name.vmdk).',
    vsphere: 'InvalidDeviceSpec (msg.hostd.deviceSpec.enc.notDisk)',
  },
  VMSEAL_VTPM_PRESENT: {
    summary: 'The VM has a virtual TPM, whose secrets need an encrypted VM home.',
    fault: 'caller',
    action: 'Keep VM home encrypted, or remove the virtual TPM first.',
    vsphere: 'InvalidVmConfig (msg.vigor.enc.required.vtpm)',
  },
  VMSEAL_MIGRATION_NOT_SUPPORTED: {
    summary: 'A host cannot move running VMs, or not with encrypted memory, which the VM asks for.',
    fault: 'environment',
    action: 'Choose another host, update the one that is named, or power the VM off first.',
    vsphere: 'NotSupported',
  },
  VMSEAL_HOST_UNREACHABLE: {
    summary: 'The host does not answer.',
    fault: 'environment',
    action: 'Start the host and reconnect it.',
    retryable: true,
    vsphere: 'HostNotConnected',
  },
  VMSEAL_HOST_NOT_TRUSTED: {
    summary:
      'Who answers at the address of a host cannot prove to be that host, or does not accept this vCenter.',
    fault: 'peer',
    action: 'Find out who answers there. A host that joined another vCenter has to leave it and join again.',
    vsphere: 'SSLVerifyFault',
  },
  VMSEAL_HOST_CERTIFICATE_EXPIRED: {
    summary: 'The certificate of the host has expired: it was away when it should have been renewed.',
    fault: 'peer',
    action:
      'See that the clocks of both machines are right, then renew it by name: vmseal host renew-certificate.',
    vsphere: 'SSLVerifyFault',
  },
  VMSEAL_HOST_BUSY: {
    summary: 'The host has as many requests as it takes.',
    fault: 'environment',
    action: 'Wait for some of them to end.',
    retryable: true,
  },
  VMSEAL_HOST_LOCAL_ONLY: {
    summary: 'The answer would be plaintext of a disk, which never travels over a network.',
    fault: 'caller',
    action: 'Ask on the machine of the host.',
  },
  VMSEAL_JOIN_REFUSED: {
    summary: 'A join token is wrong, was used or has expired.',
    fault: 'caller',
    action: 'Have the host make a new token (start it again) and use it within its lifetime.',
    vsphere: 'InvalidLogin',
  },
  VMSEAL_RPC_MALFORMED: {
    summary: 'A message between vCenter and a host cannot be read.',
    fault: 'peer',
    action: 'Check which program sent it; vCenter and host may be of different versions.',
  },
  VMSEAL_RPC_VERSION: {
    summary: 'vCenter and host have no version of their protocol in common.',
    fault: 'peer',
    action: 'Update the older of the two.',
  },
  VMSEAL_TASK_INTERRUPTED: {
    summary:
      'vCenter or the host ended while the task ran; the files of the VM are as before or as after it.',
    fault: 'environment',
    action: 'Look at the state of the VM and start the task again.',
    retryable: true,
  },
  VMSEAL_STORE_INVALID: {
    summary: 'A durable store or task record is damaged or was written by a newer version.',
    fault: 'data',
    action: 'Restore it from a backup or use the version that wrote it.',
  },
} as const satisfies Record<string, CodeEntry>

export type ErrorCode = keyof typeof errorCodes

/** A key as vSphere names it: the id at the KMS, and the provider that serves it. */
export interface CryptoKeyId {
  readonly keyId: string
  readonly providerId: string
}

/** Facts that go with some codes. All are safe to log. */
export interface ErrorDetails {
  /** With VMSEAL_ENCRYPTION_KEY_REQUIRED: the keys that are missing. */
  readonly requiredKeys?: readonly CryptoKeyId[]
  /** With VMSEAL_KMIP_OPERATION_FAILED: the KMIP result reason, for instance `ItemNotFound`. */
  readonly resultReason?: string
  /** With errors of a KMIP connection: no byte of the request was sent, so it may be repeated. */
  readonly notSent?: boolean
  /** With VMSEAL_NO_PERMISSION: what is lacking, for instance `Cryptographer.Decrypt`, and where. */
  readonly privilege?: string
  readonly object?: string
  /** The file, object or argument that the message is about. */
  readonly subject?: string
}

/** Every error that vmseal throws or rejects with. Branch on `code`; the message is for people. */
export class VmsealError extends Error {
  override readonly name = 'VmsealError'
  readonly code: ErrorCode
  readonly details: ErrorDetails

  constructor(code: ErrorCode, message?: string, options: { cause?: unknown; details?: ErrorDetails } = {}) {
    super(message ?? errorCodes[code].summary, 'cause' in options ? { cause: options.cause } : undefined)
    this.code = code
    this.details = options.details ?? {}
  }

  /** Who has to act. */
  get fault(): Fault {
    return errorCodes[this.code].fault
  }

  /** The next step. */
  get action(): string {
    return errorCodes[this.code].action
  }

  /** The same call may succeed later without a change. */
  get retryable(): boolean {
    return 'retryable' in errorCodes[this.code]
  }
}

/** True for an error of this package, also of another copy of it in the same process. */
export function isVmsealError(error: unknown, code?: ErrorCode): error is VmsealError {
  const found =
    error instanceof Error && error.name === 'VmsealError' && isErrorCode((error as VmsealError).code)
  return found && (code === undefined || (error as VmsealError).code === code)
}

/** True if `value` is a code of the table. */
export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(errorCodes, value)
}
