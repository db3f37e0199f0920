/** Rows F1, F5 and A13 of the feature table: a real host in every encryption mode. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { randomUUID } from 'node:crypto'
import test, { type ExecutionContext } from 'ava'
import { Host } from '../../src/host/host.js'
import { native } from '../../src/native/load.js'
import type { HostCryptoState } from '../../src/rpc/host-api.js'
import { encryptWith, idOf, makeKek, makeLab, makeVm, sealFor, type Kek } from './fixture.js'

async function startHost(t: ExecutionContext): Promise<Host> {
  const directory = await mkdtemp(`${tmpdir()}/vmseal-mode-`)
  const host = await Host.start({ name: `esx-${randomUUID()}`, datastores: { ds1: directory } })
  t.teardown(async () => {
    await host.stop()
    await rm(directory, { recursive: true })
  })
  return host
}

async function enable(host: Host, hostKey: Kek): Promise<void> {
  await host.enableCrypto(await sealFor(host, hostKey))
}

const ways: Record<HostCryptoState, (host: Host) => Promise<void>> = {
  incapable: async () => {},
  prepared: (host) => host.prepareCrypto(),
  safe: async (host) => {
    await host.prepareCrypto()
    await enable(host, makeKek('host-key'))
  },
  pendingIncapable: async (host) => {
    await ways.safe(host)
    await host.disableCrypto()
  },
}

for (const [state, reach] of Object.entries(ways) as [HostCryptoState, (host: Host) => Promise<void>][])
  test(`F1: a host that is ${state} says so, ${state === 'safe' ? 'takes' : 'refuses'} keys of VMs, and is incapable after a restart`, async (t) => {
    const host = await startHost(t)
    await reach(host)
    const identity = await host.identify()
    t.is(identity.cryptoState, state)
    t.is(identity.cryptoKeyId?.keyId, state === 'safe' ? 'host-key' : undefined)
    const kek = makeKek()
    const sealed = await sealFor(host, kek)
    if (state === 'safe') {
      await host.installKey(sealed)
      t.deepEqual(await host.listKeys(), [idOf(kek)], 'the host key is not among them')
    } else {
      await t.throwsAsync(host.installKey(sealed), { code: 'VMSEAL_INVALID_STATE', message: /not safe/ })
      const spec = { vmId: randomUUID(), name: 'db01', datastore: 'ds1', disks: [] }
      await t.throwsAsync(host.createVirtualMachine({ ...spec, homeKey: idOf(kek) }), {
        code: 'VMSEAL_INVALID_STATE',
      })
      // A plain VM needs no mode; encrypting it does.
      const vm = await host.createVirtualMachine(spec)
      await t.throwsAsync(host.reconfigureVirtualMachine(vm, { home: encryptWith(kek) }), {
        code: 'VMSEAL_INVALID_STATE',
      })
      await t.throwsAsync(host.changeHostKey(await sealFor(host, makeKek())), {
        code: 'VMSEAL_INVALID_STATE',
      })
    }
    await host.restart()
    const after = await host.identify()
    t.is(after.cryptoState, 'incapable')
    t.is(after.cryptoKeyId, undefined)
  })

test('F1: a safe host takes its own host key again and refuses every other one', async (t) => {
  const host = await startHost(t)
  const hostKey = makeKek('host-key')
  await t.throwsAsync(enable(host, hostKey), { code: 'VMSEAL_INVALID_STATE', message: /prepare it first/ })
  await host.prepareCrypto()
  await t.throwsAsync(host.prepareCrypto(), { code: 'VMSEAL_INVALID_STATE' })
  await enable(host, hostKey)
  await enable(host, hostKey)
  for (const other of [makeKek('other'), makeKek('host-key'), { ...hostKey, providerId: 'kms-2' }])
    await t.throwsAsync(enable(host, other), { code: 'VMSEAL_ALREADY_EXISTS', message: /host-key of kms-1/ })
  t.is((await host.identify()).cryptoKeyId?.keyId, 'host-key')
})

test('F1: a host key comes sealed like any other: altered, repeated and misdirected ones are refused', async (t) => {
  const host = await startHost(t)
  const other = await startHost(t)
  await host.prepareCrypto()
  const sealed = await sealFor(host, makeKek('host-key'))
  await t.throwsAsync(host.enableCrypto({ ...sealed, keyId: 'other' }), { code: 'VMSEAL_SEAL_INVALID' })
  await t.throwsAsync(host.enableCrypto(await sealFor(other, makeKek())), { code: 'VMSEAL_SEAL_INVALID' })
  t.is((await host.identify()).cryptoState, 'prepared')
  await host.enableCrypto(sealed)
  await t.throwsAsync(host.enableCrypto(sealed), { code: 'VMSEAL_SEAL_REPLAYED' })
  await t.throwsAsync(host.installKey(sealed), { code: 'VMSEAL_SEAL_REPLAYED' })
})

test.serial(
  'F5, A13: disabling needs a host without keys, wipes the host key, and is over after a restart',
  async (t) => {
    const lab = await makeLab(t)
    const { host } = lab
    const kek = makeKek()
    const hostless = native.keyMemoryStatus().allocations - 1
    await host.installKey(await sealFor(host, kek))
    const vm = await makeVm(lab, { homeKey: kek })
    await t.throwsAsync(host.disableCrypto(), { code: 'VMSEAL_INVALID_STATE', message: /1 keys of VMs/ })
    await host.powerOn(vm.reference)
    await host.removeKey(idOf(kek))
    await t.throwsAsync(host.disableCrypto(), { code: 'VMSEAL_INVALID_STATE', message: /powered on/ })
    await host.powerOff(vm.reference)
    await host.disableCrypto()
    t.is(native.keyMemoryStatus().allocations, hostless, 'no host key, no VM key, no DEK')
    await t.throwsAsync(host.disableCrypto(), { code: 'VMSEAL_INVALID_STATE' })
    await t.throwsAsync(host.prepareCrypto(), { code: 'VMSEAL_INVALID_STATE', message: /restart the host/ })
    await host.restart()
    await t.throwsAsync(host.disableCrypto(), { code: 'VMSEAL_INVALID_STATE' }, 'it is off already')
    await host.prepareCrypto()
    t.is((await host.identify()).cryptoState, 'prepared')
  },
)
