/** Several callers at once: tasks on one VM take turns, and looking at a VM never undoes what a task wrote. */
import test from 'ava'
import { encryption, openSite, plain } from './site.js'

test('tasks on one VM take turns in the order of the calls; those on two VMs do not wait for each other', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const image = await site.image('a', 4)
  const spec = { cluster: site.cluster, datastore: 'ds1', disks: [image.file] }
  const [one, two] = await Promise.all(
    ['one', 'two'].map((name) => site.vcenter.virtualMachines.import({ ...spec, name })),
  )
  if (!one || !two) throw new Error('the set-up is not what the test needs')
  const states: string[] = []
  const tasks = [
    one.applyPolicy({ home: encryption, disks: encryption }),
    one.applyPolicy({ disks: plain }),
    one.applyPolicy({ home: plain }),
    one.applyPolicy({ disks: encryption }),
  ]
  for (const [index, task] of tasks.entries()) task.on('state', (state) => states.push(`${index} ${state}`))
  await two.applyPolicy({ home: encryption }).done
  const outcomes = await Promise.allSettled(tasks.map(({ done }) => done))
  t.deepEqual(outcomes.map(({ status }) => status), ['fulfilled', 'fulfilled', 'fulfilled', 'rejected']) // prettier-ignore
  t.deepEqual(states, ['success', 'success', 'success', 'error'].flatMap((end, index) => [`${index} running`, `${index} ${end}`])) // prettier-ignore
  t.is((await one.info()).homeKey, undefined)
  t.is((await one.digest('scsi0:0')).sha256, image.sha256)
})

test('two calls for one name make one VM', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const spec = { name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [] }
  const outcomes = await Promise.allSettled([1, 2, 3].map(() => site.vcenter.virtualMachines.create(spec)))
  t.deepEqual(outcomes.map(({ status }) => status), ['fulfilled', 'rejected', 'rejected']) // prettier-ignore
  t.is(site.seen('Create'), 1)
})

test('a VM that is looked at all the time while tasks change it ends as the tasks left it', async (t) => {
  const site = await openSite(t)
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [{ capacityBytes: 2 ** 20 }],
  }) // prettier-ignore
  const state = { busy: true, looks: 0 }
  const watcher = async (): Promise<void> => {
    while (state.busy) {
      await vm.info()
      state.looks += 1
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
  const watchers = [watcher(), watcher(), watcher()]
  for (let round = 0; round < 6; round += 1) {
    const policy = round % 2 === 0 ? encryption : plain
    await vm.applyPolicy({ home: policy, disks: policy }, { host: round % 3 === 0 ? 'esx-1' : 'esx-2' }).done
    const info = await vm.info()
    t.is(info.policy, policy)
    t.deepEqual(info.disks.map((disk) => [disk.policy, disk.key !== undefined]), [[policy, policy === encryption]]) // prettier-ignore
  }
  state.busy = false
  await Promise.all(watchers)
  t.true(state.looks > 6)
  t.is(site.seen('Create'), 3)
})

test('close cancels what runs, waits for it, and leaves the VM whole', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const image = await site.image('a', 32)
  const vm = await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: site.cluster, datastore: 'ds1', disks: [image.file],
  }) // prettier-ignore
  const task = vm.applyPolicy({ home: encryption, disks: encryption })
  const queued = vm.applyPolicy({ home: plain })
  await new Promise<void>((resolve) =>
    task.on('step', ({ action }) => action === 'work started' && resolve()),
  )
  await site.vcenter.close()
  t.is(task.state, 'cancelled')
  t.is(queued.state, 'cancelled')
  await t.throwsAsync(queued.done, { code: 'VMSEAL_CANCELLED' })
  const closed = { code: 'VMSEAL_INVALID_STATE' }
  await t.throwsAsync(site.vcenter.keyProviders.list(), closed)
  await t.throwsAsync(vm.info(), closed)
  await t.throwsAsync(vm.powerOn(), closed)
  t.throws(() => vm.applyPolicy({ home: encryption }), closed)
  const config = await site.hosts[0]?.readVirtualMachine({ datastore: 'ds1', vmx: 'db01/db01.vmx' })
  t.is(config?.homeKey, undefined)
})

test('unlock brings back what a restarted host lost, one VM at a time', async (t) => {
  const site = await openSite(t)
  const make = (name: string) =>
    site.vcenter.virtualMachines.create({ name, cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [], host: 'esx-1' }) // prettier-ignore
  const [one, two] = [await make('one'), await make('two')]
  await site.hosts[0]?.restart()
  t.like(await one.unlock(), { cryptoState: 'unlocked', missingKeys: [], host: 'esx-1' })
  t.is((await two.info()).cryptoState, 'locked')
  t.is((await site.hosts[0]?.listKeys())?.length, 1)
  t.like(await one.unlock(), { cryptoState: 'unlocked' }, 'an unlocked VM stays so')
  t.like(await site.vcenter.hosts.reconnect('esx-1'), { unlocked: ['two'] })
  const kinds = site.events
    .filter(({ id }) => id === 'com.vmware.vc.crypto.Operation')
    .map(({ details }) => details)
  t.like(kinds.at(-2), { operation: 'unlock', vm: 'one', outcome: 'began' })
  t.like(kinds.at(-1), { operation: 'unlock', vm: 'one', outcome: 'success' })
})
