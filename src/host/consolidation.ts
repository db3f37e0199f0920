/** Which files of a VM's disks nothing needs apart any more. Pure: what to do with the table, not with the files. */
import type { DiskEntry } from './home-description.js'
import { foreignPlace, type ChainLink, type SnapshotTable } from './snapshot-table.js'

/** The one next thing; each leaves every state of the VM and of its snapshots as it is. */
export type Consolidation =
  /** Nothing reads these children. */
  | { readonly kind: 'drop'; readonly files: readonly string[] }
  /** What `upper` holds goes into `lower`, which only `upper` reads. */
  | { readonly kind: 'merge'; readonly lower: ChainLink; readonly upper: ChainLink }

/** Undefined: there is nothing to do. */
export function nextConsolidation(
  table: SnapshotTable,
  disks: readonly DiskEntry[],
): Consolidation | undefined {
  const wanted = wantedFiles(table, disks)
  const held = heldFiles(table)
  const childrenOf = (file: string): ChainLink[] => table.links.filter(({ parent }) => parent === file)
  const isOurs = ({ file }: ChainLink): boolean => foreignPlace(file) === undefined && !held.has(file)
  const idle = table.links.filter((link) => isOurs(link) && !wanted.has(link.file))
  const leaves = idle.filter(({ file, parent }) => parent !== undefined && childrenOf(file).length === 0)
  if (leaves.length > 0) return { kind: 'drop', files: leaves.map(({ file }) => file) }
  for (const lower of idle) {
    const [upper, ...others] = childrenOf(lower.file)
    if (upper !== undefined && others.length === 0 && isOurs(upper)) return { kind: 'merge', lower, upper }
  }
  return undefined
}

/** The table without what `done` made superfluous. */
export function afterConsolidation(table: SnapshotTable, done: Consolidation): SnapshotTable {
  if (done.kind === 'drop')
    return tidied({ ...table, links: table.links.filter(({ file }) => !done.files.includes(file)) })
  const { lower, upper } = done
  const links = table.links
    .filter(({ file }) => file !== upper.file)
    .map((link) => (link.parent === upper.file ? { ...link, parent: lower.file } : link))
  const snapshots = table.snapshots.map((snapshot) => ({
    ...snapshot,
    disks: movedDisks(snapshot.disks, done),
  }))
  return tidied({ ...table, links, snapshots })
}

/** Disks that were `upper` are `lower` now. */
export function movedDisks(disks: readonly DiskEntry[], done: Consolidation): DiskEntry[] {
  if (done.kind === 'drop') return [...disks]
  const { lower, upper } = done
  return disks.map((disk) => {
    if (disk.file !== upper.file) return disk
    const { device, diskId } = disk
    const generation = lower.generation
    return {
      device,
      diskId,
      file: lower.file,
      ...(generation !== undefined && { sealedGeneration: generation }),
    }
  })
}

/** Files that a snapshot or the present state names. */
function wantedFiles(table: SnapshotTable, disks: readonly DiskEntry[]): Set<string> {
  const entries = [...disks, ...table.snapshots.flatMap((snapshot) => snapshot.disks)]
  return new Set(entries.map(({ file }) => file))
}

/** Links that linked clones read, and everything below them. */
function heldFiles(table: SnapshotTable): Set<string> {
  const held = new Set<string>()
  for (const start of table.clones.flatMap(({ links }) => links))
    for (let file: string | undefined = start; file !== undefined && !held.has(file);) {
      held.add(file)
      file = table.links.find((link) => link.file === file)?.parent
    }
  return held
}

/** A base alone that no snapshot needs is a disk of one file, which needs no link. */
function tidied(table: SnapshotTable): SnapshotTable {
  const parents = new Set(table.links.map(({ parent }) => parent))
  const named = new Set([
    ...table.snapshots.flatMap(({ disks }) => disks.map(({ file }) => file)),
    ...table.clones.flatMap(({ links }) => links),
  ])
  const links = table.links.filter(
    ({ file, parent }) => parent !== undefined || parents.has(file) || named.has(file),
  )
  return { ...table, links }
}
