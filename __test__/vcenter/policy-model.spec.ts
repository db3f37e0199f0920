/** Rows I1 and J6 against a model: after each step of a random history, state, files and keys agree. */
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { isVmsealError, type VirtualMachine } from '../../src/index.js'
import { filesWith } from './datastore-files.js'
import { encryption, openSite, plain, type Site } from './site.js'

interface ModelDisk {
  readonly diskId: string
  readonly sha256: string
  policy: string
}

interface Model {
  home: string
  disks: ModelDisk[]
  /** Detached ones, by file. */
  readonly loose: Map<string, ModelDisk>
}

const encrypts = (policy: string): boolean => policy === encryption || policy === 'gold'
const policy = fc.constantFrom(encryption, plain, 'gold')
const index = fc.nat(3)
const step = fc.oneof(
  fc.record({ act: fc.constant('apply' as const), home: fc.option(policy), disks: fc.option(policy) }),
  fc.record({ act: fc.constant('one' as const), index, policy }),
  fc.record({ act: fc.constant('add' as const), policy }),
  fc.record({ act: fc.constant('detach' as const), index }),
  fc.record({ act: fc.constant('attach' as const), policy: fc.option(policy) }),
  fc.record({
    act: fc.constant('recrypt' as const),
    depth: fc.constantFrom('shallow' as const, 'deep' as const),
  }),
  fc.record({ act: fc.constant('move' as const), forgetful: fc.boolean() }),
)
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

test('I1, J6: random policies, disks that come and go, recrypts and moves: state, files and keys agree after each step', async (t) => {
  const site = await openSite(t)
  await site.vcenter.storagePolicies.clone(encryption, 'gold')
  const image = await site.image('a')
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [image.file],
  }) // prettier-ignore
  const [first] = (await vm.info()).disks
  const model: Model = {
    home: plain,
    disks: [{ diskId: first?.diskId ?? '', sha256: image.sha256, policy: plain }],
    loose: new Map(),
  }
  const outcomes = new Set<string>()
  for (const one of fc.sample(step, { numRuns: 50, seed: 20_263 })) {
    const before = structuredClone(model)
    const files = new Map((await vm.info()).disks.map(({ diskId, file }) => [diskId, file]))
    const error = await run(site, vm, one, model, image, files).then(
      () => undefined,
      (reason: unknown) => reason,
    )
    if (error !== undefined) {
      if (!isVmsealError(error)) throw error
      // A refusal leaves all as it was.
      Object.assign(model, before)
      t.is(site.seen('Create'), 0, `${error.code} before a key is made`)
    }
    outcomes.add(`${one.act} ${isVmsealError(error) ? error.code : 'done'}`)
    await agree(t, site, vm, model, JSON.stringify(one))
  }
  for (const act of ['apply', 'one', 'add', 'detach', 'attach', 'recrypt', 'move'])
    t.true(outcomes.has(`${act} done`), act)
  t.true(outcomes.has('apply VMSEAL_ENCRYPTION_MISMATCH') || outcomes.has('one VMSEAL_ENCRYPTION_MISMATCH'))
})

