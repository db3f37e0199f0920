/**
 * What a .vmx says of snapshots: the files that each disk is made of, what each snapshot keeps, and the linked clones that read
 * files of this VM. It stands in the .vmx because a change of it and of the VM's disks must be one.
 */
import { VmsealError } from '../errors.js'
import {
  generationLimit,
  uuidPattern,
  type DiskEntry,
  type HomeDescription,
  type HomeFile,
} from './home-description.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import type { VmxDocument } from './vmx.js'

/** One file of a disk. A disk whose file has no link is that file alone. */
export interface ChainLink {
  /** Descriptor in the VM's folder, or, of a linked clone, `../db01/db01.vmdk`. */
  readonly file: string
  /** The VM and disk that its DEK is bound to. */
  readonly vmId: string
  readonly diskId: string
  /** Generation of its DEK; absent: plain. */
  readonly generation?: number
  /** The link below; absent: it is a base. */
  readonly parent?: string
}

export interface SnapshotRecord {
  readonly id: string
  readonly name: string
  readonly description: string
  /** ISO 8601, UTC. */
  readonly createdAt: string
  /** The snapshot it was taken after. */
  readonly parent?: string
  /** The guest's memory is among the files. */
  readonly memory: boolean
  /** vmseal.gen of the transaction that took it. */
  readonly generation: number
  readonly disks: readonly DiskEntry[]
  readonly homeFiles: readonly HomeFile[]
  /** The VM's settings: a JWE under the VM home DEK, bound to `generation`, or lines when VM home is plain. */
  readonly config: string
}

/** A linked clone that reads a link of this VM. */
export interface CloneRecord {
  readonly vmId: string
  /** Its folder. */
  readonly name: string
  /** The links that it reads directly. */
  readonly links: readonly string[]
}

export interface SnapshotTable {
  readonly links: readonly ChainLink[]
  readonly snapshots: readonly SnapshotRecord[]
  /** The snapshot that the VM's present state comes after. */
  readonly current?: string
  readonly clones: readonly CloneRecord[]
}

/** As many as vSphere allows in one chain. */
export const snapshotLimit = 32
const linkLimit = 4000
const cloneLimit = 1000

const tableKey = /^vmseal\.(?:link\d+|snapshot\d+|clone\d+)\.|^vmseal\.currentsnapshot$/i
const foreignFile = /^\.\.\/([^/]+)\/([^/]+\.vmdk)$/

/** The folder's name and the descriptor's of a link of another VM; undefined: it is this VM's own. */
export function foreignPlace(file: string): { readonly folder: string; readonly name: string } | undefined {
  const [, folder, name] = foreignFile.exec(file) ?? []
  return folder === undefined || name === undefined ? undefined : { folder, name }
}

/** Reads and checks the lines. Anything that a VM of ours cannot have: VMSEAL_VMX_INVALID. */
export function readSnapshotTable(document: VmxDocument, files: VirtualMachineFiles): SnapshotTable {
  const read = new TableReader(document, files)
  const table = {
    links: read.links(),
    snapshots: read.snapshots(),
    clones: read.clones(),
  }
  const current = document.get('vmseal.currentSnapshot')
  const whole = current === undefined ? table : { ...table, current }
  read.check(whole)
  return whole
}

/** Puts the table into `document`: lines that it no longer has are removed. */
export function writeSnapshotTable(document: VmxDocument, table: SnapshotTable): void {
  const lines = linesOf(table)
  const wanted = new Set([...lines.keys()].map((key) => key.toLowerCase()))
  for (const key of document.keys())
    if (tableKey.test(key) && !wanted.has(key.toLowerCase())) document.delete(key)
  for (const [key, value] of lines) if (document.get(key) !== value) document.set(key, value)
}

/** The links of a disk, base first. */
export function chainOf(table: SnapshotTable, entry: DiskEntry, vmId: string): ChainLink[] {
  const chain: ChainLink[] = []
  for (let file: string | undefined = entry.file; file !== undefined;) {
    const link: ChainLink | undefined = table.links.find((candidate) => candidate.file === file)
    if (link === undefined) break
    chain.unshift(link)
    file = link.parent
  }
  return chain.length > 0 ? chain : [linkOf(entry, vmId)]
}

/** A disk that is one file as a link. */
export function linkOf({ file, diskId, sealedGeneration }: DiskEntry, vmId: string): ChainLink {
  return { file, vmId, diskId, ...(sealedGeneration !== undefined && { generation: sealedGeneration }) }
}

/** The names of every file that the table keeps alive in the VM's own folder. */
export function filesOfTable(table: SnapshotTable, files: VirtualMachineFiles): string[] {
  const own = table.links.filter(({ file }) => foreignPlace(file) === undefined)
  return [
    ...own.flatMap(({ file }) => files.filesOfDisk(file)),
    ...table.snapshots.flatMap(({ disks }) => disks.flatMap(({ file }) => files.filesOfDisk(file))),
    ...table.snapshots.flatMap(({ homeFiles }) => homeFiles.map(({ file }) => file)),
  ]
}

/** How the disks of a VM hang together, which decides what may be done with their keys. */
export type ChainShape = 'none' | 'single' | 'tree' | 'linkedClone' | 'linkedCloneParent'

export function shapeOf(table: SnapshotTable, { disks }: Pick<HomeDescription, 'disks'>): ChainShape {
  if (table.links.some(({ file }) => foreignPlace(file) !== undefined)) return 'linkedClone'
  if (table.clones.length > 0) return 'linkedCloneParent'
  const parents = table.links.map(({ parent }) => parent).filter((parent) => parent !== undefined)
  if (new Set(parents).size < parents.length) return 'tree'
  const reached = new Set(disks.flatMap((disk) => chainOf(table, disk, '').map(({ file }) => file)))
  const kept = [...table.links, ...table.snapshots.flatMap((snapshot) => snapshot.disks)]
  if (kept.some(({ file }) => !reached.has(file))) return 'tree'
  return table.snapshots.length > 0 || table.links.some(({ parent }) => parent !== undefined)
    ? 'single'
    : 'none'
}

function linesOf(table: SnapshotTable): Map<string, string> {
  const lines = new Map<string, string>()
  const set = (prefix: string, values: Readonly<Record<string, string | number | undefined>>): void => {
    for (const [name, value] of Object.entries(values))
      if (value !== undefined) lines.set(`${prefix}.${name}`, String(value))
  }
  for (const [index, { file, vmId, diskId, generation, parent }] of table.links.entries())
    set(`vmseal.link${index}`, { file, vm: vmId, disk: diskId, gen: generation, parent })
  for (const [index, snapshot] of table.snapshots.entries())
    set(`vmseal.snapshot${index}`, {
      id: snapshot.id,
      name: snapshot.name,
      description: snapshot.description,
      createdAt: snapshot.createdAt,
      parent: snapshot.parent,
      memory: snapshot.memory ? 'TRUE' : 'FALSE',
      gen: snapshot.generation,
      disks: snapshot.disks
        .map(({ device, file, diskId, sealedGeneration = '' }) =>
          [device, file, diskId, sealedGeneration].join('/'),
        )
        .join(','),
      files: snapshot.homeFiles.map(({ role, file }) => `${role}/${file}`).join(','),
      config: snapshot.config,
    })
  for (const [index, { vmId, name, links }] of table.clones.entries())
    set(`vmseal.clone${index}`, { vm: vmId, name, links: links.join(',') })
  if (table.current !== undefined) lines.set('vmseal.currentSnapshot', table.current)
  return lines
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
