/** A database of every older version is taken over, with what stands in it. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { SqliteDatabase } from '../../src/store/sqlite-database.js'
import { openSqliteStore } from '../../src/store/sqlite-store.js'
import { vcenterMigrations } from '../../src/store/vcenter-schema.js'

const policyId = '4d5f673c-536f-11e6-beb8-9e71128cae77'

/** What the first version can hold, by its own columns. */
function fill(database: SqliteDatabase): void {
  database.run(`INSERT INTO key_provider VALUES ('kms-1', '[]', '', '', 'key.pem', '2026-01-01T00:00:00Z')`)
  database.run(`INSERT INTO key_provider_default VALUES ('', 'kms-1')`)
  database.run(`INSERT INTO cluster (id, name, created_at) VALUES ('c1', 'prod', '2026-01-01T00:00:00Z')`)
  database.run(
    `INSERT INTO host (id, name, cluster_id, boot_id, datastores, added_at)
     VALUES ('h1', 'esx-1', 'c1', 'b1', '["ds1"]', '2026-01-01T00:00:00Z')`,
  )
  database.run(
    `INSERT INTO vm (id, revision, name, cluster_id, host_id, datastore, vmx, home_policy_id, provider_id, key_id,
       crypto_state, power_state)
     VALUES ('v1', 3, 'db01', 'c1', 'h1', 'ds1', 'db01/db01.vmx', '${policyId}', 'kms-1', 'k1', 'locked', 'poweredOff')`,
  )
  database.run(
    `INSERT INTO disk (vm_id, id, position, device, file, capacity_bytes, policy_id, provider_id, key_id)
     VALUES ('v1', 'd1', 0, 'scsi0:0', 'db01.vmdk', 1048576, '${policyId}', 'kms-1', 'k2')`,
  )
  database.run(
    `INSERT INTO task VALUES ('t1', 'VirtualMachine.applyPolicy', 'db01', 'running', '', '', NULL, NULL, NULL, 1, 2)`,
  )
  database.run(`INSERT INTO event (id, time, details) VALUES ('x', '', '{"vm":"db01"}')`)
}

for (let version = 1; version <= vcenterMigrations.length; version += 1)
  test(`a database of version ${version} is brought to ${vcenterMigrations.length}, and nothing of it is lost`, async (t) => {
    const directory = await mkdtemp(join(tmpdir(), 'vmseal-migration-'))
    t.teardown(() => rm(directory, { recursive: true }))
    const file = join(directory, 'vcenter.db')
    const old = SqliteDatabase.open(file, vcenterMigrations.slice(0, version))
    fill(old)
    old.close()
    for (const turn of ['migrated', 'opened again']) {
      const store = openSqliteStore(file)
      t.is(await store.keyProviders.getDefault(), 'kms-1', turn)
      t.like((await store.clusters.list())[0], {
        name: 'prod',
        cryptoMode: 'onDemand',
        cryptoProviderId: null,
      })
      t.like((await store.hosts.list())[0], { id: 'h1', datastores: ['ds1'], cryptoKey: null })
      const vm = await store.virtualMachines.findByName('db01')
      t.like(vm, {
        id: 'v1',
        revision: 3,
        cryptoState: 'locked',
        homeKey: { providerId: 'kms-1', keyId: 'k1' },
      })
      t.like(vm?.disks[0], { diskId: 'd1', key: { providerId: 'kms-1', keyId: 'k2' } })
      t.deepEqual((await store.virtualMachines.keysOfProvider('kms-1')).toSorted((a, b) => (a < b ? -1 : 1)), ['k1', 'k2']) // prettier-ignore
      t.deepEqual(await store.missingKeys.list('v1'), [])
      t.deepEqual(await store.vmIntents.list(), [])
      t.is((await store.tasks.list(10))[0]?.state, 'running')
      t.deepEqual((await store.events.list(0, 10))[0]?.details, { vm: 'db01' })
      await store.close()
    }
    const after = SqliteDatabase.open(file, vcenterMigrations)
    t.is(after.first<{ user_version: number }>('PRAGMA user_version')?.user_version, vcenterMigrations.length)
    after.close()
    t.throws(() => SqliteDatabase.open(file, vcenterMigrations.slice(0, -1)), {
      code: 'VMSEAL_STORE_INVALID',
    })
  })
