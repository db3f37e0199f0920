/** kill -9 after each change in the VM's folder while it is recrypted. */
import { randomBytes } from 'node:crypto'
import { rm } from 'node:fs/promises'
import test, { type ExecutionContext } from 'ava'
import { native } from '../../src/native/load.js'
import type { CryptoSpec } from '../../src/rpc/host-api.js'
import { guestDigests, idOf, install, makeLab, makeVm, type Kek, type Lab, type MadeVm } from './fixture.js'
import { convertAndKill } from './killed-conversion.js'

const keyIds = ['kek', 'new'] as const

async function recryptAndKill(t: ExecutionContext, action: string, changes: number) {
  const lab = await makeLab(t)
  const secret = randomBytes(64)
  const [old, next] = keyIds.map((keyId, index) => ({
    keyId,
    providerId: 'kms-1',
    handle: native.KeyHandle.importUnsafe(Buffer.from(secret.subarray(index * 32, index * 32 + 32))),
  })) as [Kek, Kek]
  await install(lab.host, old, next)
  const vm = await makeVm(lab, { homeKey: old, diskKey: old, bytes: 1024 * 1024 })
  const done = await convertAndKill(lab, action, secret, { changes })
  return { lab, old, next, vm, done }
}

async function again(lab: Lab, vm: MadeVm, type: 'shallowRecrypt' | 'deepRecrypt', next: Kek) {
  const crypto: CryptoSpec = { type, newKey: idOf(next) }
  const { disks } = await lab.host.readVirtualMachine(vm.reference)
  return lab.host.reconfigureVirtualMachine(vm.reference, {
    home: crypto,
    disks: disks.map(({ diskId }) => ({ diskId, crypto })),
  })
}

test('D3: a shallow recrypt killed anywhere: every part opens with one of the KEKs, again heals', async (t) => {
  let interrupted = 0
  const mixtures = new Set<string>()
  for (const changes of [1, 3, 5, 8, 11, 14, 17, 20, 23, 26, 30]) {
    const why = `killed after ${changes} changes`
    const { lab, old, next, vm, done } = await recryptAndKill(t, 'shallowRecrypt', changes)
    if (!done) interrupted += 1
    t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests], why)
    const half = await lab.host.readVirtualMachine(vm.reference)
    const named = [
      { key: half.homeKey, former: half.homeFormerKeys ?? [] },
      ...half.disks.map(({ key, formerKeys }) => ({ key, former: formerKeys ?? [] })),
    ]
    mixtures.add(JSON.stringify(named.map(({ key, former }) => [key?.keyId, ...former.map((f) => f.keyId)])))
    // One of the keys that a part names is enough for it.
    for (const gone of [old, next]) {
      await lab.host.removeKey(idOf(gone))
      const left = gone === old ? next : old
      for (const [index, { diskId }] of half.disks.entries()) {
        const { key, former } = named[index + 1]!
        if (![key, ...former].some((one) => one?.keyId === left.keyId)) continue
        t.is((await lab.host.digestDisk(vm.reference, diskId)).sha256, vm.digests[index]!, why)
      }
      await install(lab.host, gone)
    }
    const healed = await again(lab, vm, 'shallowRecrypt', next)
    const keys = [healed.homeKey, ...healed.disks.map(({ key }) => key)].map((key) => key?.keyId)
    t.deepEqual(keys, ['new', 'new', 'new'], why)
    t.true([healed, ...healed.disks].every((part) => !('formerKeys' in part || 'homeFormerKeys' in part)))
    await lab.host.removeKey(idOf(old))
    await lab.host.powerOn(vm.reference)
    t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests], why)
    await lab.host.powerOff(vm.reference)
    await rm(lab.datastore, { recursive: true })
  }
  t.true(interrupted > 3, `${interrupted} kills came in the middle`)
  t.true(mixtures.size > 2, [...mixtures].join(' '))
})

test('D2: a deep recrypt killed anywhere: wholly old or wholly new, and again ends it', async (t) => {
  let interrupted = 0
  for (const changes of [2, 5, 9, 14, 20, 28]) {
    const why = `killed after ${changes} changes`
    const { lab, old, next, vm, done } = await recryptAndKill(t, 'deepRecrypt', changes)
    if (!done) interrupted += 1
    t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests], why)
    const config = await lab.host.readVirtualMachine(vm.reference)
    t.is(new Set([config.homeKey, ...config.disks.map(({ key }) => key)].map((k) => k?.keyId)).size, 1, why)
    if (config.homeKey?.keyId === old.keyId) await again(lab, vm, 'deepRecrypt', next)
    await lab.host.removeKey(idOf(old))
    await lab.host.powerOn(vm.reference)
    t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests], why)
    await lab.host.powerOff(vm.reference)
    await rm(lab.datastore, { recursive: true })
  }
  t.true(interrupted > 1, `${interrupted} kills came in the middle`)
})
