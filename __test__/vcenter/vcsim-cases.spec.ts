/**
 * Row L3: the encrypt, decrypt and recrypt cases that vcsim is tested with, as behaviour: what a VM is, what is asked of it, and the key
 * it has then or the fault. Where vmseal answers otherwise, the case says so.
 */
import { appendFile } from 'node:fs/promises'
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
  readonly encrypted?: true
  readonly on?: true
  readonly snapshots?: number
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
  { name: 'encrypt with a key', ask: encrypt(withOwn), key: own },
  { name: 'encrypt with the default provider', ask: encrypt(), newKeyOf: 'kms-1' },
  { name: 'encrypt with a new key of a named provider', ask: encrypt(ofOther), newKeyOf: 'kms-2' },
  // Asking for what is so already is no failure here; another key would be a recrypt.
  { name: 'encrypt, encrypted already', encrypted: true, ask: encrypt(), kept: true },
  { name: 'encrypt with another key, encrypted already', encrypted: true, ask: encrypt(withOwn), fault: 'VMSEAL_INVALID_STATE' },
  { name: 'encrypt, powered on', on: true, ask: encrypt(withOwn), fault: 'VMSEAL_INVALID_POWER_STATE' },
  { name: 'encrypt, with snapshots', snapshots: 1, ask: encrypt(withOwn), fault: 'VMSEAL_SNAPSHOTS_EXIST' },
  { name: 'decrypt', encrypted: true, ask: decrypt, plain: true },
  { name: 'decrypt, not encrypted: nothing to do', ask: decrypt, plain: true },
  { name: 'decrypt, powered on', encrypted: true, on: true, ask: decrypt, fault: 'VMSEAL_INVALID_POWER_STATE' },
  { name: 'decrypt, with snapshots', encrypted: true, snapshots: 1, ask: decrypt, fault: 'VMSEAL_SNAPSHOTS_EXIST' },
  { name: 'deep recrypt', encrypted: true, ask: recrypt('deep', underForeign), key: foreign },
  { name: 'deep recrypt with the default provider', encrypted: true, ask: recrypt('deep'), newKeyOf: 'kms-1' },
  { name: 'deep recrypt with a new key of a named provider', encrypted: true, ask: recrypt('deep', ofOther), newKeyOf: 'kms-2' },
  { name: 'deep recrypt within the provider', encrypted: true, ask: recrypt('deep', underSecond), key: second },
  { name: 'deep recrypt, not encrypted', ask: recrypt('deep', underForeign), fault: 'VMSEAL_INVALID_STATE' },
  { name: 'deep recrypt, powered on', encrypted: true, on: true, ask: recrypt('deep', underForeign), fault: 'VMSEAL_INVALID_POWER_STATE' },
  { name: 'deep recrypt, with snapshots', encrypted: true, snapshots: 1, ask: recrypt('deep', underForeign), fault: 'VMSEAL_SNAPSHOTS_EXIST' },
  { name: 'shallow recrypt', encrypted: true, ask: recrypt('shallow', underForeign), key: foreign },
  { name: 'shallow recrypt with the default provider', encrypted: true, ask: recrypt('shallow'), newKeyOf: 'kms-1' },
  { name: 'shallow recrypt with a new key of a named provider', encrypted: true, ask: recrypt('shallow', ofOther), newKeyOf: 'kms-2' },
  { name: 'shallow recrypt within the provider', encrypted: true, ask: recrypt('shallow', underSecond), key: second },
  { name: 'shallow recrypt, not encrypted', ask: recrypt('shallow', underForeign), fault: 'VMSEAL_INVALID_STATE' },
  { name: 'shallow recrypt, powered on', encrypted: true, on: true, ask: recrypt('shallow', underForeign), key: foreign },
  { name: 'shallow recrypt, one snapshot', encrypted: true, snapshots: 1, ask: recrypt('shallow', underForeign), key: foreign },
  { name: 'nothing asked for', encrypted: true, ask: (vm) => vm.applyPolicy({}).done, kept: true },
  { name: 'the keys are sent again, and nothing else', encrypted: true, ask: (vm) => vm.unlock(), kept: true },
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
    if (one.snapshots !== undefined)
      await appendFile(
        path.join(site.datastore, name, `${name}.vmsd`),
        `snapshot.numSnapshots = "${one.snapshots}"\n`,
      )
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
  t.true(cases.length >= 24)
})
