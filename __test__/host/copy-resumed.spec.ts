/** A conversion to a copy that was killed: the same request goes on with it, any other use of the VM undoes it. */
import { randomBytes } from 'node:crypto'
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { native } from '../../src/native/load.js'
import type { CryptoSpec, ReconfigureSpec } from '../../src/rpc/host-api.js'
import {
  decrypt,
  encryptWith,
  guestDigests,
  idOf,
  install,
  makeKek,
  makeLab,
  makeVm,
  type Kek,
  type Lab,
  type MadeVm,
} from './fixture.js'
import { convertAndKill } from './killed-conversion.js'

/** Two stretches and a bit: after the first one the copy is there in part. */
const bytes = 144 * 1024 * 1024

async function killed(t: ExecutionContext, action: 'encrypt' | 'decrypt' | 'deepRecrypt') {
  const secret = randomBytes(64)
  const [kek, next] = ['kek', 'new'].map((keyId, index) => ({
    keyId,
    providerId: 'kms-1',
    handle: native.KeyHandle.importUnsafe(Buffer.from(secret.subarray(index * 32, index * 32 + 32))),
  })) as [Kek, Kek]
  const sealed = action !== 'encrypt' && { homeKey: kek, diskKey: kek }
  const halfDone = async (attempts: number): Promise<{ lab: Lab; vm: MadeVm }> => {
    const lab = await makeLab(t)
    await install(lab.host, kek, next)
    const vm = await makeVm(lab, { images: 1, bytes, ...sealed })
    if (!(await convertAndKill(lab, action, secret, { copied: 'part' }))) return { lab, vm }
    // On a busy machine this process may be late, and the other one done.
    t.true(attempts > 1, 'no kill came in the middle')
    await rm(lab.datastore, { recursive: true })
    return halfDone(attempts - 1)
  }
  const { lab, vm } = await halfDone(8)
  const specs: Record<typeof action, CryptoSpec> = {
    encrypt: encryptWith(kek),
    decrypt,
    deepRecrypt: { type: 'deepRecrypt', newKey: idOf(next) },
  }
  const crypto = specs[action]
  const request: ReconfigureSpec = {
    disks: vm.config.disks.map(({ diskId }) => ({ diskId, crypto })),
    home: crypto,
  }
  const names = () => readdir(join(lab.datastore, 'db01'))
  const isTidy = async () => {
    t.deepEqual((await names()).filter((name) => /-(job|copy|task)$|\.lck$|\.tmp-/.test(name)), []) // prettier-ignore
    t.is((await names()).filter((name) => name.endsWith('-flat.vmdk')).length, 1)
    t.deepEqual(await guestDigests(lab.host, vm), [...vm.digests])
  }
  return { lab, host: lab.host, vm, kek, next, request, names, isTidy }
}

for (const [action, keyId] of [
  ['encrypt', 'kek'],
  ['decrypt', undefined],
  ['deepRecrypt', 'new'],
] as const)
  test(`B8: a copy that was killed goes on where it stood: ${action}`, async (t) => {
    const { host, vm, request, isTidy } = await killed(t, action)
    t.deepEqual(await guestDigests(host, vm), [...vm.digests], 'the VM is whole in its old state')
    const half = await host.readVirtualMachine(vm.reference)
    t.deepEqual(half.interruptedKeys?.map(({ key }) => key.keyId), keyId && [keyId, keyId]) // prettier-ignore
    const steps = new Set<string>()
    const done = await host.reconfigureVirtualMachine(vm.reference, request, {
      onProgress: ({ step }) => void steps.add(step),
    })
    t.true(
      [...steps].some((step) => step.startsWith('go on with the copy')),
      [...steps].join(),
    )
    t.is(done.disks[0]?.key?.keyId, keyId)
    t.is(done.interruptedKeys, undefined)
    await isTidy()
    t.is((await host.powerOn(vm.reference)).powerState, 'poweredOn')
  })

test('another request, or power-on, undoes what a killed copy left', async (t) => {
  for (const use of ['power', 'other key'] as const) {
    const { host, vm, kek, request, names, isTidy } = await killed(t, 'encrypt')
    if (use === 'power') {
      await host.powerOn(vm.reference)
      t.deepEqual((await names()).filter((name) => name.startsWith('db01_')), []) // prettier-ignore
      await host.powerOff(vm.reference)
      await host.reconfigureVirtualMachine(vm.reference, request)
    } else {
      const other = makeKek()
      await install(host, other)
      const crypto = encryptWith(other)
      const disks = request.disks?.map(({ diskId }) => ({ diskId, crypto })) ?? []
      const steps = new Set<string>()
      await host.reconfigureVirtualMachine(
        vm.reference,
        { home: encryptWith(kek), disks },
        {
          onProgress: ({ step }) => void steps.add(step),
        },
      )
      t.false([...steps].some((step) => step.startsWith('go on')))
    }
    await isTidy()
  }
})

test('a copy whose record is damaged, or whose data was changed, never becomes the disk', async (t) => {
  for (const damage of ['record', 'data'] as const) {
    const { lab, host, vm, request, names, isTidy } = await killed(t, 'encrypt')
    const find = async (end: string) =>
      join(
        lab.datastore,
        'db01',
        (await names()).find((name) => name.startsWith('db01_') && name.endsWith(end)) ?? '',
      )
    if (damage === 'record') {
      await writeFile(await find('.vmseal-copy'), 'nothing of use')
      await host.reconfigureVirtualMachine(vm.reference, request)
    } else {
      const flat = await find('-flat.vmdk')
      const content = await readFile(flat)
      content.writeUInt8(content.readUInt8(1000) ^ 1, 1000)
      await writeFile(flat, content)
      // Found when it is read back, before the commit; the copy is gone then, and the next one is sound.
      const error = await t.throwsAsync(host.reconfigureVirtualMachine(vm.reference, request))
      t.regex(error?.message ?? '', /does not hold what the source holds/)
      t.is((await host.readVirtualMachine(vm.reference)).homeKey, undefined)
      await host.reconfigureVirtualMachine(vm.reference, request)
    }
    await isTidy()
  }
})
