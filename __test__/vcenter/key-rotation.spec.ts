/** New keys on a schedule: by the clock, once each time, again after failures, and for whoever may recrypt. */
import path from 'node:path'
import test from 'ava'
import { VCenter, type RekeyOptions, type RekeyResult } from '../../src/index.js'
import type { KeyRotationRecord } from '../../src/store/store.js'
import { KeyRotation } from '../../src/vcenter/key-rotation.js'
import { VmsealError } from '../../src/errors.js'
import { encryption, openSite } from './site.js'

const day = 24 * 60 * 60 * 1000
const begin = Date.parse('2026-01-01T00:00:00Z')

function outcome(state: 'done' | 'failed'): RekeyResult {
  const virtualMachines = [{ name: 'db01', state }]
  return {
    provider: 'kms-1',
    newProvider: 'kms-1',
    dryRun: false,
    resumed: false,
    virtualMachines,
    hosts: [],
  }
}

/** A rotation whose clock and whose rekeys the test sees. */
function scheduled(t: { teardown(end: () => Promise<void>): void }) {
  const records = new Map<string, KeyRotationRecord>()
  const asked: RekeyOptions[] = []
  const lab = {
    now: begin,
    asked,
    rekey: async (): Promise<RekeyResult> => outcome('done'),
    rotation: undefined as unknown as KeyRotation,
  }
  lab.rotation = new KeyRotation({
    table: {
      list: async () => [...records.values()],
      set: async (record) => void records.set(record.providerId, record),
      rotated: async (id, lastAt) => void records.set(id, { ...records.get(id)!, lastAt }),
      remove: async (id) => records.delete(id),
    },
    clock: () => new Date(lab.now),
    requireProvider: async (id) => {
      if (!id.startsWith('kms')) throw new VmsealError('VMSEAL_NOT_FOUND', id)
    },
    rekey: (options) => {
      asked.push(options)
      return lab.rekey()
    },
  })
  t.teardown(() => lab.rotation.close())
  return lab
}

test('M6: keys are rotated when their time has come by the clock, and not before', async (t) => {
  const lab = scheduled(t)
  const set = await lab.rotation.set('kms-1', { everyDays: 90, rateLimit: 60 })
  t.deepEqual(set, {
    provider: 'kms-1',
    everyDays: 90,
    rateLimit: 60,
    lastAt: '2026-01-01T00:00:00.000Z',
    dueAt: '2026-04-01T00:00:00.000Z',
  })
  await lab.rotation.set('kms-2', { everyDays: 365 })
  lab.now = begin + 90 * day - 1
  await lab.rotation.lookNow()
  t.deepEqual(lab.asked, [])
  lab.now += 1
  await lab.rotation.lookNow()
  await lab.rotation.lookNow()
  t.deepEqual(lab.asked, [{ provider: 'kms-1', rateLimit: 60 }])
  t.is((await lab.rotation.list())[0]?.dueAt, new Date(begin + 180 * day).toISOString())
  lab.now = begin + 365 * day
  await lab.rotation.lookNow()
  t.deepEqual(lab.asked.slice(1), [{ provider: 'kms-1', rateLimit: 60 }, { provider: 'kms-2' }])
})

test('M6: a rotation with failures, or that could not begin, stays due and is tried again', async (t) => {
  const lab = scheduled(t)
  await lab.rotation.set('kms-1', { everyDays: 1 })
  lab.now = begin + day
  lab.rekey = async () => outcome('failed')
  await lab.rotation.lookNow()
  lab.rekey = () => Promise.reject(new VmsealError('VMSEAL_KEY_PROVIDER_UNREACHABLE'))
  await lab.rotation.lookNow()
  t.is((await lab.rotation.list())[0]?.lastAt, new Date(begin).toISOString())
  lab.now += 60_000
  lab.rekey = async () => outcome('done')
  await lab.rotation.lookNow()
  t.is(lab.asked.length, 3)
  t.is((await lab.rotation.list())[0]?.lastAt, new Date(begin + day + 60_000).toISOString())
})

test('schedules that are none are refused, and a cleared one does nothing', async (t) => {
  const lab = scheduled(t)
  const argument = { code: 'VMSEAL_INVALID_ARGUMENT' } as const
  for (const spec of [
    { everyDays: 0 },
    { everyDays: 1.5 },
    { everyDays: 3651 },
    { everyDays: Number.NaN },
    { everyDays: 1, rateLimit: 0 },
    { everyDays: 1, rateLimit: Infinity },
    { everyDays: 1, lastAt: 'yesterday' },
    { everyDays: 1, lastAt: '2026-01-02T00:00:00Z' },
    undefined as unknown as { everyDays: number },
  ])
    await t.throwsAsync(lab.rotation.set('kms-1', spec), argument, JSON.stringify(spec))
  await t.throwsAsync(lab.rotation.set('elsewhere', { everyDays: 1 }), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(lab.rotation.clear('kms-1'), { code: 'VMSEAL_NOT_FOUND' })
  await lab.rotation.set('kms-1', { everyDays: 1 })
  await lab.rotation.clear('kms-1')
  lab.now = begin + 10 * day
  await lab.rotation.lookNow()
  t.deepEqual([lab.asked, await lab.rotation.list()], [[], []])
})

test('M6: VMs get new keys as a task of vCenter itself, also those that are on; the schedule outlives vCenter and goes with its provider', async (t) => {
  const site = await openSite(t)
  const { file, sha256 } = await site.image('a')
  const spec = { name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [file] }
  const vm = await site.vcenter.virtualMachines.import(spec)
  await vm.powerOn()
  const { homeKey } = await vm.info()
  await site.vcenter.keyRotation.set('kms-1', { everyDays: 30, lastAt: '2026-01-01T00:00:00Z' })
  await site.vcenter.keyRotation.lookNow()
  const after = await vm.info()
  t.not(after.homeKey?.keyId, homeKey?.keyId)
  t.deepEqual(after.disks[0]?.key, after.homeKey)
  t.is(after.powerState, 'poweredOn')
  t.is((await vm.digest('scsi0:0')).sha256, sha256)
  const task = (await site.vcenter.tasks.list()).find(({ name }) => name === 'VCenter.rekey')
  t.is(task?.state, 'success')
  site.seen('Create')
  await site.vcenter.keyRotation.lookNow()
  t.is(site.seen('Create'), 0, 'once')

  const before = await site.vcenter.keyRotation.list()
  await site.vcenter.close()
  const vcenter = await VCenter.open({ directory: path.join(site.directory, 'vcenter') })
  t.teardown(() => vcenter.close())
  t.deepEqual(await vcenter.keyRotation.list(), before)
  await vcenter.keyProviders.remove('kms-1')
  t.deepEqual(await vcenter.keyRotation.list(), [])
})
