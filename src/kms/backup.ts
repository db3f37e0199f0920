/**
 * A backup in one file: a line of JSON that says how it is sealed, and the store as an authenticated stream bound to
 * that line. The records in it are sealed under the root key besides.
 */
import {
  closeSync,
  createReadStream,
  createWriteStream,
  existsSync,
  fsyncSync,
  linkSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { VmsealError, isVmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { KeyHandle } from '../native/load.js'
import { AuditLog } from './audit-log.js'
import type { AuditHead } from './audit-log.js'
import { closeDatabase, openDatabase } from './database.js'
import type { KmsDatabase } from './database.js'
import { Facts } from './facts.js'
import { GroupCommit } from './group-commit.js'
import { auditFile, authorityKeyFile, prepareDirectory, storeFile, syncDirectory } from './installation.js'
import { Keys } from './keys.js'
import { newPassphraseParameters, openWithPassphrase } from './passphrase.js'
import type { PassphraseParameters } from './passphrase.js'
import { RootKeys, proves } from './root-keys.js'
import type { RootFact } from './root-keys.js'
import { SealedRecords } from './sealed-records.js'

interface BackupSource {
  readonly directory: string
  readonly database: KmsDatabase
  readonly facts: Facts
  readonly roots: RootKeys
  /** Wiped. */
  readonly passphrase?: Uint8Array
}

export interface RestoreOptions {
  /** Made when it is missing; must be empty. */
  readonly directory: string
  /** The passphrase of the backup. Wiped. */
  readonly passphrase?: Uint8Array
  /** For a backup without a passphrase: the root key of the store that it was made of. */
  readonly rootKeyFile?: string
  /** The passphrase that opens the restored store; without it its new root key lies in a file. Wiped. */
  readonly storePassphrase?: Uint8Array
}

interface BackupHeader {
  readonly format: typeof format
  /** Absent: `key` is sealed under the root key. */
  readonly passphrase?: PassphraseParameters
  /** Base64 of the key of this backup. */
  readonly key: string
  /** Base64 of the root key under the key of this backup; with a passphrase only. */
  readonly root?: string
  /** Base64 of the authority's key file under the key of this backup. */
  readonly authority: string
}

const format = 'vmseal kms backup 1'
const keyBinding = Buffer.from(JSON.stringify([format, 'key']))
const rootBinding = Buffer.from(JSON.stringify([format, 'root']))
const authorityBinding = Buffer.from(JSON.stringify([format, 'authority']))

/** Bytes of the header line. */
const longestHeader = 64 * 1024

/** The target must not exist. */
export async function writeBackup(target: string, source: BackupSource): Promise<void> {
  const { directory, database, facts, roots, passphrase } = source
  if (!passphrase && facts.getJson<RootFact>('root')?.passphrase)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      'the root key of this store lies in no file: give the backup a passphrase',
      { details: { subject: 'passphrase' } },
    )
  const work = mkdtempSync(join(directory, 'backup-'))
  const key = native.KeyHandle.generate(32)
  try {
    // Refused early; the link at the end decides.
    closeSync(openSync(target, 'wx', 0o600))
    rmSync(target)
    const snapshot = join(work, 'store.db')
    writeFileSync(snapshot, '', { mode: 0o600 })
    database.prepare('VACUUM INTO ?').run(snapshot)
    const sealed = passphrase ? await sealUnder(passphrase, key, roots) : sealUnderRoot(key, roots)
    const authority = join(work, 'authority')
    await native.encryptFile(key, authorityBinding, join(directory, authorityKeyFile), authority).done()
    const header: BackupHeader = { format, ...sealed, authority: readFileSync(authority, 'base64') }
    const line = Buffer.from(`${JSON.stringify(header)}\n`)
    const stream = join(work, 'stream')
    await native.encryptFile(key, line, snapshot, stream).done()
    const whole = join(dirname(target), `.vmseal-${process.pid}-${Date.now()}`)
    try {
      writeFileSync(whole, line, { mode: 0o600, flag: 'wx' })
      await pipeline(createReadStream(stream), createWriteStream(whole, { flags: 'a' }))
      sync(whole)
      linkSync(whole, target)
    } finally {
      rmSync(whole, { force: true })
    }
    syncDirectory(dirname(target))
  } finally {
    key.dispose()
    rmSync(work, { recursive: true, force: true })
  }
}

/**
 * Rejects with VMSEAL_STORE_INVALID for a file that is no backup, was altered or cut, VMSEAL_INVALID_ARGUMENT for a
 * wrong or missing passphrase or root key, VMSEAL_ALREADY_EXISTS for a directory that is not empty.
 */
export async function restoreBackup(file: string, options: RestoreOptions): Promise<void> {
  const { directory } = options
  const { header, line } = readHeader(file)
  const isNew = !existsSync(directory)
  prepareDirectory(directory)
  if (readdirSync(directory).length > 0)
    throw new VmsealError('VMSEAL_ALREADY_EXISTS', `${directory} is not empty`, {
      details: { subject: directory },
    })
  const records = new SealedRecords()
  try {
    const { key, root } = await openKeys(header, options)
    records.add(0, root)
    const store = join(directory, 'restoring.db')
    try {
      await extract(file, { header, line, key }, store, directory)
    } finally {
      key.dispose()
    }
    await adopt(store, options, records)
    renameSync(store, join(directory, storeFile))
    syncDirectory(directory)
  } catch (error) {
    for (const name of readdirSync(directory)) rmSync(join(directory, name), { recursive: true, force: true })
    if (isNew) rmdirSync(directory)
    throw isVmsealError(error, 'VMSEAL_STREAM_INVALID') ? notABackup(file, error) : error
  } finally {
    records.dispose()
    options.passphrase?.fill(0)
    options.storePassphrase?.fill(0)
  }
}

type SealedKeys = Pick<BackupHeader, 'passphrase' | 'key' | 'root'>

async function sealUnder(passphrase: Uint8Array, key: KeyHandle, roots: RootKeys): Promise<SealedKeys> {
  const parameters = newPassphraseParameters()
  const opening = await openWithPassphrase(passphrase, parameters)
  try {
    return {
      passphrase: parameters,
      key: native.sealRecord(opening, key, keyBinding).toString('base64'),
      root: native.sealRecord(key, roots.records.root(), rootBinding).toString('base64'),
    }
  } finally {
    opening.dispose()
  }
}

function sealUnderRoot(key: KeyHandle, roots: RootKeys): SealedKeys {
  return { key: native.sealRecord(roots.records.root(), key, keyBinding).toString('base64') }
}

async function openKeys(
  { passphrase: parameters, key, root }: BackupHeader,
  { passphrase, rootKeyFile }: RestoreOptions,
): Promise<{ key: KeyHandle; root: KeyHandle }> {
  if (parameters === undefined) {
    if (rootKeyFile === undefined)
      throw wrong(
        'rootKeyFile',
        'this backup is sealed under the root key of its store: give the file of that',
      )
    const opened = native.KeyHandle.loadFile(rootKeyFile)
    try {
      return { key: unseal(opened, key, keyBinding, 'rootKeyFile'), root: opened }
    } catch (error) {
      opened.dispose()
      throw error
    }
  }
  if (passphrase === undefined) throw wrong('passphrase', 'this backup is sealed with a passphrase: give it')
  const opening = await openWithPassphrase(passphrase, parameters)
  try {
    const opened = unseal(opening, key, keyBinding, 'passphrase')
    try {
      return { key: opened, root: unseal(opened, root ?? '', rootBinding, 'passphrase') }
    } catch (error) {
      opened.dispose()
      throw error
    }
  } finally {
    opening.dispose()
  }
}

function unseal(under: KeyHandle, sealed: string, binding: Buffer, subject: string): KeyHandle {
  try {
    return native.openRecord(under, Buffer.from(sealed, 'base64'), binding)
  } catch (cause) {
    if (!isVmsealError(cause, 'VMSEAL_SEALED_RECORD_INVALID')) throw cause
    throw wrong(subject, `the ${subject} is not that of the backup, or the backup was altered`, cause)
  }
}

function readHeader(file: string): { header: BackupHeader; line: Buffer } {
  const descriptor = openSync(file, 'r')
  try {
    const bytes = Buffer.alloc(longestHeader)
    const line = bytes.subarray(0, readSync(descriptor, bytes, 0, bytes.length, 0))
    const end = line.indexOf(10) + 1
    const header = JSON.parse(line.subarray(0, end).toString()) as Partial<BackupHeader>
    if (header.format !== format || typeof header.key !== 'string' || typeof header.authority !== 'string')
      throw notABackup(file)
    return { header: header as BackupHeader, line: line.subarray(0, end) }
  } catch (error) {
    throw error instanceof SyntaxError ? notABackup(file, error) : error
  } finally {
    closeSync(descriptor)
  }
}

async function extract(
  file: string,
  { header, line, key }: { header: BackupHeader; line: Buffer; key: KeyHandle },
  store: string,
  directory: string,
): Promise<void> {
  const sealed = join(directory, 'restoring')
  await pipeline(
    createReadStream(file, { start: line.length }),
    createWriteStream(sealed, { flags: 'wx', mode: 0o600 }),
  )
  await native.decryptFile(key, line, sealed, store).done()
  writeFileSync(sealed, Buffer.from(header.authority, 'base64'))
  await native.decryptFile(key, authorityBinding, sealed, join(directory, authorityKeyFile)).done()
  rmSync(sealed)
}

/** Makes the store one of its own: a new root key, and an audit log that goes on after the backup. */
async function adopt(
  store: string,
  { directory, storePassphrase }: RestoreOptions,
  old: SealedRecords,
): Promise<void> {
  const database = openDatabase(store)
  let roots: RootKeys | undefined
  try {
    const facts = new Facts(database)
    checkRoot(old.root(), facts)
    facts.remove('root')
    roots = await RootKeys.open(directory, facts, storePassphrase)
    const { sequence, hash } = facts.getJson<AuditHead>('audit-head') ?? { sequence: 0, hash: '' }
    facts.putJson('audit-origin', { sequence, hash })
    const audit = AuditLog.open(join(directory, auditFile), { sequence, hash, bytes: 0 })
    const commit = new GroupCommit(database, audit)
    const time = new Date().toISOString()
    commit.record({ time, operation: 'Restore', result: 'Success' })
    await reseal(new Keys(database, commit), commit, old, roots.records)
    commit.flush()
    facts.putJson('audit-head', audit.close())
  } finally {
    roots?.dispose()
    closeDatabase(database)
  }
}

/** A record that did not open when the backup was made does not open now: no root key has the number 0. */
async function reseal(
  keys: Keys,
  commit: GroupCommit,
  from: SealedRecords,
  to: SealedRecords,
): Promise<void> {
  for (let last = 0; ;) {
    const batch = keys.sealed(last, 500)
    const end = batch.at(-1)
    if (!end) return
    last = end.sequence
    commit.write(() => {
      for (const { identity, record } of batch) {
        if (!record) continue
        try {
          const key = from.open(identity, { ...record, root: 0 })
          try {
            keys.replaceRecord(identity.id, to.seal(identity, key))
          } finally {
            key.dispose()
          }
        } catch (error) {
          if (!isVmsealError(error, 'VMSEAL_SEALED_RECORD_INVALID')) throw error
          keys.replaceRecord(identity.id, { ...record, root: 0 })
        }
      }
    })
    commit.flush()
  }
}

function checkRoot(root: KeyHandle, facts: Facts): void {
  const newest = facts.getJson<RootFact>('root')?.versions.at(-1)
  if (!newest || !proves(root, newest.version, newest.proof))
    throw new VmsealError('VMSEAL_STORE_INVALID', 'the backup was not made of the store of its root key')
}

function sync(file: string): void {
  const descriptor = openSync(file, 'r')
  try {
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
}

function wrong(subject: string, message: string, cause?: unknown): VmsealError {
  return new VmsealError('VMSEAL_INVALID_ARGUMENT', message, { cause, details: { subject } })
}

function notABackup(file: string, cause?: unknown): VmsealError {
  return new VmsealError('VMSEAL_STORE_INVALID', `${file} is no backup of a KMS, or it was altered`, {
    cause,
    details: { subject: file },
  })
}
