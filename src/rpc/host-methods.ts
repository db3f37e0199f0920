/**
 * The requests of `HostApi` as data: how each crosses, in this process or over a network, and what its answer looks like.
 * A method that is missing here does not compile.
 */
import type { HostApi, Work } from './host-api.js'
import { count, listOf, matching, nothing, object, oneOf, optional, text, type Shape } from './shapes.js'

interface HostMethod {
  /** Arguments, without `Work`. */
  readonly values: number
  /** `change`: acts at most once for each request id. `read`: may be asked again without harm. */
  readonly kind: 'read' | 'change'
  /** `Work` is its last argument: it reports progress and can be cancelled. */
  readonly long?: true
  /** Its answer is plaintext of a disk, so it is never given over a network. */
  readonly local?: true
  readonly result: Shape
}

export type HostMethodName = keyof HostApi

const keyId = object({ keyId: text(), providerId: text() })
const base64 = matching(/^[A-Za-z0-9+/]+={0,2}$/)
const reference = { datastore: text(), vmx: text() }
const uuid = matching(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)
const snapshot = object({
  id: uuid,
  name: text(),
  description: (value) => typeof value === 'string' && value.length <= 10_000,
  createdAt: text(),
  parent: optional(uuid),
  memory: (value) => typeof value === 'boolean',
  disks: listOf(object({ diskId: uuid, device: text() }), 1000),
})
const vmConfig = object({
  ...reference,
  vmId: uuid,
  name: text(),
  homeKey: optional(keyId),
  homeGeneration: optional(count),
  homeFormerKeys: optional(listOf(keyId, 1000)),
  disks: listOf(
    object({
      diskId: uuid,
      device: text(),
      file: text(),
      capacityBytes: count,
      key: optional(keyId),
      generation: optional(count),
      formerKeys: optional(listOf(keyId, 1000)),
      linkKeys: optional(listOf(listOf(keyId, 1000), 1000)),
      shared: optional((value) => value === true),
      conversion: optional(
        object({ mode: oneOf('encrypt', 'decrypt', 'recrypt'), doneBytes: count, totalBytes: count }),
      ),
    }),
    1000,
  ),
  cryptoState: oneOf('unlocked', 'locked'),
  missingKeys: listOf(keyId, 1000),
  powerState: oneOf('poweredOn', 'poweredOff'),
  interruptedKeys: optional(listOf(object({ part: text(), key: keyId }), 1000)),
  snapshots: optional(count),
  snapshotTree: optional(listOf(snapshot, 1000)),
  currentSnapshot: optional(uuid),
  keptKeys: optional(listOf(keyId, 1000)),
  migrateEncryption: optional(oneOf('disabled', 'opportunistic', 'required')),
  chain: optional(oneOf('single', 'tree', 'linkedClone', 'linkedCloneParent')),
})

const migrationKey = {
  migrationId: uuid,
  vmId: uuid,
  hostId: text(100),
  targetHostId: text(100),
  nonce: base64,
  expiresAt: text(100),
}
const migrationPiece = object({
  // No pattern over so much text: the host that opens the piece looks at every byte of it.
  data: (value) => typeof value === 'string' && value.length <= 2 * 1024 * 1024,
  last: (value) => typeof value === 'boolean',
})
const exportDescription = object({
  vmId: uuid,
  name: text(),
  exportedAt: text(),
  key: keyId,
  disks: listOf(object({ diskId: uuid, device: text(), capacityBytes: count }), 1000),
})

