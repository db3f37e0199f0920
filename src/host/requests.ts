/** What arrives from vCenter, checked before anything is done with it: VMSEAL_INVALID_ARGUMENT names the field. */
import { isAbsolute } from 'node:path'
import { VmsealError, type CryptoKeyId } from '../errors.js'
import type {
  CloneSpec,
  ConversionPace,
  CreateSpec,
  CryptoSpec,
  ExportSpec,
  NewDisk,
  ReconfigureSpec,
  RestoreSpec,
  SealedKey,
  SnapshotSpec,
  VmReference,
} from '../rpc/host-api.js'
import { cryptoTransitions } from './change-rules.js'
import { checkVirtualMachineName } from './datastore.js'
import { isIdentityKey, isKeyId, uuidPattern } from './home-description.js'
import { isVmxKey } from './vmx.js'

/** The largest disk, as in vSphere: 62 TiB. */
const capacityLimit = 62 * 2 ** 40
const settingCountLimit = 1000
const generationCountLimit = 1000
const settingByteLimit = 64 * 1024

export function checkReference(vm: unknown): asserts vm is VmReference {
  const { datastore, vmx, knownGenerations } = record(vm, 'vm')
  requireThat(typeof datastore === 'string', 'vm.datastore', 'a name')
  requireThat(typeof vmx === 'string', 'vm.vmx', 'a path such as db01/db01.vmx')
  if (knownGenerations === undefined) return
  const generations = Object.entries(record(knownGenerations, 'vm.knownGenerations'))
  requireThat(
    generations.length <= generationCountLimit &&
      generations.every(([, generation]) => Number.isSafeInteger(generation) && (generation as number) > 0),
    'vm.knownGenerations',
    `at most ${generationCountLimit} generations from 1, by home and disk id`,
  )
}

export function checkKey(key: unknown, field: string): asserts key is CryptoKeyId {
  requireThat(isKeyId(key), field, 'a key id with its provider id')
}

export function checkKeys(keys: unknown, field: string): asserts keys is readonly CryptoKeyId[] {
  const all = list(keys, field)
  requireThat(all.length <= 1000, field, 'at most 1000 keys')
  for (const [index, key] of all.entries()) checkKey(key, `${field}[${index}]`)
}

export function checkSealedKey(key: unknown): asserts key is SealedKey {
  checkKey(key, 'key')
  const { hostId, nonce, expiresAt, sealed } = key as unknown as Record<string, unknown>
  requireThat(typeof hostId === 'string' && hostId.length <= 100, 'key.hostId', 'a host id')
  requireThat(isBase64(nonce, 128), 'key.nonce', 'base64 of at most 128 characters')
  requireThat(isBase64(sealed, 1024), 'key.sealed', 'base64 of at most 1024 characters')
  checkTime(expiresAt, 'key.expiresAt')
}

export function checkTime(value: unknown, field: string): asserts value is string {
  requireThat(
    typeof value === 'string' &&
      /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z$/.test(value) &&
      Number.isFinite(Date.parse(value)),
    field,
    'an ISO 8601 time in UTC',
  )
}

export function checkCreateSpec(spec: unknown): asserts spec is CreateSpec {
  const { vmId, name, datastore, homeKey, disks, settings } = record(spec, 'spec')
  checkUuid(vmId, 'spec.vmId')
  checkVirtualMachineName(name)
  requireThat(typeof datastore === 'string', 'spec.datastore', 'a name')
  if (homeKey !== undefined) checkKey(homeKey, 'spec.homeKey')
  checkNewDisks(disks, 'spec.disks')
  if (settings !== undefined) checkSettings(settings)
  if (homeKey === undefined && disks.some(({ key }) => key !== undefined))
    throw new VmsealError(
      'VMSEAL_ENCRYPTION_MISMATCH',
      'an encrypted disk cannot belong to a VM whose home is plain: set homeKey too',
    )
}

export function checkPace(pace: unknown, field: string): asserts pace is ConversionPace {
  const { maxBytesPerSecond } = record(pace, field)
  requireThat(
    maxBytesPerSecond === undefined || isPace(maxBytesPerSecond),
    `${field}.maxBytesPerSecond`,
    'a whole number of bytes from 1 on',
  )
}

function isPace(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) > 0
}

