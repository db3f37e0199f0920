/** `vmseal vm migrate` on a vCenter that runs: for people and machines, by its cmdlet too, and what it refuses. */
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import test from 'ava'
import type { VirtualMachineInfo } from '../../src/index.js'
import { encryption } from '../vcenter/site.js'
import { administer } from './administered.js'

test.serial(
  'J6: a VM that is off moves there and back without a key being made, and one that is on stays',
  async (t) => {
    const { site, answer, text, refused } = await administer(t, { hosts: ['esx-1', 'esx-2'] })
    const place = ['--cluster', 'prod', '--datastore', 'ds1', '--host', 'esx-1']
    const disk = ['--disk', '1M', '--policy', encryption]
    const { homeKey } = await answer<VirtualMachineInfo>('vm', 'create', 'db01', ...place, ...disk)
    site.seen('Create')

    t.is(await refused(2, 'vm', 'migrate', 'db01'), 'VMSEAL_INVALID_ARGUMENT')
    t.is(await refused(2, 'vm', 'migrate', 'nobody', 'esx-2'), 'VMSEAL_NOT_FOUND')
    t.is((await answer('vm', 'show', 'db01'))['host'], 'esx-1')
    t.like(await answer('vm', 'migrate', 'db01', 'esx-2'), {
      host: 'esx-2',
      homeKey,
      cryptoState: 'unlocked',
    })
    t.regex(await text('Move-VM', 'db01', 'esx-1'), /place +prod, host esx-1, \[ds1\] db01\/db01\.vmx/)
    await answer('vm', 'power-on', 'db01')
    t.is(await refused(2, 'vm', 'migrate', 'db01', 'esx-2'), 'VMSEAL_INVALID_POWER_STATE')
    t.is((await answer('vm', 'show', 'db01'))['host'], 'esx-1')
    t.is(site.seen('Create'), 0)
  },
)

test.serial(
  'J4: a VM that is on moves with its memory; C6: what it asks of that is seen, and set where it may be',
  async (t) => {
    const { site, answer, text, refused } = await administer(t, { hosts: ['esx-1', 'esx-2'] })
    const place = ['--cluster', 'prod', '--datastore', 'ds1', '--host', 'esx-1']
    await answer('vm', 'create', 'db01', ...place, '--disk', '1M', '--policy', encryption)
    await answer('vm', 'create', 'web01', ...place, '--disk', '1M')
    const memory = path.join(site.directory, 'memory.out')
    const target = path.join(site.directory, 'memory.in')
    await writeFile(memory, 'the memory of a guest')
    const live = ['vm', 'migrate', 'db01', 'esx-2', '--memory', memory, '--memory-target', target]
    t.is(await refused(2, ...live), 'VMSEAL_INVALID_POWER_STATE')
    await answer('vm', 'power-on', 'db01')
    t.is(await refused(2, ...live.slice(0, 6)), 'VMSEAL_INVALID_ARGUMENT')
    t.like(await answer(...live), { host: 'esx-2', powerState: 'poweredOn' })
    t.is(await readFile(target, 'utf8'), 'the memory of a guest')
    t.regex(await text('vm', 'show', 'db01'), /migration +encryption required/)
    const set = (vm: string, mode: string) => ['vm', 'set', vm, '--migrate-encryption', mode]
    t.is(await refused(2, ...set('db01', 'disabled')), 'VMSEAL_INVALID_STATE')
    t.is(await refused(2, ...set('web01', 'sometimes')), 'VMSEAL_INVALID_ARGUMENT')
    t.is(await refused(2, 'vm', 'set', 'web01'), 'VMSEAL_INVALID_ARGUMENT')
    t.like(await answer(...set('web01', 'required')), { migrateEncryption: 'required' })
  },
)
