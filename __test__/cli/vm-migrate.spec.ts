/** `vmseal vm migrate` on a vCenter that runs: for people and machines, by its cmdlet too, and what it refuses. */
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