export const hostMethods: Readonly<Record<HostMethodName, HostMethod>> = {
  identify: {
    values: 0,
    kind: 'read',
    result: object({
      hostId: uuid,
      name: text(),
      bootId: uuid,
      publicKey: base64,
      datastores: listOf(text(), 10_000),
      cryptoState: oneOf('incapable', 'prepared', 'safe', 'pendingIncapable'),
      cryptoKeyId: optional(keyId),
      capabilities: optional(listOf(text(100), 100)),
    }),
  },
  prepareCrypto: { values: 0, kind: 'change', result: nothing },
  enableCrypto: { values: 1, kind: 'change', result: nothing },
  changeHostKey: {
    values: 1,
    kind: 'change',
    result: object({
      rewrapped: listOf(text()),
      failed: listOf(object({ dump: text(), message: text(10_000) })),
    }),
  },
  disableCrypto: { values: 0, kind: 'change', result: nothing },
  installKey: { values: 1, kind: 'change', result: nothing },
  listKeys: { values: 0, kind: 'read', result: listOf(keyId) },
  heldKeys: { values: 1, kind: 'read', result: listOf(keyId, 1000) },
  removeKey: { values: 1, kind: 'change', result: nothing },
  createVirtualMachine: { values: 1, kind: 'change', long: true, result: vmConfig },
  reconfigureVirtualMachine: { values: 2, kind: 'change', long: true, result: vmConfig },
  resumeConversion: { values: 2, kind: 'change', long: true, result: vmConfig },
  readVirtualMachine: { values: 1, kind: 'read', result: vmConfig },
  describeDisk: {
    values: 2,
    kind: 'read',
    result: object({
      datastore: text(),
      file: text(),
      capacityBytes: count,
      diskId: optional(uuid),
      key: optional(keyId),
      formerKeys: optional(listOf(keyId, 1000)),
      vmId: optional(uuid),
      generation: optional(count),
      attachedTo: optional(text()),
    }),
  },
  findKeys: {
    values: 2,
    kind: 'read',
    result: object({
      found: listOf(object({ key: keyId, count, files: listOf(text(), 20) }), 100_000),
      unreadable: listOf(text(), 1000),
      next: optional(text()),
    }),
  },
  findVirtualMachines: { values: 1, kind: 'read', result: listOf(object(reference)) },
  destroyVirtualMachine: { values: 1, kind: 'change', result: nothing },
  powerOn: { values: 1, kind: 'change', result: vmConfig },
  powerOff: { values: 1, kind: 'change', result: vmConfig },
  createSnapshot: { values: 2, kind: 'change', long: true, result: vmConfig },
  revertToSnapshot: { values: 2, kind: 'change', long: true, result: vmConfig },
  removeSnapshot: { values: 3, kind: 'change', long: true, result: vmConfig },
  consolidateDisks: { values: 1, kind: 'change', long: true, result: vmConfig },
  cloneVirtualMachine: { values: 2, kind: 'change', long: true, result: vmConfig },
  moveVirtualMachine: { values: 2, kind: 'change', long: true, result: vmConfig },
  exportVirtualMachine: { values: 2, kind: 'change', long: true, result: exportDescription },
  describeExport: { values: 1, kind: 'read', result: exportDescription },
  verifyExport: { values: 1, kind: 'read', long: true, result: exportDescription },
  restoreVirtualMachine: { values: 1, kind: 'change', long: true, result: vmConfig },
  writeDisk: { values: 4, kind: 'change', local: true, result: nothing },
  digestDisk: {
    values: 2,
    kind: 'read',
    long: true,
    result: object({ sha256: matching(/^[0-9a-f]{64}$/), bytes: count }),
  },
  readDisk: { values: 4, kind: 'read', local: true, result: base64 },
  setMigrateEncryption: { values: 2, kind: 'change', result: vmConfig },
  prepareMigration: {
    values: 2,
    kind: 'change',
    result: object({ lock: text(), key: optional(object({ ...migrationKey, sealed: base64 })) }),
  },
  beginMigration: { values: 2, kind: 'change', result: object({ memoryBytes: count }) },
  readMigrationPiece: { values: 3, kind: 'read', long: true, result: migrationPiece },
  writeMigrationPiece: { values: 4, kind: 'change', long: true, result: nothing },
  handOverMigration: { values: 3, kind: 'change', result: nothing },
  takeOverMigration: { values: 2, kind: 'change', result: vmConfig },
  endMigration: { values: 2, kind: 'change', result: vmConfig },
}

export function isHostMethod(name: unknown): name is HostMethodName {
  return typeof name === 'string' && Object.hasOwn(hostMethods, name)
}

/** A `HostApi` whose every request goes through `request`. */
export function hostApiOf(
  request: (name: HostMethodName, values: readonly unknown[], work: Work) => Promise<unknown>,
): HostApi {
  const methods = Object.entries(hostMethods).map(([name, { values, long }]) => [
    name,
    (...given: unknown[]) =>
      request(name as HostMethodName, given.slice(0, values), (long && (given[values] as Work)) || {}),
  ])
  return Object.fromEntries(methods) as HostApi
}

/** Calls a method by its name, with values that came from elsewhere: the host checks them. */
export function callHost(
  host: HostApi,
  name: HostMethodName,
  values: readonly unknown[],
  work: Work,
): Promise<unknown> {
  const { values: arity, long } = hostMethods[name]
  const all = Array.from({ length: arity }, (_, index) => values[index])
  return (host[name] as (...all: unknown[]) => Promise<unknown>).call(host, ...all, ...(long ? [work] : []))
}
