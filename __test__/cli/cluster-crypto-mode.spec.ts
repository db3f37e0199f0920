/** `vmseal cluster set-crypto-mode` on a vCenter that runs. */
import test from 'ava'
import { administer } from './administered.js'

test.serial(
  'F7: the command forces encryption mode on a cluster, shows it, and refuses what is wrong',
  async (t) => {
    const { site, answer, text, refused } = await administer(t, { hosts: ['esx-1'], safe: false })
    const set = ['cluster', 'set-crypto-mode', 'prod']
    t.is(await refused(2, ...set, 'always'), 'VMSEAL_INVALID_ARGUMENT')
    t.is(await refused(2, ...set), 'VMSEAL_INVALID_ARGUMENT')
    t.is(
      await refused(2, ...set, 'forceEnable', '--key-id', 'k', '--provider', 'kms-1'),
      'VMSEAL_INVALID_ARGUMENT',
    )
    t.is(await refused(2, ...set, 'forceEnable', '--provider', 'kms-9'), 'VMSEAL_NOT_FOUND')
    t.is(await refused(2, 'cluster', 'set-crypto-mode', 'lab', 'onDemand'), 'VMSEAL_NOT_FOUND')
    t.like((await answer<object[]>('cluster', 'list'))[0], { name: 'prod', cryptoMode: 'onDemand' })
    t.is(site.seen('Create'), 0)

    t.like(await answer(...set, 'forceEnable'), {
      mode: 'forceEnable',
      hosts: [{ host: 'esx-1', cryptoState: 'safe' }],
    })
    t.regex(await text('cluster', 'list'), /prod +1 +0 +kms-1 +forceEnable/)
    t.is(await text(...set, 'onDemand'), 'the crypto mode of cluster prod is onDemand\n  esx-1: safe\n')
    const { hosts } = await answer<{ hosts: { error?: string }[] }>(...set, 'onDemand', '--key-id', 'kms-1/k')
    t.deepEqual(hosts, [{ host: 'esx-1', cryptoState: 'safe' }])
  },
)
