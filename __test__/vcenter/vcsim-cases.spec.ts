/**
 * Row L3: the encrypt, decrypt and recrypt cases that vcsim is tested with, as behaviour: what a VM is, what is asked of it, and the key
 * it has then or the fault. Where vmseal answers otherwise, the case says so.
 */
import path from 'node:path'
import test from 'ava'
import { Kms, isVmsealError, type CryptoKeyId, type ErrorCode, type VirtualMachine } from '../../src/index.js'
import { encryption, openSite, plain } from './site.js'

interface Keys {
  /** Of the default provider. */
  readonly own: CryptoKeyId
  readonly second: CryptoKeyId
  /** Of a provider that is not the default. */
  readonly foreign: CryptoKeyId
}

interface Case {
  readonly name: string
  /** Its name in vcsim's table; absent: it is ours besides. */
  readonly vcsim?: string
  readonly encrypted?: true
  readonly on?: true
  /** A single chain, or a tree with branches. */
  readonly snapshots?: 'chain' | 'tree'
  readonly ask: (vm: VirtualMachine, keys: Keys) => Promise<unknown>
  /** The key of VM home afterwards: an existing one, a new one of a provider, none, or the one it had. */
  readonly key?: (keys: Keys) => CryptoKeyId
  readonly newKeyOf?: 'kms-1' | 'kms-2'
  readonly plain?: true
  readonly kept?: true
  readonly fault?: ErrorCode
}

const encrypt =
  (options: (keys: Keys) => object = () => ({})) =>
  (vm: VirtualMachine, keys: Keys) =>
    vm.applyPolicy({ home: encryption, disks: encryption }, options(keys)).done
const decrypt = (vm: VirtualMachine) => vm.applyPolicy({ home: plain, disks: plain }).done
const recrypt =
  (depth: 'shallow' | 'deep', options: (keys: Keys) => object = () => ({})) =>
  (vm: VirtualMachine, keys: Keys) =>
    vm.recrypt({ depth, ...options(keys) }).done
const withOwn = ({ own }: Keys) => ({ keyIds: { home: own, disks: { 'scsi0:0': own } } })
const underForeign = ({ foreign }: Keys) => ({ key: foreign })
const underSecond = ({ second }: Keys) => ({ key: second })
const ofOther = () => ({ keyProvider: 'kms-2' })
const own = (keys: Keys) => keys.own
const second = (keys: Keys) => keys.second
const foreign = (keys: Keys) => keys.foreign

const cases: readonly Case[] = [
  { name: 'encrypt with a key', vcsim: 'encrypt', ask: encrypt(withOwn), key: own },
  { name: 'encrypt with the default provider', vcsim: 'encrypt w default key provider', ask: encrypt(), newKeyOf: 'kms-1' },
  { name: 'encrypt with a new key of a named provider', vcsim: 'encrypt w generated key', ask: encrypt(ofOther), newKeyOf: 'kms-2' },
  // Asking for what is so already is no failure here; another key would be a recrypt.
  { name: 'encrypt, encrypted already', encrypted: true, ask: encrypt(), kept: true },
  { name: 'encrypt with another key, encrypted already', vcsim: 'encrypt w already encrypted', encrypted: true, ask: encrypt(withOwn), fault: 'VMSEAL_INVALID_STATE' },
  { name: 'encrypt, powered on', vcsim: 'encrypt w powered on', on: true, ask: encrypt(withOwn), fault: 'VMSEAL_INVALID_POWER_STATE' },
  { name: 'encrypt, with snapshots', vcsim: 'encrypt w snapshots', snapshots: 'chain', ask: encrypt(withOwn), fault: 'VMSEAL_SNAPSHOTS_EXIST' },
  { name: 'decrypt', vcsim: 'decrypt', encrypted: true, ask: decrypt, plain: true },
  { name: 'decrypt, not encrypted: nothing to do', vcsim: 'decrypt w not encrypted', ask: decrypt, plain: true },
  { name: 'decrypt, powered on', vcsim: 'decrypt w powered on', encrypted: true, on: true, ask: decrypt, fault: 'VMSEAL_INVALID_POWER_STATE' },
  { name: 'decrypt, with snapshots', vcsim: 'decrypt w snapshots', encrypted: true, snapshots: 'chain', ask: decrypt, fault: 'VMSEAL_SNAPSHOTS_EXIST' },
  { name: 'deep recrypt', vcsim: 'deep recrypt', encrypted: true, ask: recrypt('deep', underForeign), key: foreign },
  { name: 'deep recrypt with the default provider', vcsim: 'deep recrypt w default key provider', encrypted: true, ask: recrypt('deep'), newKeyOf: 'kms-1' },
  { name: 'deep recrypt with a new key of a named provider', vcsim: 'deep recrypt w generated key', encrypted: true, ask: recrypt('deep', ofOther), newKeyOf: 'kms-2' },
  { name: 'deep recrypt within the provider', vcsim: 'deep recrypt w same provider id', encrypted: true, ask: recrypt('deep', underSecond), key: second },
  { name: 'deep recrypt, not encrypted', vcsim: 'deep recrypt w not encrypted', ask: recrypt('deep', underForeign), fault: 'VMSEAL_INVALID_STATE' },
  { name: 'deep recrypt, powered on', vcsim: 'deep recrypt w powered on', encrypted: true, on: true, ask: recrypt('deep', underForeign), fault: 'VMSEAL_INVALID_POWER_STATE' },
  { name: 'deep recrypt, with snapshots', vcsim: 'deep recrypt w snapshots', encrypted: true, snapshots: 'chain', ask: recrypt('deep', underForeign), fault: 'VMSEAL_SNAPSHOTS_EXIST' },
  { name: 'shallow recrypt', vcsim: 'shallow recrypt', encrypted: true, ask: recrypt('shallow', underForeign), key: foreign },
  { name: 'shallow recrypt with the default provider', vcsim: 'shallow recrypt w default key provider', encrypted: true, ask: recrypt('shallow'), newKeyOf: 'kms-1' },
  { name: 'shallow recrypt with a new key of a named provider', vcsim: 'shallow recrypt w generated key', encrypted: true, ask: recrypt('shallow', ofOther), newKeyOf: 'kms-2' },
  { name: 'shallow recrypt within the provider', vcsim: 'shallow recrypt w same provider id', encrypted: true, ask: recrypt('shallow', underSecond), key: second },
  { name: 'shallow recrypt, not encrypted', vcsim: 'shallow recrypt w not encrypted', ask: recrypt('shallow', underForeign), fault: 'VMSEAL_INVALID_STATE' },
  { name: 'shallow recrypt, powered on', encrypted: true, on: true, ask: recrypt('shallow', underForeign), key: foreign },
  { name: 'shallow recrypt, one snapshot', vcsim: 'shallow recrypt w single snapshot chain', encrypted: true, snapshots: 'chain', ask: recrypt('shallow', underForeign), key: foreign },
  { name: 'shallow recrypt, snapshots that branch', vcsim: 'shallow recrypt w snapshot tree', encrypted: true, on: true, snapshots: 'tree', ask: recrypt('shallow', underForeign), fault: 'VMSEAL_DISK_CHAIN' },
  { name: 'nothing asked for', vcsim: 'noop', encrypted: true, ask: (vm) => vm.applyPolicy({}).done, kept: true },
  { name: 'the keys are sent again, and nothing else', vcsim: 'register', encrypted: true, ask: (vm) => vm.unlock(), kept: true },
] // prettier-ignore

