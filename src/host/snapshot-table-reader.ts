/** Reads the lines of the snapshot table and checks them: they are data from the datastore. */
import { VmsealError } from '../errors.js'
import { generationLimit, uuidPattern, type DiskEntry, type HomeFile } from './home-description.js'
import {
  foreignPlace,
  snapshotLimit,
  type ChainLink,
  type CloneRecord,
  type SnapshotRecord,
  type SnapshotTable,
} from './snapshot-table.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import type { VmxDocument } from './vmx.js'

const linkLimit = 4000
const cloneLimit = 1000

/** Anything that a VM of ours cannot have: VMSEAL_VMX_INVALID. */
export function readSnapshotTable(document: VmxDocument, files: VirtualMachineFiles): SnapshotTable {
  const read = new TableReader(document, files)
  const current = document.get('vmseal.currentSnapshot')
  const table = {
    links: read.links(),
    snapshots: read.snapshots(),
    clones: read.clones(),
    ...(current !== undefined && { current }),
  }
  read.check(table)
  return table
}

class TableReader {
  readonly #document: VmxDocument
  readonly #files: VirtualMachineFiles

  constructor(document: VmxDocument, files: VirtualMachineFiles) {
    this.#document = document
    this.#files = files
  }

  links(): ChainLink[] {
    return this.#records('link', 'file', linkLimit).map((prefix) => {
      const parent = this.#document.get(`${prefix}.parent`)
      const generation = this.#document.get(`${prefix}.gen`)
      return {
        file: this.#linkFile(this.#text(`${prefix}.file`)),
        vmId: this.#uuid(this.#text(`${prefix}.vm`)),
        diskId: this.#uuid(this.#text(`${prefix}.disk`)),
        ...(generation !== undefined && { generation: this.#generation(generation) }),
        ...(parent !== undefined && { parent: this.#linkFile(parent) }),
      }
    })
  }

  snapshots(): SnapshotRecord[] {
    return this.#records('snapshot', 'id', snapshotLimit).map((prefix) => {
      const parent = this.#document.get(`${prefix}.parent`)
      return {
        id: this.#uuid(this.#text(`${prefix}.id`)),
        name: this.#text(`${prefix}.name`),
        description: this.#document.get(`${prefix}.description`) ?? '',
        createdAt: this.#text(`${prefix}.createdAt`),
        ...(parent !== undefined && { parent: this.#uuid(parent) }),
        memory: this.#text(`${prefix}.memory`) === 'TRUE',
        generation: this.#generation(this.#text(`${prefix}.gen`)),
        disks: this.#list(`${prefix}.disks`).map((text) => this.#diskEntry(text)),
        homeFiles: this.#list(`${prefix}.files`).map((text) => this.#homeFile(text)),
        config: this.#document.get(`${prefix}.config`) ?? '',
      }
    })
  }

  clones(): CloneRecord[] {
    return this.#records('clone', 'vm', cloneLimit).map((prefix) => ({
      vmId: this.#uuid(this.#text(`${prefix}.vm`)),
      name: this.#folder(this.#text(`${prefix}.name`)),
      links: this.#list(`${prefix}.links`).map((file) => this.#linkFile(file)),
    }))
  }

  /** The references between the records. */
  check({ links, snapshots, current }: SnapshotTable): void {
    const byFile = new Map(links.map((link) => [link.file, link]))
    const byId = new Map(snapshots.map((snapshot) => [snapshot.id, snapshot]))
    if (byFile.size < links.length || byId.size < snapshots.length)
      throw this.#invalid('two of its snapshots or links have the same name')
    const walk = <Item>(start: Item, above: (item: Item) => Item | undefined, limit: number): void => {
      let item: Item | undefined = start
      for (let steps = 0; item !== undefined; item = above(item), steps += 1)
        if (steps > limit) throw this.#invalid('its snapshots or links go round in a circle')
    }
    const known = <Item>(map: ReadonlyMap<string, Item>, name: string | undefined): Item | undefined => {
      if (name === undefined) return undefined
      const found = map.get(name)
      if (found === undefined) throw this.#invalid(`it names ${name}, which it does not describe`)
      return found
    }
    for (const link of links) walk(link, ({ parent }) => known(byFile, parent), links.length)
    for (const snapshot of snapshots) walk(snapshot, ({ parent }) => known(byId, parent), snapshots.length)
    known(byId, current)
  }

  /** The prefixes of the records of a kind, which each have `first`. */
  #records(kind: string, first: string, limit: number): string[] {
    const prefixes: string[] = []
    for (let index = 0; ; index += 1) {
      const prefix = `vmseal.${kind}${index}`
      if (this.#document.get(`${prefix}.${first}`) === undefined) return prefixes
      if (index === limit) throw this.#invalid(`it has more than ${limit} records of ${kind}`)
      prefixes.push(prefix)
    }
  }

  #text(key: string): string {
    const value = this.#document.get(key)
    if (value === undefined || value === '') throw this.#invalid(`it has no ${key}`)
    return value
  }

  #list(key: string): string[] {
    const text = this.#document.get(key) ?? ''
    return text === '' ? [] : text.split(',')
  }

  #uuid(value: string): string {
    if (!uuidPattern.test(value)) throw this.#invalid(`${value} is no UUID`)
    return value
  }

  #generation(value: string): number {
    if (!/^[1-9]\d{0,9}$/.test(value) || Number(value) > generationLimit)
      throw this.#invalid(`${value} is no generation`)
    return Number(value)
  }

  #linkFile(file: string): string {
    const foreign = foreignPlace(file)
    const sound = foreign
      ? this.#files.neighbour(this.#folder(foreign.folder)).isDescriptor(foreign.name)
      : this.#files.isDescriptor(file)
    if (!sound) throw this.#invalid(`${file} is no disk of this VM or a neighbour`)
    return file
  }

  #folder(name: string): string {
    if (!/^[A-Za-z0-9][A-Za-z0-9 ._-]{0,79}$/.test(name)) throw this.#invalid(`${name} is no folder of a VM`)
    return name
  }

  #diskEntry(text: string): DiskEntry {
    const [device = '', file = '', diskId = '', generation = ''] = text.split('/')
    if (!/^scsi[0-3]:(?:\d|1[0-5])$/.test(device) || !this.#files.isDescriptor(file))
      throw this.#invalid(`${text} is no disk of a snapshot`)
    const entry = { device, file, diskId: this.#uuid(diskId) }
    return generation === '' ? entry : { ...entry, sealedGeneration: this.#generation(generation) }
  }

  #homeFile(text: string): HomeFile {
    const [role = '', file = ''] = text.split('/')
    if (this.#files.kindOf(file) !== 'home' || !file.endsWith(`.${role.split(' ')[0] ?? ''}`))
      throw this.#invalid(`${text} is no file of a snapshot`)
    return { role, file }
  }

  #invalid(reason: string): VmsealError {
    const subject = this.#files.label(this.#files.vmx)
    return new VmsealError('VMSEAL_VMX_INVALID', `${subject} cannot be used: ${reason}`, {
      details: { subject },
    })
  }
}
