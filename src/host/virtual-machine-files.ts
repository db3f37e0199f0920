/**
 * The folder of one VM: which names belong to the VM, which are free for new files, and access that
 * stays inside the folder.
 */
import { lstat, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { VmsealError, isVmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { VmReference } from '../rpc/host-api.js'
import { isTemporaryOf, readSmallFile, removeFile } from './durable-file.js'
import { errnoOf, ioError, named } from './io-error.js'
import { VmxDocument, vmxByteLimit } from './vmx.js'

/**
 * `disk`: descriptor, extents, second copy, and what work on the disk leaves beside them: the journal of a conversion in place
 * (`.vmseal-job`), the record of an unfinished copy (`.vmseal-copy`), the lock of whoever works on it (`.lck`). They go with
 * their disk; by themselves only who made them takes them away.
 */
type FileKind = 'disk' | 'home' | 'record' | 'temporary'

export class VirtualMachineFiles {
  readonly datastore: string
  /** Absolute path of the VM's folder. */
  readonly directory: string
  /** The name of the folder and the first part of every file's name. */
  readonly base: string
  /** See `VmReference.knownGenerations`. */
  readonly knownGenerations: Readonly<Record<string, number>>
  readonly #datastoreDirectory: string
  readonly #descriptorPattern: RegExp
  readonly #childPattern: RegExp
  readonly #diskPattern: RegExp
  readonly #homePattern: RegExp

  /** `name` is a VM name that was checked: it is the folder's name and the first part of the files' names. */
  constructor(
    datastore: string,
    datastoreDirectory: string,
    name: string,
    knownGenerations: Readonly<Record<string, number>> = {},
  ) {
    this.knownGenerations = knownGenerations
    this.datastore = datastore
    this.#datastoreDirectory = datastoreDirectory
    this.directory = join(datastoreDirectory, name)
    this.base = name
    const escaped = name.replaceAll('.', '\\.')
    this.#descriptorPattern = new RegExp(`^${escaped}(_\\d{1,6})?(-\\d{6})?\\.vmdk$`)
    this.#childPattern = new RegExp(`^${escaped}(_\\d{1,6})?-\\d{6}\\.vmdk$`)
    this.#diskPattern = new RegExp(
      `^${escaped}(_\\d{1,6})?(-\\d{6})?((-flat|-delta|-[fs]\\d{3})?\\.vmdk(\\.vmseal)?|\\.vmdk\\.(vmseal-job|vmseal-copy|lck))$`,
    )
    this.#homePattern = new RegExp(`^${escaped}([A-Za-z0-9 ._-]{0,120})\\.(nvram|vswp|vmsn|vmss|vmem|core)$`)
  }

  get vmx(): string {
    return `${this.base}.vmx`
  }
  get vmsd(): string {
    return `${this.base}.vmsd`
  }
  get manifest(): string {
    return `${this.base}.vmseal-task`
  }
  get lock(): string {
    return `${this.base}.vmx.lck`
  }
  get log(): string {
    return 'vmware.log'
  }

  get reference(): VmReference {
    return { datastore: this.datastore, vmx: `${this.base}/${this.vmx}` }
  }

  path(name: string): string {
    return join(this.directory, name)
  }

  /** A file as vSphere writes it: `[ds1] db01/db01.vmdk`. */
  label(name: string): string {
    return `[${this.datastore}] ${this.base}/${name}`
  }

  /** What a name in the folder is to this VM; undefined: it belongs to somebody else. */
  kindOf(name: string): FileKind | undefined {
    if (this.#diskPattern.test(name)) return 'disk'
    if (this.#homePattern.test(name)) return 'home'
    if (isTemporaryOf(this.base, name)) return 'temporary'
    const records = [this.vmx, this.vmsd, this.manifest, this.lock, this.log]
    return records.includes(name) ? 'record' : undefined
  }

  /** True for the descriptor names that a disk of this VM can have. */
  isDescriptor(name: string): boolean {
    return this.#descriptorPattern.test(name)
  }

  /** True for the extent names that belong to a descriptor, and so to no other disk. */
  isExtentOf(descriptor: string, name: string): boolean {
    const stem = descriptor.slice(0, -'.vmdk'.length)
    return name.startsWith(stem) && /^-(flat|delta|[fs]\d{3})\.vmdk$/.test(name.slice(stem.length))
  }

  /** A VM home file's part in the VM, which stays when the file gets another name: `nvram`, `vmsn -Snapshot1`. */
  roleOf(name: string): string | undefined {
    const match = this.#homePattern.exec(name)
    if (match === null) return undefined
    return match[1] === '' ? match[2] : `${match[2]} ${match[1]}`
  }

  /** True for the descriptor of a child: what was written to a disk since a snapshot. */
  isChild(name: string): boolean {
    return this.#childPattern.test(name)
  }

  /**
   * The files that come with a descriptor name, whether they are there or not: see `FileKind`. Of `there` also extents that
   * only a disk of several has, known by their names.
   */
  filesOfDisk(descriptor: string, there: readonly string[] = []): string[] {
    const stem = descriptor.slice(0, -'.vmdk'.length)
    const beside = ['vmseal', 'vmseal-job', 'vmseal-copy', 'lck'].map((end) => `${descriptor}.${end}`)
    const usual = [descriptor, `${stem}-${this.isChild(descriptor) ? 'delta' : 'flat'}.vmdk`, ...beside]
    return [...usual, ...there.filter((name) => this.isExtentOf(descriptor, name) && !usual.includes(name))]
  }

  /** The folder of another VM on the same datastore. `name` was checked. */
  neighbour(name: string): VirtualMachineFiles {
    return new VirtualMachineFiles(this.datastore, this.#datastoreDirectory, name)
  }

  /** The names in the folder; none if there is no folder. */
  async list(): Promise<string[]> {
    try {
      if (!(await lstat(this.directory)).isDirectory())
        throw new VmsealError('VMSEAL_IO', `${this.label('')} is no folder`, {
          details: { subject: this.label('') },
        })
      return await readdir(this.directory)
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return []
      throw ioError(error, this.label(''))
    }
  }

  /** Refuses a folder that is missing, a link or no folder. */
  async requireFolder(): Promise<void> {
    try {
      if (!(await lstat(this.directory)).isDirectory())
        throw new VmsealError('VMSEAL_IO', `${this.label('')} is a link or no folder`)
    } catch (error) {
      throw ioError(error, this.label(this.vmx))
    }
  }

  /** Undefined if there is no .vmx file. */
  async readVmx(): Promise<VmxDocument | undefined> {
    if ((await this.list()).length === 0) return undefined
    return this.#readDocument(this.vmx)
  }

  /**
   * The snapshots that the .vmsd counts, none if there is no .vmsd or vmseal wrote it, which keeps them in the .vmx; `unknown`:
   * it cannot be read.
   */
  async snapshotCount(): Promise<number | 'unknown'> {
    try {
      const document = await this.#readDocument(this.vmsd)
      if (document?.get('vmseal.gen') !== undefined) return 0
      const text = document?.get('snapshot.numSnapshots') ?? '0'
      return /^\d{1,6}$/.test(text) ? Number(text) : 'unknown'
    } catch (error) {
      if (error instanceof VmsealError) return 'unknown'
      throw error
    }
  }

  /** Undefined if there is no such file. */
  async #readDocument(name: string): Promise<VmxDocument | undefined> {
    try {
      const bytes = await readSmallFile(this.path(name), vmxByteLimit, this.label(name), 'VMSEAL_VMX_INVALID')
      return VmxDocument.parse(bytes, this.label(name))
    } catch (error) {
      if (error instanceof VmsealError && error.code === 'VMSEAL_NOT_FOUND') return undefined
      throw error
    }
  }

  /** Bytes that a file takes on the datastore. Refuses links and everything that is no file. */
  async allocatedBytes(name: string): Promise<number> {
    const status = await this.#regular(name)
    return status.blocks * 512
  }

  async byteLength(name: string): Promise<number> {
    return (await this.#regular(name)).size
  }

  /** Removes files of this VM; missing ones are fine, a name of somebody else is a bug. */
  async remove(names: Iterable<string>): Promise<void> {
    for (const name of names) {
      if (this.kindOf(name) === undefined || name.includes('/'))
        throw new VmsealError('VMSEAL_INTERNAL', `${name} is no file of ${this.label(this.vmx)}`)
      await removeFile(this.path(name))
    }
  }

  /** Writes zeros over a file of this VM, unless it is gone already or has a second name, whose owner would lose it. */
  async overwrite(name: string): Promise<void> {
    try {
      if ((await this.#regular(name)).nlink === 1) await native.overwriteFile(this.path(name))
    } catch (error) {
      if (!isVmsealError(error, 'VMSEAL_NOT_FOUND') && !isVmsealError(error, 'VMSEAL_EXTENT_INVALID'))
        throw named(this.label(name), error)
    }
  }

  /** Names that lead to a file. */
  async linkCount(name: string): Promise<number> {
    return (await this.#regular(name)).nlink
  }

  async #regular(name: string) {
    try {
      const status = await lstat(this.path(name))
      if (!status.isFile())
        throw new VmsealError('VMSEAL_IO', `${this.label(name)} is a link or no regular file`, {
          details: { subject: this.label(name) },
        })
      return status
    } catch (error) {
      throw ioError(error, this.label(name))
    }
  }
}

/** Names that no file of the folder has, so that new files never meet old ones. */
export class FreeNames {
  readonly #files: VirtualMachineFiles
  readonly #taken: Set<string>

  constructor(files: VirtualMachineFiles, existing: Iterable<string>) {
    this.#files = files
    this.#taken = new Set(existing)
  }

  /** A descriptor name whose extent and second copy are free too: `db01.vmdk`, `db01_1.vmdk`, ... */
  disk(): string {
    for (let n = 0; ; n += 1) {
      const names = this.#files.filesOfDisk(`${this.#files.base}${n === 0 ? '' : `_${n}`}.vmdk`)
      if (names.some((name) => this.#taken.has(name))) continue
      for (const name of names) this.#taken.add(name)
      return names[0] as string
    }
  }

  /** A descriptor name for a child of a disk: `db01-000001.vmdk`, `db01-000002.vmdk`, ... */
  child(descriptor: string): string {
    const root = descriptor.slice(this.#files.base.length, -'.vmdk'.length).replace(/-\d{6}$/, '')
    for (let n = 1; n < 1_000_000; n += 1) {
      const number = String(n).padStart(6, '0')
      const names = this.#files.filesOfDisk(`${this.#files.base}${root}-${number}.vmdk`)
      if (names.some((name) => this.#taken.has(name))) continue
      for (const name of names) this.#taken.add(name)
      return names[0] as string
    }
    throw new VmsealError('VMSEAL_INVALID_STATE', `${this.#files.label(descriptor)} has too many children`)
  }

  /** A name for the home file of this role: `db01.nvram`, `db01_1.nvram`, ... */
  home(role: string): string {
    const [extension = '', rest = ''] = role.split(/ (.*)/s)
    for (let n = 0; ; n += 1) {
      const name = `${this.#files.base}${rest}${n === 0 ? '' : `_${n}`}.${extension}`
      if (this.#taken.has(name)) continue
      if (this.#files.kindOf(name) !== 'home')
        throw new VmsealError('VMSEAL_INVALID_STATE', `${this.#files.label(name)} would be too long a name`)
      this.#taken.add(name)
      return name
    }
  }
}