test('L3: the encrypt, decrypt and recrypt cases of vcsim: the resulting key, or the fault and nothing else', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vcenter } = site
  const other = await Kms.start({ directory: path.join(site.directory, 'kms-2') })
  t.teardown(() => other.stop())
  let madeThere = 0
  other.on('operation', ({ operation }) => (madeThere += Number(operation === 'Create')))
  const credentials = await other.enrol('vcenter')
  await vcenter.keyProviders.add({ id: 'kms-2', servers: [other.endpoint], credentials })
  const make = (providerId: string) => vcenter.keyProviders.keys.create({ providerId })
  const keys = { own: await make('kms-1'), second: await make('kms-1'), foreign: await make('kms-2') }
  for (const [index, one] of cases.entries()) {
    const name = `vm-${index}`
    const vm = await vcenter.virtualMachines.create({
      name, cluster: site.cluster, datastore: 'ds1', disks: [{ capacityBytes: 4096 }],
      ...(one.encrypted && { policy: encryption }),
    }) // prettier-ignore
    if (one.snapshots) await vm.createSnapshot({ name: 'root' }).done
    for (const branch of one.snapshots === 'tree' ? ['snap-0', 'snap-1'] : []) {
      await vm.createSnapshot({ name: branch }).done
      await vm.revertToSnapshot('root').done
    }
    if (one.on) await vm.powerOn()
    const before = await vm.info()
    const { sha256 } = await vm.digest('scsi0:0')
    site.seen('Create')
    madeThere = 0
    const error = await one.ask(vm, keys).then(
      () => undefined,
      (reason: unknown) => reason,
    )
    const after = await vm.info()
    const made = { 'kms-1': site.seen('Create'), 'kms-2': madeThere }
    const expectedNew = { 'kms-1': 0, 'kms-2': 0, ...(one.newKeyOf && { [one.newKeyOf]: 1 }) }
    t.deepEqual(made, expectedNew, `${one.name}: keys made`)
    t.is(isVmsealError(error) ? error.code : error, one.fault, one.name)
    const all = [after.homeKey, after.disks[0]?.key]
    if (one.fault || one.kept) t.deepEqual(after, before, one.name)
    else if (one.plain) t.deepEqual(all, [undefined, undefined], one.name)
    else if (one.newKeyOf) {
      t.deepEqual(all.map((key) => key?.providerId), [one.newKeyOf, one.newKeyOf], one.name) // prettier-ignore
      t.notDeepEqual(after.homeKey, before.homeKey, one.name)
    } else if (one.key) t.deepEqual(all, [one.key(keys), one.key(keys)], one.name)
    t.is((await vm.digest('scsi0:0')).sha256, sha256, one.name)
  }
})

test('L3: the table has each of the 26 cases of vcsim once: 24 that change or refuse something, no-op and register', (t) => {
  const each = (operation: string, ...more: string[]) => [
    operation,
    ...more.map((with_) => `${operation} w ${with_}`),
  ]
  const keys = ['default key provider', 'generated key']
  const refused = ['not encrypted', 'powered on', 'snapshots']
  const all = [
    ...each('encrypt', ...keys, 'already encrypted', 'powered on', 'snapshots'),
    ...each('decrypt', ...refused),
    ...each('deep recrypt', ...keys, 'same provider id', ...refused),
    ...each(
      'shallow recrypt',
      ...keys,
      'same provider id',
      'not encrypted',
      'single snapshot chain',
      'snapshot tree',
    ),
  ]
  t.is(all.length, 24)
  t.deepEqual(cases.flatMap(({ vcsim = [] }) => vcsim).toSorted(), [...all, 'noop', 'register'].toSorted())
})
