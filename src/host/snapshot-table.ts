/**
 * What a .vmx says of snapshots: the files that each disk is made of, what each snapshot keeps, and the linked clones that read
 * files of this VM. It stands in the .vmx because a change of it and of the VM's disks must be one.
 */
import type { DiskEntry, HomeDescription, HomeFile } from './home-description.js'
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

const tableKey = /^vmseal\.(?:link\d+|snapshot\d+|clone\d+)\.|^vmseal\.currentsnapshot$/i
const foreignFile = /^\.\.\/([^/]+)\/([^/]+\.vmdk)$/

/** The folder's name and the descriptor's of a link of another VM; undefined: it is this VM's own. */
export function foreignPlace(file: string): { readonly folder: string; readonly name: string } | undefined {
  const [, folder, name] = foreignFile.exec(file) ?? []
  return folder === undefined || name === undefined ? undefined : { folder, name }
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

/**
 * The names of every file in the VM's own folder that its disks are made of, or that its snapshots keep alive; `there` as
 * `filesOfDisk` takes it.
 */
export function filesOfDisksAndSnapshots(
  disks: readonly Pick<DiskEntry, 'file'>[],
  table: SnapshotTable,
  files: VirtualMachineFiles,
  there: readonly string[] = [],
): string[] {
  const own = table.links.filter(({ file }) => foreignPlace(file) === undefined)
  const kept = table.snapshots.flatMap((snapshot) => snapshot.disks)
  return [
    ...[...disks, ...own, ...kept].flatMap(({ file }) => files.filesOfDisk(file, there)),
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