/** Does the step and says what the model is after it; the number of new keys is checked here. */
async function run(
  site: Site,
  vm: VirtualMachine,
  one: Step,
  model: Model,
  image: { file: string; sha256: string },
  files: ReadonlyMap<string, string>,
): Promise<void> {
  const { disks } = model
  const chosen = 'index' in one ? disks[one.index % Math.max(disks.length, 1)] : undefined
  const wasPlain = [model.home, ...disks.map((disk) => disk.policy)].map((name) => !encrypts(name))
  const requireKeys = (expected: number): void => {
    const made = site.seen('Create')
    if (made !== expected)
      throw new Error(`${made} keys were made where ${expected} are right: ${JSON.stringify(one)}`)
  }
  const applied = (): void => {
    const now = [model.home, ...disks.map((disk) => disk.policy)].map(encrypts)
    requireKeys(now.some((encrypted, part) => encrypted && wasPlain[part]) ? 1 : 0)
  }
  if (one.act === 'apply') {
    await vm.applyPolicy({ ...(one.home && { home: one.home }), ...(one.disks && { disks: one.disks }) }).done
    model.home = one.home ?? model.home
    for (const disk of disks) disk.policy = one.disks ?? disk.policy
    applied()
  } else if (one.act === 'one' && chosen) {
    await vm.applyPolicy({ disks: { [chosen.diskId]: one.policy } }).done
    chosen.policy = one.policy
    applied()
  } else if (one.act === 'add') {
    const added = (await vm.addDisk({ source: image.file, policy: one.policy }).done).disks.at(-1)
    disks.push({ diskId: added?.diskId ?? '', sha256: image.sha256, policy: one.policy })
    requireKeys(encrypts(one.policy) ? 1 : 0)
  } else if (one.act === 'detach' && chosen) {
    await vm.detachDisk(chosen.diskId)
    model.disks = disks.filter((disk) => disk !== chosen)
    model.loose.set(files.get(chosen.diskId) ?? '', chosen)
    requireKeys(0)
  } else if (one.act === 'attach') {
    const [file, disk] = [...model.loose][0] ?? []
    if (!file || !disk) return
    await vm.attachDisk({ file: `db01/${file}`, ...(one.policy && { policy: one.policy }) }).done
    model.loose.delete(file)
    disks.push({ ...disk, policy: one.policy ?? plain })
    requireKeys(0)
  } else if (one.act === 'recrypt') {
    await vm.recrypt({ depth: one.depth }).done
    requireKeys(1)
  } else if (one.act === 'move') {
    const from = (await vm.info()).host
    const other = site.hosts.find(({ name }) => name !== from)
    if (one.forgetful) for (const key of (await other?.listKeys()) ?? []) await other?.removeKey(key)
    await vm.migrate({ host: other?.name ?? '' }).done
    requireKeys(0)
  }
}

async function agree(
  t: ExecutionContext,
  site: Site,
  vm: VirtualMachine,
  model: Model,
  after: string,
): Promise<void> {
  const info = await vm.info()
  const byId = new Map(info.disks.map((disk) => [disk.diskId, disk]))
  t.deepEqual(new Set(byId.keys()), new Set(model.disks.map(({ diskId }) => diskId)), after)
  t.is(info.policy, model.home, after)
  t.is(info.homeKey !== undefined, encrypts(model.home), after)
  for (const disk of model.disks) {
    t.is(byId.get(disk.diskId)?.policy, disk.policy, after)
    t.is(byId.get(disk.diskId)?.key !== undefined, encrypts(disk.policy), after)
    t.is((await vm.digest(disk.diskId)).sha256, disk.sha256, after)
  }
  t.true(['compliant', 'notApplicable'].includes((await vm.compliance()).status), after)
  // What the files say is what vCenter says.
  const host = site.hosts.find(({ name }) => name === info.host)
  const seen = await host?.readVirtualMachine({ datastore: 'ds1', vmx: info.vmx })
  t.deepEqual(seen?.homeKey, info.homeKey, after)
  t.deepEqual(seen?.disks.map(({ diskId, key }) => [diskId, key]), info.disks.map(({ diskId, key }) => [diskId, key]), after) // prettier-ignore
  const inClear = [...model.disks, ...model.loose.values()].filter((disk) => !encrypts(disk.policy)).length
  t.is((await filesWith(site.datastore, 'this text is in plain sight')).length, inClear, after)
  // Every key in use is on the host.
  const held = new Set((await host?.listKeys())?.map(({ keyId }) => keyId))
  for (const key of [info.homeKey, ...info.disks.map((disk) => disk.key)])
    t.true(key === undefined || held.has(key.keyId), after)
}
