/**
 * A datastore: a directory with one folder per VM. Everything outside the directory is out of
 * reach: names have no separators, and symbolic links are refused.
 */
import { lstat, readdir, realpath, statfs } from 'node:fs/promises'
import { VmsealError } from '../errors.js'
import type { VmReference } from '../rpc/host-api.js'
import { errnoOf, ioError } from './io-error.js'
import { VirtualMachineFiles } from './virtual-machine-files.js'

/** The name of a VM, and so of its folder and files: no separator, nothing hidden, portable. */
const namePattern = /^[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,78}[A-Za-z0-9_-])?$/
const datastoreNamePattern = /^[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,61}[A-Za-z0-9_-])?$/

/** Refuses what is no VM name. */
export function checkVirtualMachineName(name: unknown): string {
  if (typeof name === 'string' && namePattern.test(name)) return name
  throw new VmsealError(
    'VMSEAL_INVALID_ARGUMENT',
    `${JSON.stringify(name)} is no VM name: use 1 to 80 of A-Z a-z 0-9 space . _ -, with a letter or digit first`,
  )
}

export class Datastore {
  readonly name: string
  readonly directory: string

  private constructor(name: string, directory: string) {
    this.name = name
    this.directory = directory
  }

  static async open(name: string, directory: string): Promise<Datastore> {
    if (!datastoreNamePattern.test(name))
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        `${JSON.stringify(name)} is no datastore name: use 1 to 63 of A-Z a-z 0-9 space . _ -`,
      )
    if (typeof directory !== 'string' || directory === '' || directory.includes('\0'))
      throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `the directory of datastore ${name} is no path`)
    try {
      const real = await realpath(directory)
      if (!(await lstat(real)).isDirectory())
        throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `datastore ${name}: ${directory} is no directory`)
      return new Datastore(name, real)
    } catch (error) {
      throw ioError(error, `datastore ${name}: ${directory}`)
    }
  }

  /** The files of the VM that `reference` names. Its form is checked; nothing is read. */
  files(reference: VmReference): VirtualMachineFiles {
    const match = /^([^/]+)\/([^/]+)\.vmx$/.exec(reference.vmx)
    if (match === null || match[1] !== match[2])
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        `${JSON.stringify(reference.vmx)} is no VM: pass its folder and the .vmx of the same name, as in db01/db01.vmx`,
      )
    return this.filesOf(match[1], reference.knownGenerations)
  }

  /** The files of the VM of this name, there or not. */
  filesOf(name: unknown, knownGenerations?: VmReference['knownGenerations']): VirtualMachineFiles {
    return new VirtualMachineFiles(this.name, this.directory, checkVirtualMachineName(name), knownGenerations)
  }

  /** Every VM of the datastore, by name: a folder that holds a .vmx file of the folder's name. */
  async find(): Promise<VmReference[]> {
    const found: VmReference[] = []
    try {
      for (const folder of await readdir(this.directory, { withFileTypes: true })) {
        if (!folder.isDirectory() || !namePattern.test(folder.name)) continue
        const files = this.filesOf(folder.name)
        if (await isFile(files.path(files.vmx))) found.push(files.reference)
      }
    } catch (error) {
      throw ioError(error, `datastore ${this.name}`)
    }
    return found.toSorted((a, b) => (a.vmx < b.vmx ? -1 : 1))
  }

  async freeBytes(): Promise<number> {
    try {
      const { bavail, bsize } = await statfs(this.directory)
      return bavail * bsize
    } catch (error) {
      throw ioError(error, `datastore ${this.name}`)
    }
  }
}

/** False also for a folder that went away or is closed to us. */
async function isFile(path: string): Promise<boolean> {
  try {
    return (await lstat(path)).isFile()
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'EACCES', 'EPERM'].includes(errnoOf(error) ?? '')) return false
    throw error
  }
}
