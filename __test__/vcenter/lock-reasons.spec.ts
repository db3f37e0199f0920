/** Row M9 of the feature table: whatever locks a VM, there is one structured reason, the same wherever it is told. */
import test from 'ava'
import { isVmsealError, type KeyHop } from '../../src/index.js'
import { connectAsVCenter } from './kms-view.js'
import { encryption, openSite, type Site } from './site.js'

const causes: readonly [KeyHop, string, (site: Site, keyId: string) => Promise<unknown>][] = [
  ['kmsUnreachable', 'KMSClusterError', async ({ kms }) => kms.stop()],
  ['providerNotRegistered', 'KMSClusterError', async ({ vcenter }) => vcenter.keyProviders.remove('kms-1')],
  ['kmsRefused', 'KMSClusterError', async ({ kms }) => kms.disable('vcenter')],
  [
    'keyNotActive',
    'KeyMissingOnKMS',
    async (site, keyId) => {
      const client = await connectAsVCenter(site)
      await client.revoke(keyId, 'CessationOfOperation')
      client.close()
    },
  ],
  [
    'keyMissing',
    'KeyMissingOnKMS',
    async (site, keyId) => {
      const client = await connectAsVCenter(site)
      await client.revoke(keyId, 'CessationOfOperation')
      await client.destroy(keyId)
      client.close()
    },
  ],
]

for (const [hop, event, cause] of causes)
  test(`M9: locked for ${hop}: the VM, the fault, the event and the alarm tell the same reason`, async (t) => {
    const site = await openSite(t, { hosts: ['esx-1'] })
    const vm = await site.vcenter.virtualMachines.create({
      name: 'db01', cluster: site.cluster, datastore: 'ds1', policy: encryption, disks: [{ capacityBytes: 4096 }],
    }) // prettier-ignore
    const key = (await vm.info()).homeKey
    if (!key) return t.fail()
    await cause(site, key.keyId)
    await site.hosts[0]?.removeKey(key)
    await t.throwsAsync(vm.powerOn(), { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
    const { cryptoState, connectionState, missing, missingKeys } = await vm.info()
    t.deepEqual([cryptoState, connectionState], ['locked', 'invalid'])
    t.deepEqual(missingKeys, [key])
    t.is(missing.length, 1, 'one reason for one key')
    const [reason] = missing
    t.like(reason, { key, hop, parts: ['home', 'scsi0:0'] })
    t.truthy(reason?.code)
    for (const text of [reason?.message, reason?.action]) t.true((text ?? '').length > 10)
    t.true(Date.parse(reason?.since ?? '') > 0)

    const told = site.events.findLast(({ id }) => id.startsWith('com.vmware.vc.vm.Crypto.VMLocked.'))
    t.is(String(told?.id), `com.vmware.vc.vm.Crypto.VMLocked.${event}`)
    t.like(told?.details, { vm: 'db01', reasons: [{ hop, key }] })
    const alarm = (await site.vcenter.alarms.list()).find(({ kind }) => kind === 'vm.locked')
    t.is(alarm?.message, `${reason?.message}. ${reason?.action}`)
    const refusal = await t.throwsAsync(vm.recrypt({ depth: 'shallow' }).done)
    t.true(isVmsealError(refusal, 'VMSEAL_ENCRYPTION_KEY_REQUIRED'))
    t.true(refusal?.message.includes(reason?.action ?? '-'))
    return undefined
  })
