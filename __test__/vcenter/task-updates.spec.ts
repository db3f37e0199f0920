/** Watching and cancelling tasks by id. */
import test from 'ava'
import type { TaskUpdate } from '../../src/index.js'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { userWith } from './authorization/users.js'
import { encryption, openSite } from './site.js'

async function collect(updates: AsyncIterable<TaskUpdate>): Promise<TaskUpdate[]> {
  const all: TaskUpdate[] = []
  for await (const update of updates) all.push(update)
  return all
}

test('a task is watched to its end, with progress; once it has ended the record is all there is', async (t) => {
  const { vcenter, image } = await openSite(t, { hosts: ['esx-1'] })
  const { file } = await image('db01', 8)
  const vm = await vcenter.virtualMachines.import({
    name: 'db01',
    cluster: 'prod',
    datastore: 'ds1',
    disks: [file],
  })
  const task = vm.applyPolicy({ home: encryption, disks: encryption })
  const updates = await collect(vcenter.tasks.subscribe({ id: task.id }))
  t.is(updates.at(-1)?.task.state, 'success')
  t.true(updates.some(({ progress }) => progress !== undefined && progress.totalBytes > 0))
  t.true(updates.every(({ task: { id } }) => id === task.id))
  t.deepEqual(
    (await collect(vcenter.tasks.subscribe({ id: task.id }))).map(({ task: { state } }) => state),
    ['success'],
  )
  await t.throwsAsync(collect(vcenter.tasks.subscribe({ id: 'x' })), { code: 'VMSEAL_NOT_FOUND' })
})

test('all tasks are watched until the signal or the end of vCenter, also those that begin later', async (t) => {
  const { vcenter } = await openSite(t, { hosts: ['esx-1'] })
  const stop = new AbortController()
  const stopped = collect(vcenter.tasks.subscribe({ signal: stop.signal }))
  const whole = collect(vcenter.tasks.subscribe())
  await vcenter.virtualMachines.create({ name: 'a', cluster: 'prod', datastore: 'ds1', disks: [] })
  stop.abort()
  t.is((await stopped).at(-1)?.task.state, 'success')
  await vcenter.virtualMachines.create({ name: 'b', cluster: 'prod', datastore: 'ds1', disks: [] })
  await vcenter.close()
  t.deepEqual(
    (await whole).filter(({ task: { state } }) => state === 'success').map(({ task: { entity } }) => entity),
    ['a', 'b'],
  )
})

test('I2: a user cancels his own tasks; those of others need Global.CancelTask', async (t) => {
  const { vcenter } = await openSite(t, { hosts: ['esx-1'] })
  const create = { cluster: 'prod', datastore: 'ds1', disks: [{ capacityBytes: 1024 * 1024 }] }
  await vcenter.virtualMachines.create({ name: 'db01', ...create })
  const without = await userWith(
    vcenter,
    allPrivileges.filter((privilege) => privilege !== 'Global.CancelTask'),
  )
  const vm = await vcenter.virtualMachines.get('db01')
  const first = vm.applyPolicy({ home: encryption, disks: encryption })
  // They take turns, so this one waits.
  const theirs = vm.applyPolicy({ home: encryption })
  const own = (await without.virtualMachines.get('db01')).applyPolicy({ home: encryption })
  await t.throwsAsync(without.tasks.cancel(theirs.id), { code: 'VMSEAL_NO_PERMISSION' })
  await without.tasks.cancel(own.id)
  await t.throwsAsync(own.done, { code: 'VMSEAL_CANCELLED' })
  await (await userWith(vcenter, allPrivileges)).tasks.cancel(theirs.id)
  await t.throwsAsync(theirs.done, { code: 'VMSEAL_CANCELLED' })
  await first.done
  await t.throwsAsync(vcenter.tasks.cancel(first.id), { code: 'VMSEAL_NOT_FOUND' }, 'it has ended')
})