export function checkReconfigureSpec(spec: unknown): asserts spec is ReconfigureSpec {
  const { home, disks, addDisks, attachDisks, removeDisks, conversion, discardSource, maxBytesPerSecond } =
    record(spec, 'spec')
  requireThat(
    conversion === undefined || conversion === 'copy' || conversion === 'inPlace',
    'spec.conversion',
    'copy or inPlace',
  )
  requireThat(
    discardSource === undefined || discardSource === 'unlink' || discardSource === 'overwrite',
    'spec.discardSource',
    'unlink or overwrite',
  )
  checkPace({ maxBytesPerSecond }, 'spec')
  if (home !== undefined) checkCrypto(home, 'spec.home')
  const ids: string[] = []
  if (disks !== undefined)
    for (const [index, disk] of list(disks, 'spec.disks').entries()) {
      const field = `spec.disks[${index}]`
      const { diskId, crypto, sectorSize } = record(disk, field)
      checkUuid(diskId, `${field}.diskId`)
      checkCrypto(crypto, `${field}.crypto`)
      const writes = crypto.type === 'encrypt' || crypto.type === 'deepRecrypt'
      checkSectorSize(sectorSize, writes, `${field}.sectorSize`)
      ids.push(diskId)
    }
  for (const [index, diskId] of removeDisks === undefined
    ? []
    : list(removeDisks, 'spec.removeDisks').entries()) {
    checkUuid(diskId, `spec.removeDisks[${index}]`)
    ids.push(diskId)
  }
  requireThat(
    new Set(ids).size === ids.length,
    'spec.disks and spec.removeDisks',
    'lists that name each disk once',
  )
  if (addDisks !== undefined) checkNewDisks(addDisks, 'spec.addDisks')
  if (attachDisks !== undefined) checkAttachDisks(attachDisks)
}

export function checkExportSpec(spec: unknown): asserts spec is ExportSpec {
  const { to, key } = record(spec, 'spec')
  checkHostPath(to, 'spec.to')
  checkKey(key, 'spec.key')
}

export function checkRestoreSpec(spec: unknown): asserts spec is RestoreSpec {
  const { from, vmId, name, datastore, homeKey, disks } = record(spec, 'spec')
  checkHostPath(from, 'spec.from')
  checkUuid(vmId, 'spec.vmId')
  checkVirtualMachineName(name)
  requireThat(typeof datastore === 'string', 'spec.datastore', 'a name')
  checkKey(homeKey, 'spec.homeKey')
  const ids = list(disks, 'spec.disks').map((disk, index) => {
    const field = `spec.disks[${index}]`
    const { diskId, newDiskId, key } = record(disk, field)
    checkUuid(diskId, `${field}.diskId`)
    checkUuid(newDiskId, `${field}.newDiskId`)
    checkKey(key, `${field}.key`)
    return [diskId, newDiskId] as const
  })
  for (const side of [0, 1] as const)
    requireThat(
      new Set(ids.map((pair) => pair[side])).size === ids.length,
      'spec.disks',
      'a list of each disk once',
    )
}

/** A folder of the host, outside its datastores as a rule. */
export function checkHostPath(value: unknown, field: string): asserts value is string {
  requireThat(
    typeof value === 'string' && value.length <= 4000 && isAbsolute(value) && !value.includes('\0'),
    field,
    'an absolute path of the host',
  )
}

/** Folder and file name on a datastore; what it names is another matter. */
export function checkDatastorePath(
  value: unknown,
  field: string,
): { readonly folder: string; readonly name: string } {
  const [, folder, name] =
    typeof value === 'string' && value.length <= 1000 ? (/^([^/\0]+)\/([^/\0]+)$/.exec(value) ?? []) : []
  requireThat(
    folder !== undefined && name !== undefined && name !== '..',
    field,
    'a folder and a file in it, for instance db01/db01_1.vmdk',
  )
  return { folder, name }
}

function checkAttachDisks(disks: unknown): void {
  const field = 'spec.attachDisks'
  const files = list(disks, field).map((disk, index) => {
    const { diskId, file } = record(disk, `${field}[${index}]`)
    checkUuid(diskId, `${field}[${index}].diskId`)
    checkDatastorePath(file, `${field}[${index}].file`)
    return file
  })
  requireThat(new Set(files).size === files.length, field, 'a list that names each file once')
  requireThat(files.length <= 60, field, 'a list of at most 60 disks')
}

export function checkSnapshotSpec(spec: unknown): asserts spec is SnapshotSpec {
  const { snapshotId, name, description, memory } = record(spec, 'spec')
  checkUuid(snapshotId, 'spec.snapshotId')
  requireThat(
    // eslint-disable-next-line no-control-regex
    typeof name === 'string' && /^[^\0-\x1f\x7f]{1,80}$/.test(name),
    'spec.name',
    '1 to 80 characters',
  )
  requireThat(
    description === undefined || (typeof description === 'string' && description.length <= 4000),
    'spec.description',
    'text of at most 4000 characters',
  )
  requireThat(
    memory === undefined || (typeof memory === 'string' && memory !== '' && !memory.includes('\0')),
    'spec.memory',
    'a path',
  )
}

export function checkCloneSpec(spec: unknown): asserts spec is CloneSpec {
  const { vmId, name, datastore, snapshotId, linked, homeKey, disks } = record(spec, 'spec')
  checkUuid(vmId, 'spec.vmId')
  checkVirtualMachineName(name)
  requireThat(typeof datastore === 'string', 'spec.datastore', 'a name')
  if (snapshotId !== undefined) checkUuid(snapshotId, 'spec.snapshotId')
  requireThat(linked === undefined || typeof linked === 'boolean', 'spec.linked', 'true or false')
  if (homeKey !== undefined) checkKey(homeKey, 'spec.homeKey')
  const ids = list(disks, 'spec.disks').flatMap((disk, index) => {
    const field = `spec.disks[${index}]`
    const { diskId, newDiskId, key, sectorSize } = record(disk, field)
    checkUuid(diskId, `${field}.diskId`)
    checkUuid(newDiskId, `${field}.newDiskId`)
    if (key !== undefined) checkKey(key, `${field}.key`)
    checkSectorSize(sectorSize, key !== undefined, `${field}.sectorSize`)
    return [diskId, newDiskId]
  })
  requireThat(new Set(ids).size === ids.length, 'spec.disks', 'a list of different disks')
}

