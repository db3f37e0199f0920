/** The words of PowerCLI: each row of the table does what its cmdlet does, on a vCenter that runs. */
import test from 'ava'
import { cmdlets } from '../../src/cli/powercli.js'
import type { KeyStatus, RekeyResult, VirtualMachineInfo } from '../../src/index.js'
import { encryption } from '../vcenter/site.js'
import { administer } from './administered.js'

test.serial('L4: every cmdlet of the table has a verb that works', async (t) => {
  const { site, answer, text, refused, call } = await administer(t, { provider: false })
  const { host, port } = site.kms.endpoint
  const issued = site.credentials.privateKeyFile.replace(/\/[^/]+$/, '')
  const used = new Set<string>()
  const does = <T = Record<string, unknown>>(cmdlet: string, ...argv: string[]): Promise<T> => {
    used.add(cmdlet)
    // PowerShell does not mind the case of letters.
    return answer<T>(used.size % 2 === 0 ? cmdlet : cmdlet.toLowerCase(), ...argv)
  }

  // Key providers.
  const server = `${host}:${port}`
  t.like(await does('New-KeyProvider', 'kms-1', '--server', server, '--credentials', issued), {
    id: 'kms-1',
    isDefault: true,
  })
  t.like(await does('Add-KeyProvider', 'kms-2', '--server', server, '--credentials', issued), {
    isDefault: false,
  })
  t.like(await does('Add-KeyManagementServer', 'kms-2', `localhost:${port}`), {
    servers: [
      { host, port },
      { host: 'localhost', port },
    ],
  })
  t.like(await does('Remove-KeyManagementServer', 'kms-2', `localhost:${port}`), { servers: [{ host }] })
  t.is((await does<unknown[]>('Get-KeyProvider')).length, 2)
  t.is((await does<unknown[]>('Get-KmsCluster')).length, 2)
  t.deepEqual(await does('Set-KmsCluster', 'kms-2'), { default: 'kms-2' })
  t.deepEqual(await does('Set-KeyProvider', 'kms-1'), { default: 'kms-1' })
  t.like(await does('Get-KeyManagementServer', 'kms-1'), { id: 'kms-1', status: 'green' })

  // Hosts, clusters.
  t.like(await does('Enable-VMHostCryptoSafe', 'esx-1'), { host: 'esx-1', cryptoState: 'safe' })
  const [before] = await does<{ cryptoKeyId: { keyId: string } }[]>('Get-VMHost')
  await does('Set-VMHostCryptoKey', 'esx-1')
  const [after] = await answer<{ cryptoKeyId: { keyId: string } }[]>('host', 'list')
  t.not(after?.cryptoKeyId.keyId, before?.cryptoKeyId.keyId)
  t.like(await does('New-Cluster', 'test'), { name: 'test' })
  t.deepEqual(
    (await does<{ name: string }[]>('Get-Cluster')).map(({ name }) => name),
    ['prod', 'test'],
  )
  t.like(await does('Set-Cluster', 'test', 'spare'), { name: 'spare' })
  t.is(await does('Remove-Cluster', 'spare'), null as never)
  t.is((await answer<unknown[]>('cluster', 'list')).length, 1)

  // A VM, from plain to encrypted and back.
  const place = ['--cluster', 'prod', '--datastore', 'ds1']
  await does('New-VM', 'web01', ...place, '--disk', '1M', '--disk', '1M', '--set', 'memsize=512')
  const { file } = await site.image('db01')
  await answer('vm', 'import', 'db01', file, ...place)
  const encrypted = await does<VirtualMachineInfo>('Enable-VMEncryption', 'db01')
  t.truthy(encrypted.homeKey)
  t.is(encrypted.disks[0]?.key?.keyId, encrypted.homeKey?.keyId, 'one key for the whole VM')
  t.deepEqual(await does('Get-VMEncryptionInfo', 'db01'), { ...encrypted })
  const keyId = encrypted.homeKey?.keyId ?? ''
  const [status] = await does<KeyStatus[]>('Get-EntityByCryptoKey', keyId)
  t.like(status, { available: true, state: 'Active', virtualMachines: ['db01'], hosts: ['esx-1'] })
  const shallow = await does<VirtualMachineInfo>('Set-VMEncryptionKey', 'db01')
  t.not(shallow.homeKey?.keyId, keyId)
  t.is(shallow.disks[0]?.file, encrypted.disks[0]?.file, 'no data was touched')
  const deep = await answer<VirtualMachineInfo>('set-vmencryptionkey', 'db01', '--deep')
  t.not(deep.disks[0]?.file, encrypted.disks[0]?.file)

  await answer('vm', 'encrypt', 'web01', '--home-only')
  const one = await does<VirtualMachineInfo>('Enable-VMDiskEncryption', 'web01', 'scsi0:1')
  t.deepEqual(
    one.disks.map(({ key }) => key !== undefined),
    [false, true],
  )
  const again = await does<VirtualMachineInfo>('Set-VMDiskEncryptionKey', 'web01', 'scsi0:1')
  t.not(again.disks[1]?.key?.keyId, one.disks[1]?.key?.keyId)
  t.is(again.homeKey?.keyId, one.homeKey?.keyId)
  const none = await does<VirtualMachineInfo>('Disable-VMDiskEncryption', 'web01', 'scsi0:1')
  t.is(none.disks[1]?.key, undefined)

  // Snapshots, compliance.
  await does('New-Snapshot', 'db01', 'clean')
  t.like((await does<object[]>('Get-Snapshot', 'db01'))[0], { name: 'clean' })
  await does('Remove-Snapshot', 'db01', 'clean', '--yes')
  t.deepEqual(await answer('vm', 'snapshot', 'list', 'db01'), [])
  t.like((await does<object[]>('Get-SpbmEntityConfiguration', 'db01'))[0], { status: 'compliant' })

  // Power, locks.
  t.like(await does('Start-VM', 'db01'), { powerState: 'poweredOn' })
  t.is(await refused(2, 'vm', 'decrypt', 'db01'), 'VMSEAL_INVALID_POWER_STATE')
  t.like(await does('Stop-VM', 'db01'), { powerState: 'poweredOff' })
  t.like(await does('Move-VM', 'db01', 'esx-1'), { host: 'esx-1', cryptoState: 'unlocked' })
  await answer('key', 'remove', `kms-1/${deep.homeKey?.keyId}`, '--force')
  const lockedVm = await answer<VirtualMachineInfo>('vm', 'show', 'db01')
  t.is(lockedVm.cryptoState, 'locked')
  t.regex(await text('vm', 'show', 'db01'), /MISSING KEY .*WHAT TO DO/)
  t.is((await answer<unknown[]>('vm', 'list', '--crypto', 'locked')).length, 1)
  t.like(await does('Unlock-VM', 'db01'), { cryptoState: 'unlocked' })
  t.like(await does('Set-VMCryptoUnlock', 'db01'), { cryptoState: 'unlocked' })
  t.deepEqual(
    (await does<{ name: string }[]>('Get-VM', 'db*')).map(({ name }) => name),
    ['db01'],
  )

  // All of a provider to another one, then back to plain.
  const rekeyed = await answer<RekeyResult>('rekey', '--provider', 'kms-1', '--new-provider', 'kms-2')
  t.true(rekeyed.virtualMachines.every(({ state }) => state === 'done'))
  t.like(await does('Disable-VMEncryption', 'db01'), { homeKey: undefined, policy: 'Datastore Default' })
  t.like(await does('Set-vMotionEncryptionConfig', 'db01', '--migrate-encryption', 'disabled'), {
    migrateEncryption: 'disabled',
  })
  await does('Remove-VM', 'db01', '--yes')
  t.is(await refused(2, 'vm', 'show', 'db01'), 'VMSEAL_NOT_FOUND')
  t.deepEqual(await does('Remove-KeyProvider', 'kms-1'), { provider: 'kms-1' })

  // Policies, privileges, events, tasks.
  t.like(await does('New-SpbmStoragePolicy', 'Gold', '--encrypted'), { encryption: true })
  t.true((await does<{ name: string }[]>('Get-SpbmStoragePolicy')).some(({ name }) => name === encryption))
  t.like(await does('Set-SpbmStoragePolicy', 'Gold', '--plain'), { encryption: false, version: 2 })
  t.deepEqual(await does('Remove-SpbmStoragePolicy', 'Gold'), { policy: 'Gold' })
  await answer('user', 'create', 'anna')
  await does('New-VIPermission', 'anna', 'Read-only', '--on', 'cluster:prod')
  t.like((await does<object[]>('Get-VIPermission'))[0], { user: 'anna', object: 'cluster prod' })
  t.true((await does<unknown[]>('Get-VIRole')).length >= 4)
  t.true((await does<string[]>('Get-VIPrivilege')).includes('Cryptographer.Encrypt'))
  t.true((await does<unknown[]>('Get-VIEvent')).length > 10)
  const [task] = await does<{ id: string; state: string }[]>('Get-Task')
  t.is(task?.state, 'success')
  used.add('Wait-Task')
  const watched = await call('Wait-Task', task?.id ?? '')
  t.deepEqual([watched.status, watched.stdout.includes('success')], [0, true])
  used.add('Stop-Task')
  t.is(await refused(2, 'Stop-Task', task?.id ?? ''), 'VMSEAL_NOT_FOUND', 'it has ended')

  t.deepEqual(
    cmdlets.map(({ name }) => name).filter((name) => !used.has(name)),
    [],
  )
})

test.serial('a cmdlet keeps the options before it; what is no cmdlet stays', async (t) => {
  const { call } = await administer(t, { hosts: [], provider: false })
  t.is((await call('--json', 'get-vm')).stdout, '[]\n')
  t.is((await call('Get-VMs')).status, 2)
  t.is((await call('vm', 'Get-VM')).status, 2)
})
