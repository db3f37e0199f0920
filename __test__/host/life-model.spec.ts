/** The life of a VM against a model: whatever is done in whatever order, contents, keys, snapshots and files agree after each step. */
import { randomUUID } from 'node:crypto'
import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { filesWith, idOf, install, makeKek, makeLab, makeVm, marker, type Kek, type Lab } from './fixture.js'
import { GuestDisks } from './guest-disks.js'

type Step =
  | { readonly do: 'write'; readonly disk: number; readonly at: number; readonly zeros: boolean }
  | { readonly do: 'snapshot' | 'power' | 'consolidate' | 'restart' | 'recrypt' }
  | { readonly do: 'revert' | 'clone' | 'link'; readonly pick: number }
  | { readonly do: 'remove'; readonly pick: number; readonly children: boolean }

const pick = fc.nat({ max: 99 })
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('write' as const),
      disk: fc.nat({ max: 1 }),
      at: fc.nat({ max: 60_000 }),
      zeros: fc.boolean(),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('snapshot' as const) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('revert' as const), pick }) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('remove' as const), pick, children: fc.boolean() }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom('power' as const, 'consolidate' as const, 'restart' as const, 'recrypt' as const),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('clone' as const, 'link' as const), pick }) },
)

interface Snapshot {
  readonly id: string
  readonly parent: string | undefined
  readonly disks: Buffer[]
}

class Life {
  readonly #t: ExecutionContext
  readonly #lab: Lab
  readonly #keks: readonly [Kek, Kek]
  readonly #vm: { readonly reference: { datastore: string; vmx: string } }
  readonly #guest: GuestDisks
  readonly #clones: { reference: { datastore: string; vmx: string }; disks: Buffer[]; linked: boolean }[] = []
  #snapshots: Snapshot[] = []
  #current: string | undefined
  #on = false
  #key = 0

  constructor(t: ExecutionContext, lab: Lab, keks: readonly [Kek, Kek], vm: Life['vm'], guest: GuestDisks) {
    this.#t = t
    this.#lab = lab
    this.#keks = keks
    this.#vm = vm
    this.#guest = guest
  }

  get vm() {
    return this.#vm
  }