/** What is written to a disk: base64 of up to `limit` bytes. */
export function checkData(data: unknown, limit: number): Buffer {
  requireThat(isBase64(data, Math.ceil(limit / 3) * 4), 'data', `base64 of 1 to ${limit} bytes`)
  return Buffer.from(data as string, 'base64')
}

/** A range of bytes of a disk, up to `limit` long. */
export function checkRange(offset: unknown, length: unknown, limit: number): void {
  requireThat(Number.isSafeInteger(offset) && (offset as number) >= 0, 'offset', 'a number of bytes from 0')
  requireThat(
    Number.isSafeInteger(length) && (length as number) > 0 && (length as number) <= limit,
    'length',
    `a number of bytes from 1 to ${limit}`,
  )
}

export function checkUuid(value: unknown, field: string): asserts value is string {
  requireThat(typeof value === 'string' && uuidPattern.test(value), field, 'a UUID in lower case')
}

function checkNewDisks(disks: unknown, field: string): asserts disks is NewDisk[] {
  const ids = list(disks, field).map((disk, index) => checkNewDisk(disk, `${field}[${index}]`))
  requireThat(new Set(ids).size === ids.length, field, 'a list that names each disk once')
  requireThat(ids.length <= 60, field, 'a list of at most 60 disks')
}

function checkNewDisk(disk: unknown, field: string): string {
  const { diskId, source, capacityBytes, key, sectorSize } = record(disk, field)
  checkUuid(diskId, `${field}.diskId`)
  if (key !== undefined) checkKey(key, `${field}.key`)
  checkSectorSize(sectorSize, key !== undefined, `${field}.sectorSize`)
  requireThat(
    (source === undefined) !== (capacityBytes === undefined),
    field,
    'a disk with either a source or a capacityBytes',
  )
  if (source !== undefined)
    requireThat(
      typeof source === 'string' && source !== '' && !source.includes('\0'),
      `${field}.source`,
      'a path',
    )
  else
    requireThat(
      Number.isSafeInteger(capacityBytes) &&
        (capacityBytes as number) > 0 &&
        (capacityBytes as number) <= capacityLimit &&
        (capacityBytes as number) % 512 === 0,
      `${field}.capacityBytes`,
      'a multiple of 512 from 512 to 62 TiB',
    )
  return diskId
}

function checkCrypto(crypto: unknown, field: string): asserts crypto is CryptoSpec {
  const { type, key, newKey } = record(crypto, field)
  requireThat(
    typeof type === 'string' && Object.hasOwn(cryptoTransitions, type),
    `${field}.type`,
    `one of ${Object.keys(cryptoTransitions).join(', ')}`,
  )
  if (type === 'encrypt') checkKey(key, `${field}.key`)
  if (type === 'shallowRecrypt' || type === 'deepRecrypt') checkKey(newKey, `${field}.newKey`)
}

function checkSectorSize(size: unknown, encrypts: boolean, field: string): void {
  if (size === undefined) return
  requireThat(
    (size === 512 || size === 4096) && encrypts,
    field,
    '512 or 4096, and only where a disk is written anew',
  )
}

function checkSettings(settings: unknown): void {
  const entries = Object.entries(record(settings, 'spec.settings'))
  requireThat(entries.length <= settingCountLimit, 'spec.settings', `at most ${settingCountLimit} settings`)
  const keys = new Set<string>()
  for (const [key, value] of entries) {
    const field = `spec.settings[${JSON.stringify(key.slice(0, 100))}]`
    requireThat(isVmxKey(key) && !isIdentityKey(key), field, 'a .vmx key that vmseal does not govern')
    requireThat(!keys.has(key.toLowerCase()), field, 'there once, in upper or lower case')
    keys.add(key.toLowerCase())
    requireThat(
      typeof value === 'string' && Buffer.byteLength(value) <= settingByteLimit,
      field,
      'text of at most 64 KiB',
    )
  }
}

export function isBase64(value: unknown, limit: number): boolean {
  return (
    typeof value === 'string' &&
    value.length > 0 &&
    value.length <= limit &&
    Buffer.from(value, 'base64').toString('base64') === value
  )
}

export function record(value: unknown, field: string): Record<string, unknown> {
  requireThat(typeof value === 'object' && value !== null && !Array.isArray(value), field, 'an object')
  return value as Record<string, unknown>
}

function list(value: unknown, field: string): unknown[] {
  requireThat(Array.isArray(value), field, 'a list')
  return value as unknown[]
}

export function requireThat(holds: boolean, field: string, expected: string): asserts holds {
  if (!holds)
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${field} must be ${expected}`, {
      details: { subject: field },
    })
}
