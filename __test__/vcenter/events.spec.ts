/** The event log: who did what to what with which key, bound by hashes, followed without a gap. */
import { cp } from 'node:fs/promises'
import path from 'node:path'
import Database from 'libsql'
import test, { type ExecutionContext } from 'ava'
import { VCenter, type VCenterEvent } from '../../src/index.js'
import { allPrivileges } from '../../src/vcenter/authorization/privileges.js'
import { userWith } from './authorization/users.js'
import { encryption, openSite, plain, type Site } from './site.js'

const operationId = 'com.vmware.vc.crypto.Operation'

test('I5: each crypto operation is an event with actor, object, key id and outcome, before and after it', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { file } = await site.image('db01')
  const alice = await userWith(site.vcenter, allPrivileges)
  const vm = await alice.virtualMachines.import({
    name: 'db01',
    cluster: 'prod',
    datastore: 'ds1',
    disks: [file],
  })
  await vm.applyPolicy({ home: encryption, disks: encryption }).done
  const { homeKey } = await vm.info()
  await vm.recrypt({ depth: 'shallow' }).done
  await vm.applyPolicy({ home: plain, disks: plain }).done
  const operations = site.events.filter((event) => event.id === operationId)
  t.deepEqual(
    operations.map(({ details }) => `${details.operation} ${details.outcome}`),
    ['reconfigure', 'recrypt', 'reconfigure'].flatMap((name) => [`${name} began`, `${name} success`]),
  )
  for (const { actor, details } of operations) {
    t.is(actor, alice.user)
    t.like(details, { vm: 'db01', host: 'esx-1' })
    t.true(details.keys.length > 0)
  }
  t.true(operations[0]?.details.keys.some(({ keyId }) => keyId === homeKey?.keyId))
  const pushed = site.events.find(({ id }) => id === 'vmseal.host.crypto.KeyPushed')
  t.is(pushed?.actor, alice.user)
})

test('I5: what is refused is an event with its reason: a rule, a missing key, a privilege', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const vm = await site.vcenter.virtualMachines.create({
    name: 'db01',
    cluster: 'prod',
    datastore: 'ds1',
    policy: encryption,
    disks: [{ capacityBytes: 4096 }],
  })
  await vm.powerOn()
  await t.throwsAsync(vm.applyPolicy({ home: plain, disks: plain }).done)
  await t.throwsAsync(vm.recrypt({ depth: 'deep' }).done)
  const clerk = await userWith(site.vcenter, ['System.Read', 'StorageProfile.Apply'])
  await t.throwsAsync(
    (await clerk.virtualMachines.get('db01')).applyPolicy({ home: plain, disks: plain }).done,
  )
  const refused = site.events.flatMap((event) =>
    event.id === operationId && event.details.outcome === 'refused'
      ? [`${event.actor} ${event.details.operation} ${event.details.error}`]
      : [],
  )
  t.deepEqual(refused, [
    'administrator reconfigure VMSEAL_INVALID_POWER_STATE',
    'administrator recrypt VMSEAL_INVALID_POWER_STATE',
    `${clerk.user} reconfigure VMSEAL_NO_PERMISSION`,
  ])
})

test('I5: a change, a removal, an insertion and a cut of the log are found; a noted head finds a new log', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const before = await site.vcenter.events.verify()
  t.true(before.ok)
  t.is(before.events, before.head.sequence)
  t.true(before.events > 1)
  const noted = await site.vcenter.events.head()
  t.deepEqual(await tampered(t, site, `UPDATE event SET actor = 'mallory' WHERE sequence = 2`), {
    sequence: 2,
    reason: 'altered',
  })
  t.deepEqual(await tampered(t, site, `UPDATE event SET details = '{}' WHERE sequence = 1`), {
    sequence: 1,
    reason: 'altered',
  })
  t.deepEqual(await tampered(t, site, `DELETE FROM event WHERE sequence = 1`), { sequence: 1, reason: 'gap' })
  t.deepEqual(
    await tampered(t, site, `DELETE FROM event WHERE sequence = (SELECT max(sequence) FROM event)`),
    { sequence: noted.sequence, reason: 'cut' },
  )
  t.deepEqual(
    await tampered(
      t,
      site,
      `INSERT INTO event (id, time, actor, details, hash) VALUES ('x', 'now', 'm', '{}', '')`,
    ),
    { sequence: noted.sequence + 1, reason: 'altered' },
  )
  t.deepEqual((await site.vcenter.events.verify({ ...noted, hash: 'f'.repeat(64) })).firstBreak, {
    sequence: noted.sequence,
    reason: 'altered',
  })
  t.true((await site.vcenter.events.verify(noted)).ok)
})

test('I5: a subscription has every event once and in order, and goes on where an earlier one stopped', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { events, clusters, virtualMachines } = site.vcenter
  const place = { cluster: 'prod', datastore: 'ds1', policy: encryption, disks: [] }
  const first = await take(events.subscribe({ after: 0 }), 2)
  t.deepEqual(first.map(({ sequence }) => sequence), [1, 2]) // prettier-ignore
  const stop = new AbortController()
  const seen: VCenterEvent[] = []
  const following = (async () => {
    for await (const event of events.subscribe({ after: 2, signal: stop.signal })) seen.push(event)
  })()
  for (let number = 0; number < 5; number += 1)
    await virtualMachines.create({ ...place, name: `vm${number}` })
  const { sequence } = await events.head()
  while ((seen.at(-1)?.sequence ?? 0) < sequence) await new Promise((resolve) => setImmediate(resolve))
  stop.abort()
  await following
  t.deepEqual(
    seen.map((event) => event.sequence),
    Array.from({ length: sequence - 2 }, (_, index) => index + 3),
  )
  t.deepEqual(seen, await events.list({ after: 2 }))
  t.is((await clusters.list()).length, 1)
})

test('I5: subscriptions end when vCenter closes, and need a privilege', async (t) => {
  const site = await openSite(t, { hosts: [] })
  const without = await userWith(
    site.vcenter,
    allPrivileges.filter((privilege) => privilege !== 'Global.Diagnostics'),
  )
  await t.throwsAsync(take(without.events.subscribe({ after: 0 }), 1), { code: 'VMSEAL_NO_PERMISSION' })
  const following = take(site.vcenter.events.subscribe(), 1)
  await new Promise((resolve) => setImmediate(resolve))
  await site.vcenter.close()
  t.deepEqual(await following, [])
})

async function take(source: AsyncIterable<VCenterEvent>, count: number): Promise<VCenterEvent[]> {
  const taken: VCenterEvent[] = []
  for await (const event of source) if (taken.push(event) === count) break
  return taken
}

/** What is found in a copy of the log after `sql` was done to it. */
async function tampered(t: ExecutionContext, site: Site, sql: string) {
  const directory = path.join(site.directory, `copy-${copies++}`)
  await cp(path.join(site.directory, 'vcenter'), directory, {
    recursive: true,
    filter: (file) => !file.endsWith('.lock'),
  })
  const database = new Database(path.join(directory, 'vcenter.db'))
  database.exec(sql)
  database.close()
  const copy = await VCenter.open({ directory })
  t.teardown(() => copy.close())
  return (await copy.events.verify()).firstBreak
}

let copies = 0