  async run(wanted: Step): Promise<void> {
    const { host } = this.#lab
    const { reference } = this.#vm
    switch (wanted.do) {
      case 'write':
        if (wanted.zeros) return this.#guest.zero(wanted.disk, wanted.at, 3000)
        return this.#guest.write(wanted.disk, wanted.at, 5000)
      case 'snapshot': {
        const id = randomUUID()
        await host.createSnapshot(reference, { snapshotId: id, name: `s${this.#snapshots.length}` })
        this.#snapshots.push({ id, parent: this.#current, disks: this.#guest.copy() })
        this.#current = id
        return
      }
      case 'power':
        await (this.#on ? host.powerOff(reference) : host.powerOn(reference))
        this.#on = !this.#on
        return
      case 'consolidate':
        await host.consolidateDisks(reference)
        return
      case 'restart':
        await host.restart()
        await install(host, ...this.#keks)
        this.#on = false
        return
      case 'recrypt':
        return this.#recrypt()
      case 'revert': {
        const snapshot = this.#pick(wanted.pick)
        if (!snapshot) return
        await host.revertToSnapshot(reference, snapshot.id)
        this.#guest.restore(snapshot.disks)
        this.#current = snapshot.id
        this.#on = false
        return
      }
      case 'remove':
        return this.#remove(wanted.pick, wanted.children)
      case 'clone':
      case 'link':
        return this.#clone(wanted.do === 'link', wanted.pick)
    }
  }

  async check(when: string): Promise<void> {
    const { host } = this.#lab
    const config = await host.readVirtualMachine(this.#vm.reference)
    await this.#guest.check(this.#t, when)
    this.#t.deepEqual(
      (config.snapshotTree ?? []).map(({ id, parent }) => [id, parent]),
      this.#snapshots.map(({ id, parent }) => [id, parent]),
      when,
    )
    this.#t.is(config.currentSnapshot, this.#current, when)
    this.#t.is(config.powerState, this.#on ? 'poweredOn' : 'poweredOff', when)
    const key = idOf(this.#keks[this.#key as 0 | 1])
    this.#t.deepEqual(config.homeKey, key, when)
    for (const disk of config.disks) this.#t.deepEqual([disk.key, disk.formerKeys], [key, undefined], when)
    await this.#checkFiles(when)
  }

  /** Every state that was kept, byte for byte. */
  async end(): Promise<void> {
    for (const { reference, disks } of this.#clones) {
      this.#guest.restore(disks)
      await this.#guest.check(this.#t, `clone ${reference.vmx}`, { reference })
    }
    for (const { id, disks } of this.#snapshots) {
      await this.#lab.host.revertToSnapshot(this.#vm.reference, id)
      this.#guest.restore(disks)
      await this.#guest.check(this.#t, 'at the end, a snapshot')
    }
    this.#t.deepEqual(await filesWith(this.#lab, marker.trim()), [])
  }

  #pick(index: number): Snapshot | undefined {
    return this.#snapshots[index % Math.max(1, this.#snapshots.length)]
  }

  async #remove(index: number, children: boolean): Promise<void> {
    const snapshot = this.#pick(index)
    if (!snapshot) return
    await this.#lab.host.removeSnapshot(this.#vm.reference, snapshot.id, children)
    const gone = new Set([snapshot.id])
    if (children) for (const { id, parent } of this.#snapshots) if (parent && gone.has(parent)) gone.add(id)
    const adopted = (id: string | undefined) => (id !== undefined && gone.has(id) ? snapshot.parent : id)
    this.#snapshots = this.#snapshots
      .filter(({ id }) => !gone.has(id))
      .map((left) => ({ ...left, parent: adopted(left.parent) }))
    this.#current = adopted(this.#current)
  }

  async #recrypt(): Promise<void> {
    const { host } = this.#lab
    const { disks, chain } = await host.readVirtualMachine(this.#vm.reference)
    const next = 1 - this.#key
    const crypto = { type: 'shallowRecrypt', newKey: idOf(this.#keks[next as 0 | 1]) } as const
    const spec = { home: crypto, disks: disks.map(({ diskId }) => ({ diskId, crypto })) }
    const recrypt = host.reconfigureVirtualMachine(this.#vm.reference, spec)
    if (chain === undefined || chain === 'single') {
      await recrypt
      this.#key = next
    } else await this.#t.throwsAsync(recrypt, { code: 'VMSEAL_DISK_CHAIN' })
  }

  async #clone(linked: boolean, index: number): Promise<void> {
    const { host } = this.#lab
    const snapshot = this.#pick(index)
    if ((linked || this.#on) && !snapshot) return
    if (this.#clones.length === 3) return
    const { disks } = await host.readVirtualMachine(this.#vm.reference)
    const name = `copy${this.#clones.length}`
    const key = idOf(this.#keks[this.#key as 0 | 1])
    await host.cloneVirtualMachine(this.#vm.reference, {
      vmId: randomUUID(),
      name,
      datastore: 'ds1',
      homeKey: key,
      ...(snapshot && { snapshotId: snapshot.id }),
      ...(linked && { linked }),
      disks: disks.map(({ diskId }) => ({ diskId, newDiskId: randomUUID(), key })),
    })
    const reference = { datastore: 'ds1', vmx: `${name}/${name}.vmx` }
    this.#clones.push({ reference, disks: snapshot?.disks ?? this.#guest.copy(), linked })
  }

  /** No file that nothing names, and none missing. */
  async #checkFiles(when: string): Promise<void> {
    const folder = join(this.#lab.datastore, 'db01')
    const vmx = await readFile(join(folder, 'db01.vmx'), 'utf8')
    const named = [...new Set(vmx.match(/db01[A-Za-z0-9_-]*\.(?:vmdk|nvram|vmem)/g))]
    const expected = named.flatMap((name) => {
      if (!name.endsWith('.vmdk')) return [name]
      const extent = name.replace('.vmdk', /-\d{6}\.vmdk$/.test(name) ? '-delta.vmdk' : '-flat.vmdk')
      return [name, extent, `${name}.vmseal`]
    })
    const found = await readdir(folder)
    const others = ['db01.vmx', 'db01.vmsd', 'vmware.log', ...(this.#on ? ['db01.vmx.lck'] : [])]
    this.#t.deepEqual(found.toSorted(), [...expected, ...others].toSorted(), when)
  }
}

test('J3, J1, D4, D7: random lives of a VM: contents, keys, snapshots and files agree after each step', async (t) => {
  const seen = new Set<string>()
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 8, maxLength: 16 }), async (steps) => {
      const lab = await makeLab(t)
      const keks = [makeKek('one'), makeKek('two')] as const
      await install(lab.host, ...keks)
      const vm = await makeVm(lab, { homeKey: keks[0], diskKey: keks[0], bytes: 64 * 1024 })
      const life = new Life(t, lab, keks, vm, await GuestDisks.of(lab.host, vm))
      for (const [index, wanted] of steps.entries()) {
        seen.add(wanted.do)
        await life.run(wanted)
        await life.check(`after step ${index} of ${JSON.stringify(steps)}`)
      }
      await life.end()
    }),
    { numRuns: 6, endOnFailure: true },
  )
  t.true(seen.size >= 8, [...seen].join(' '))
})
