/** Whether a site is as the model says: inventory, files, keys at the hosts and at the KMS, and what a guest reads. */
import { deepStrictEqual, ok, strictEqual } from 'node:assert'
import { readFile, readdir } from 'node:fs/promises'
import path from 'node:path'
import type { VirtualMachine, VirtualMachineInfo } from '../../../src/index.js'
import { marker, type Site } from '../site.js'
import { keysOf, plain, sha256, shapeOf, type Key, type Model, type Vm } from './model.js'
import { homeSecret } from './perform.js'
import { providers } from './steps.js'

/** Ids of keys as they are learned: one id for each key, and one key for each id. */
export class KeyNames {
  readonly #ids = new Map<number, string>()
  readonly #labels = new Map<string, number>()

  learn({ label }: Key, id: string): void {
    if (this.#ids.has(label)) strictEqual(id, this.#ids.get(label), `key ${label} is another one`)
    else if (this.#labels.has(id)) throw new Error(`${id} is key ${this.#labels.get(id)} and key ${label}`)
    this.#ids.set(label, id)
    this.#labels.set(id, label)
  }

  idOf({ label }: Key): string {
    const id = this.#ids.get(label)
    if (id === undefined) throw new Error(`nothing has shown the id of key ${label}`)
    return id
  }

  entries(): IterableIterator<[string, number]> {
    return this.#labels.entries()
  }
}

export async function agree(site: Site, model: Model, names: KeyNames): Promise<void> {
  const registered = [...model.vms.values()].filter((vm) => vm.registered)
  const list = await site.vcenter.virtualMachines.list()
  deepStrictEqual(
    list.map(({ name }) => name),
    registered.map(({ name }) => name).toSorted(),
  )
  for (const vm of registered) {
    const real = list.find(({ name }) => name === vm.name) as VirtualMachine
    const info = await real.info()
    agreeOnState(vm, info, names)
    await agreeOnData(vm, real, info)
    await agreeOnHost(site, model, vm, info)
  }
  for (const vm of model.vms.values()) await agreeOnFiles(site, model, vm)
  await agreeOnKeys(site, model, names)
}

function agreeOnState(vm: Vm, info: VirtualMachineInfo, names: KeyNames): void {
  const parts = [
    { part: vm.home, seen: { policy: info.policy, key: info.homeKey } },
    ...vm.disks.map((part) => ({ part, seen: info.disks.find(({ diskId }) => diskId === part.id) })),
  ]
  strictEqual(info.disks.length, vm.disks.length, 'disks')
  for (const { part, seen } of parts) {
    ok(seen, `a disk of ${vm.name} is missing`)
    strictEqual(seen.policy, part.policy, `policy of ${vm.name}`)
    strictEqual(seen.key?.providerId, part.key?.provider, `provider of a key of ${vm.name}`)
    if (part.key) names.learn(part.key, seen.key?.keyId ?? '')
  }
  const { cryptoState, connectionState, powerState, host, missingKeys, formerKeys } = info
  deepStrictEqual(
    { cryptoState, connectionState, powerState, host, missingKeys, formerKeys },
    {
      cryptoState: 'unlocked',
      connectionState: 'connected',
      powerState: vm.on ? 'poweredOn' : 'poweredOff',
      host: vm.host,
      missingKeys: [],
      formerKeys: undefined,
    },
    `state of ${vm.name}`,
  )
}

async function agreeOnData(vm: Vm, real: VirtualMachine, info: VirtualMachineInfo): Promise<void> {
  for (const { diskId } of info.disks) {
    const { sha256: digest } = await real.digest(diskId)
    strictEqual(digest, sha256(vm.contents.get(diskId) ?? Buffer.alloc(0)), `data of ${vm.name} ${diskId}`)
  }
  const { status, parts } = await real.compliance()
  const all = [vm.home, ...vm.disks]
  strictEqual(
    status,
    all.some(({ policy }) => policy !== plain) ? 'compliant' : 'notApplicable',
    'compliance',
  )
  strictEqual(parts.filter(({ encrypted }) => encrypted).length, all.filter(({ key }) => key).length)
}

/** What the host reads in the files is what vCenter says, and it holds every key. */
async function agreeOnHost(site: Site, model: Model, vm: Vm, info: VirtualMachineInfo): Promise<void> {
  const host = site.hosts.find(({ name }) => name === vm.host)
  const seen = await host?.readVirtualMachine({ datastore: info.datastore, vmx: info.vmx })
  deepStrictEqual(seen?.homeKey, info.homeKey)
  deepStrictEqual(
    seen?.disks.map(({ diskId, key }) => [diskId, key]),
    info.disks.map(({ diskId, key }) => [diskId, key]),
  )
  const shape = shapeOf(model, vm)
  strictEqual(seen?.chain ?? 'none', shape, `chain of ${vm.name}`)
  const tree = seen?.snapshotTree ?? []
  const nameOf = (id: string | undefined) => tree.find((one) => one.id === id)?.name
  deepStrictEqual(
    tree.map(({ name, parent }) => [name, nameOf(parent)]),
    vm.snapshots.map(({ name, parent }) => [name, parent?.name]),
    `snapshots of ${vm.name}`,
  )
  strictEqual(nameOf(seen?.currentSnapshot), vm.current?.name, `present snapshot of ${vm.name}`)
}

/** Every file that there has to be and no other; no plaintext but that of plain parts. */
async function agreeOnFiles(site: Site, model: Model, vm: Vm): Promise<void> {
  const folder = path.join(site.datastore, vm.name)
  const found = await readdir(folder)
  const descriptors = found.filter((file) => /\.vmdk$/.test(file) && !/-(?:flat|delta)\.vmdk$/.test(file))
  const loose = model.loose.filter(({ owner }) => owner === vm.name).map(({ file }) => path.basename(file))
  const stemOf = (file: string) => file.replace(/(?:-\d{6})?\.vmdk$/, '')
  strictEqual(descriptors.length, vm.links.size * vm.disks.length + loose.length, `disk files of ${vm.name}: ${descriptors.join(' ')}`) // prettier-ignore
  const vmx = await readFile(path.join(folder, `${vm.name}.vmx`), 'utf8')
  const expected = new Set(
    [`${vm.name}.vmx`, `${vm.name}.vmsd`, 'vmware.log', ...(vm.on ? [`${vm.name}.vmx.lck`] : [])].concat(
      descriptors.flatMap((file) => [file, extentOf(file), `${file}.vmseal`]),
    ),
  )
  const strangers = found.filter((file) => !expected.has(file) && !vmx.includes(file))
  deepStrictEqual(strangers, [], `files of ${vm.name} that nothing names`)
  strictEqual(vmx.includes(homeSecret), vm.home.key === undefined, `settings of ${vm.name} in the clear`)
  const plainStems = new Set([
    ...vm.disks.filter(({ key }) => !key).flatMap(({ id }) => stemsOf(vmx, id, stemOf)),
    ...model.loose.filter(({ owner, key }) => owner === vm.name && !key).map(({ file }) => stemOf(path.basename(file))), // prettier-ignore
  ])
  for (const file of found.filter((one) => /\.(?:vmdk|nvram|vmem)$/.test(one))) {
    if (!(await readFile(path.join(folder, file))).includes(marker.trim())) continue
    const stem = stemOf(file.replace(/-(?:flat|delta)\.vmdk$/, '.vmdk'))
    ok(plainStems.has(stem), `plaintext of ${vm.name} in ${file}`)
  }
}

const extentOf = (file: string): string =>
  file.replace('.vmdk', /-\d{6}\.vmdk$/.test(file) ? '-delta.vmdk' : '-flat.vmdk')

/** The names, without number and ending, of the files that the .vmx gives a disk. */
function stemsOf(vmx: string, diskId: string, stemOf: (file: string) => string): string[] {
  const devices = [...vmx.matchAll(/^(scsi\d+:\d+)\.fileName = "([^"]+)"/gim)]
  const own = devices.filter(([, device]) => new RegExp(`${device}[^\\n]*${diskId}`, 'i').test(vmx))
  return own.map(([, , file]) => stemOf(path.basename(file ?? '')))
}

/** Who uses a key, who holds it, and which keys at the KMS nothing needs. */
async function agreeOnKeys(site: Site, model: Model, names: KeyNames): Promise<void> {
  const { keys } = site.vcenter.keyProviders
  const users = new Map<string, string[]>()
  for (const vm of model.vms.values())
    for (const key of vm.registered ? keysOf(vm) : [])
      users.set(names.idOf(key), [...(users.get(names.idOf(key)) ?? []), vm.name])
  const held = new Map<string, Set<string>>()
  for (const host of site.hosts)
    held.set(host.name, new Set((await host.listKeys()).map(({ keyId }) => keyId)))
  for (const vm of model.vms.values())
    for (const key of vm.registered ? keysOf(vm) : [])
      ok(held.get(vm.host)?.has(names.idOf(key)), `host ${vm.host} holds a key of ${vm.name}`)
  const used = [...model.vms.values()].filter((vm) => vm.registered).flatMap(keysOf)
  const asked = [...new Map(used.map((key) => [names.idOf(key), key])).entries()]
  const statuses = await keys.query(asked.map(([keyId, { provider }]) => ({ keyId, providerId: provider })))
  for (const { key, available, virtualMachines } of statuses) {
    ok(available, `key ${key.keyId} is at the KMS`)
    deepStrictEqual(virtualMachines.toSorted(), users.get(key.keyId)?.toSorted(), 'who uses a key')
  }
  const orphans = new Map<string, readonly string[]>()
  for (const provider of providers)
    for (const { key, files = [] } of await keys.unused(provider)) orphans.set(key.keyId, files)
  const onHosts = new Set([...held.values()].flatMap((ids) => [...ids]))
  const inFiles = new Set(
    [...[...model.vms.values()].flatMap(keysOf), ...model.loose.flatMap(({ key }) => key ?? [])].map((key) =>
      names.idOf(key),
    ),
  )
  for (const [id] of names.entries()) {
    const isOrphan = !users.has(id) && !onHosts.has(id)
    strictEqual(orphans.has(id), isOrphan, `${id} is ${isOrphan ? 'an orphan' : 'in use'}`)
    if (isOrphan) strictEqual((orphans.get(id)?.length ?? 0) > 0, inFiles.has(id), `files that name ${id}`)
  }
}
