/** Where the root key of the store comes from, and how it is replaced by another. */
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { VmsealError, isVmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { KeyHandle } from '../native/load.js'
import type { Facts } from './facts.js'
import type { GroupCommit } from './group-commit.js'
import { requireFile, syncDirectory } from './installation.js'
import { openWithPassphrase, newPassphraseParameters } from './passphrase.js'
import type { PassphraseParameters } from './passphrase.js'
import type { Keys } from './keys.js'
import { SealedRecords } from './sealed-records.js'

/** What the store knows of its root keys: more than one only while records move from one to the next. */
export interface RootFact {
  /** Absent: each root key lies in a file. */
  readonly passphrase?: PassphraseParameters
  readonly versions: readonly RootVersion[]
}

interface RootVersion {
  readonly version: number
  /** Base64 of a record that only this root key opens. */
  readonly proof: string
  /** With a passphrase: base64 of the root key, sealed under what the passphrase gives. */
  readonly sealed?: string
}

/** Keys of a batch: others are served between batches. */
const batchSize = 100

export class RootKeys {
  readonly records = new SealedRecords()
  readonly #directory: string
  readonly #facts: Facts
  /** What the passphrase gives. */
  #unlocking: KeyHandle | undefined
  #fact: RootFact | undefined

  /**
   * The root keys of this store: made for a new one, never for one that has keys under another. Rejects with
   * VMSEAL_STORE_INVALID when a file is missing or another store's, VMSEAL_INVALID_ARGUMENT (subject `passphrase`)
   * when the passphrase is wrong, missing, or not wanted. The passphrase is wiped.
   */
  static async open(directory: string, facts: Facts, passphrase?: Uint8Array): Promise<RootKeys> {
    const roots = new RootKeys(directory, facts)
    try {
      await roots.#open(passphrase)
      return roots
    } catch (error) {
      roots.dispose()
      throw error
    }
  }

  private constructor(directory: string, facts: Facts) {
    this.#directory = directory
    this.#facts = facts
  }

  /** A replacement has begun and not ended. */
  get isMoving(): boolean {
    return (this.#fact?.versions.length ?? 0) > 1
  }

  /**
   * A new root key. The store knows of it before the first record is sealed under it, and forgets the old one after
   * the last: a crash leaves both, and `move` goes on.
   */
  begin(commit: GroupCommit): void {
    const fact = this.#known()
    const version = this.records.newest + 1
    const { root, entry } = this.#make(version)
    try {
      const next: RootFact = { ...fact, versions: [...fact.versions, entry] }
      commit.writeNow(
        () => this.#facts.putJson('root', next),
        () => ({ time: new Date().toISOString(), operation: 'RotateRootKey', result: 'Success' }),
      )
      this.#fact = next
      this.records.add(version, root)
    } catch (error) {
      root.dispose()
      rmSync(this.#file(version), { force: true })
      throw error
    }
  }

  /**
   * Seals every record under the newest root key, a batch at a time. Rejects with VMSEAL_SEALED_RECORD_INVALID when
   * some do not open: they stay, and so does the root key that they may be under. `isStopped` breaks it off.
   */
  async move(keys: Keys, commit: GroupCommit, isStopped: () => boolean): Promise<void> {
    const broken: string[] = []
    for (let last = 0; !isStopped(); await turn()) {
      const batch = keys.sealedUnderOther(this.records.newest, last, batchSize)
      if (batch.length === 0) return this.#end(keys, commit, broken)
      last = batch.at(-1)?.sequence ?? last
      commit.write(() => {
        for (const { identity, record } of batch)
          try {
            keys.replaceRecord(identity.id, this.#reseal(identity, record))
          } catch (error) {
            if (!isVmsealError(error, 'VMSEAL_SEALED_RECORD_INVALID')) throw error
            broken.push(identity.id)
          }
      })
      commit.flush()
    }
  }

  dispose(): void {
    this.records.dispose()
    this.#unlocking?.dispose()
  }

  #reseal(...[identity, record]: Parameters<SealedRecords['open']>) {
    const key = this.records.open(identity, record)
    try {
      return this.records.seal(identity, key)
    } finally {
      key.dispose()
    }
  }

  #end(keys: Keys, commit: GroupCommit, broken: readonly string[]): void {
    if (broken.length > 0)
      throw new VmsealError(
        'VMSEAL_SEALED_RECORD_INVALID',
        `${broken.length} records do not open (${broken.slice(0, 5).join(', ')}); the old root key is kept for them`,
        { details: { subject: String(broken[0]) } },
      )
    const fact = this.#known()
    const next = { ...fact, versions: fact.versions.slice(-1) }
    commit.purge()
    commit.writeNow(
      () => this.#facts.putJson('root', next),
      () => ({ time: new Date().toISOString(), operation: 'RetireRootKey', result: 'Success' }),
    )
    this.#fact = next
    keys.forget()
    this.records.retire()
    this.#removeOthers()
  }

  async #open(passphrase: Uint8Array | undefined): Promise<void> {
    this.#fact = this.#facts.getJson<RootFact>('root')
    const parameters = this.#fact ? this.#fact.passphrase : passphrase && newPassphraseParameters()
    if (passphrase && !parameters)
      throw wrongPassphrase('the root key of this store lies in a file: leave the passphrase out')
    if (!passphrase && parameters) throw wrongPassphrase('the store is opened with a passphrase: give it')
    if (passphrase && parameters) this.#unlocking = await openWithPassphrase(passphrase, parameters)
    if (!this.#fact) return this.#first(parameters)
    for (const entry of this.#fact.versions) this.records.add(entry.version, this.#load(entry))
    this.#removeOthers()
  }

  #first(passphrase: PassphraseParameters | undefined): void {
    const { root, entry } = this.#make(1)
    this.records.add(1, root)
    this.#fact = { ...(passphrase ? { passphrase } : {}), versions: [entry] }
    this.#facts.putJson('root', this.#fact)
  }

  #make(version: number): { root: KeyHandle; entry: RootVersion } {
    const root = this.#unlocking ? native.KeyHandle.generate(32) : this.#makeFile(version)
    try {
      const sealed = this.#unlocking && native.sealRecord(this.#unlocking, root, rootBinding(version))
      const proof = proofOf(root, version)
      return { root, entry: { version, proof, ...(sealed ? { sealed: sealed.toString('base64') } : {}) } }
    } catch (error) {
      root.dispose()
      throw error
    }
  }

  /** A file that the store does not know of was left by a step that did not end; nothing is sealed under it. */
  #makeFile(version: number): KeyHandle {
    const file = this.#file(version)
    if (version === 1 && existsSync(file)) return native.KeyHandle.loadFile(file)
    rmSync(file, { force: true })
    const root = native.KeyHandle.createFile(file, 32)
    syncDirectory(this.#directory)
    return root
  }

  #load({ version, proof, sealed }: RootVersion): KeyHandle {
    const root = sealed === undefined ? this.#loadFile(version) : this.#unseal(version, sealed)
    if (proves(root, version, proof)) return root
    root.dispose()
    const where = sealed === undefined ? this.#file(version) : 'the sealed root key'
    throw new VmsealError(
      'VMSEAL_STORE_INVALID',
      `${where} is not the root key of this store; restore the right one`,
    )
  }

  #loadFile(version: number): KeyHandle {
    const file = this.#file(version)
    requireFile(file, 'the keys cannot be opened without it')
    return native.KeyHandle.loadFile(file)
  }

  #unseal(version: number, sealed: string): KeyHandle {
    if (!this.#unlocking) throw wrongPassphrase('the store is opened with a passphrase: give it')
    try {
      return native.openRecord(this.#unlocking, Buffer.from(sealed, 'base64'), rootBinding(version))
    } catch (cause) {
      if (isVmsealError(cause, 'VMSEAL_SEALED_RECORD_INVALID'))
        throw wrongPassphrase('the passphrase of the KMS is wrong', cause)
      throw cause
    }
  }

  /** Files of root keys that have no record any more. */
  #removeOthers(): void {
    const newest = this.records.newest
    if (!this.isMoving)
      for (let version = 1; version < newest; version++) rmSync(this.#file(version), { force: true })
  }

  #known(): RootFact {
    if (!this.#fact) throw new VmsealError('VMSEAL_INTERNAL', 'the root keys are not open')
    return this.#fact
  }

  #file(version: number): string {
    return join(this.#directory, rootKeyFile(version))
  }
}

function rootKeyFile(version: number): string {
  return version === 1 ? 'root.key' : `root-${version}.key`
}

/** True if `proof` was made under this root key. */
export function proves(root: KeyHandle, version: number, proof: string): boolean {
  try {
    native.openRecord(root, Buffer.from(proof, 'base64'), proofBinding(version)).dispose()
    return true
  } catch (error) {
    if (isVmsealError(error, 'VMSEAL_SEALED_RECORD_INVALID')) return false
    throw error
  }
}

function proofOf(root: KeyHandle, version: number): string {
  const key = native.KeyHandle.generate(32)
  try {
    return native.sealRecord(root, key, proofBinding(version)).toString('base64')
  } finally {
    key.dispose()
  }
}

function proofBinding(version: number): Buffer {
  return Buffer.from(JSON.stringify(['vmseal kms root check 1', version]))
}

function rootBinding(version: number): Buffer {
  return Buffer.from(JSON.stringify(['vmseal kms root 1', version]))
}

function wrongPassphrase(message: string, cause?: unknown): VmsealError {
  return new VmsealError('VMSEAL_INVALID_ARGUMENT', message, { cause, details: { subject: 'passphrase' } })
}

function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve)
  })
}
