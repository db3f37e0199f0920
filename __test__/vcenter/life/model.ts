/** What ought to be true of the VMs of a site, after whatever was done to them. Knows nothing of vmseal's code. */
import { createHash } from 'node:crypto'

export const encryption = 'VM Encryption Policy'
export const gold = 'gold'
export const plain = 'Datastore Default'

/** A KEK that was asked for; its id is learned when it is first seen. */
export interface Key {
  readonly label: number
  readonly provider: string
}

export interface Disk {
  readonly id: string
  policy: string
  key: Key | undefined
}

/** One file of every disk of a VM: its disks are chains of the same form, because they come and go only while there are none. */
export interface Link {
  readonly owner: string
  parent: Link | undefined
}

export interface Snapshot {
  readonly name: string
  parent: Snapshot | undefined
  link: Link
  readonly contents: ReadonlyMap<string, Buffer>
}

export interface Vm {
  readonly name: string
  host: string
  on: boolean
  registered: boolean
  readonly home: { policy: string; key: Key | undefined }
  disks: Disk[]
  /** As a guest reads them, by disk id. */
  contents: Map<string, Buffer>
  snapshots: Snapshot[]
  current: Snapshot | undefined
  head: Link
  links: Set<Link>
  /** Of a linked clone: the file of its source that it reads. */
  readonly reads: Link | undefined
}

/** A disk file that is in no VM. */
export interface LooseDisk {
  /** On the datastore. */
  readonly file: string
  readonly owner: string
  readonly id: string
  readonly key: Key | undefined
  readonly content: Buffer
}

export interface Model {
  readonly vms: Map<string, Vm>
  loose: LooseDisk[]
  /** The provider of each host's host key. */
  readonly hostKeys: Map<string, string>
  made: number
}

export type Shape = 'none' | 'single' | 'tree' | 'linkedClone' | 'linkedCloneParent'

export const encrypts = (policy: string): boolean => policy !== plain

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

export function newModel(hosts: readonly string[]): Model {
  return {
    vms: new Map(),
    loose: [],
    hostKeys: new Map(hosts.map((name) => [name, 'kms-1'])),
    made: 0,
  }
}

export function newKey(model: Model, provider: string): Key {
  return { label: (model.made += 1), provider }
}

export function newVm(name: string, host: string, home: Vm['home'], reads?: Link): Vm {
  const head: Link = { owner: name, parent: reads }
  const chains = { snapshots: [], current: undefined, head, links: new Set([head]), reads }
  return { name, host, on: false, registered: true, home, disks: [], contents: new Map(), ...chains }
}

/** Every KEK that a VM needs. */
export function keysOf(vm: Vm): Key[] {
  const keys = [vm.home.key, ...vm.disks.map(({ key }) => key)].filter((key) => key !== undefined)
  return [...new Set(keys)]
}

export function clonesOf(model: Model, vm: Vm): Vm[] {
  return [...model.vms.values()].filter(({ reads }) => reads?.owner === vm.name)
}

export function shapeOf(model: Model, vm: Vm): Shape {
  if (vm.reads) return 'linkedClone'
  if (clonesOf(model, vm).length > 0) return 'linkedCloneParent'
  const reached = new Set(chain(vm.head))
  const links = [...vm.links]
  if (links.some((link) => childrenOf(vm, link).length > 1 || !reached.has(link))) return 'tree'
  return vm.snapshots.length > 0 || links.length > 1 ? 'single' : 'none'
}

export function takeSnapshot(vm: Vm, name: string): void {
  const contents = new Map([...vm.contents].map(([id, bytes]) => [id, Buffer.from(bytes)]))
  const snapshot = { name, parent: vm.current, link: vm.head, contents }
  vm.snapshots.push(snapshot)
  vm.current = snapshot
  vm.head = grow(vm, vm.head)
}

export function revert(model: Model, vm: Vm, snapshot: Snapshot): void {
  vm.head = grow(vm, snapshot.link)
  vm.contents = new Map([...snapshot.contents].map(([id, bytes]) => [id, Buffer.from(bytes)]))
  vm.current = snapshot
  vm.on = false
  drop(model, vm)
}

export function removeSnapshot(model: Model, vm: Vm, snapshot: Snapshot, children: boolean): void {
  const gone = new Set([snapshot])
  if (children) for (const one of vm.snapshots) if (one.parent && gone.has(one.parent)) gone.add(one)
  const adopted = (one: Snapshot | undefined) => (one && gone.has(one) ? snapshot.parent : one)
  vm.snapshots = vm.snapshots.filter((one) => !gone.has(one))
  for (const one of vm.snapshots) one.parent = adopted(one.parent)
  vm.current = adopted(vm.current)
  consolidate(model, vm)
}

/** What no snapshot and no clone needs apart becomes one file. */
export function consolidate(model: Model, vm: Vm): void {
  for (;;) {
    while (drop(model, vm));
    const { idle, held } = idleLinks(model, vm)
    const lower = idle.find((link) => {
      const [upper, ...others] = childrenOf(vm, link)
      return upper && others.length === 0 && !held.has(upper)
    })
    const upper = lower && childrenOf(vm, lower)[0]
    if (!lower || !upper) return
    vm.links.delete(upper)
    for (const child of childrenOf(vm, upper)) child.parent = lower
    for (const snapshot of vm.snapshots) if (snapshot.link === upper) snapshot.link = lower
    if (vm.head === upper) vm.head = lower
  }
}

/** Files that nothing reads any more go. */
function drop(model: Model, vm: Vm): boolean {
  const leaves = idleLinks(model, vm).idle.filter((link) => link.parent && childrenOf(vm, link).length === 0)
  for (const link of leaves) vm.links.delete(link)
  return leaves.length > 0
}

function idleLinks(model: Model, vm: Vm): { idle: Link[]; held: Set<Link> } {
  const held = new Set(clonesOf(model, vm).flatMap(({ reads }) => chain(reads)))
  const wanted = new Set([vm.head, ...vm.snapshots.map(({ link }) => link)])
  return { held, idle: [...vm.links].filter((link) => !wanted.has(link) && !held.has(link)) }
}

function grow(vm: Vm, parent: Link): Link {
  const link = { owner: vm.name, parent }
  vm.links.add(link)
  return link
}

function chain(link: Link | undefined): Link[] {
  return link ? [link, ...chain(link.parent)] : []
}

function childrenOf(vm: Vm, link: Link): Link[] {
  return [...vm.links].filter(({ parent }) => parent === link)
}
