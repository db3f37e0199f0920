/** kill -9 in the middle of conversions in place, and after each change in the VM's folder. */
import { randomBytes } from 'node:crypto'
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { native } from '../../src/native/load.js'
import type { CryptoSpec } from '../../src/rpc/host-api.js'
import {
  decrypt,
  encryptWith,
  filesWith,
  guestDigests,
  idOf,
  install,
  makeLab,
  makeVm,
  marker,
  type Kek,
} from './fixture.js'
import { convertAndKill, type Moment } from './killed-conversion.js'

const bytes = 6 * 1024 * 1024

type Action = 'encrypt' | 'decrypt' | 'deepRecrypt'

/** What a crash may leave: each disk in one form or in conversion, and every byte there. */
async function crash(
  t: ExecutionContext,
  action: Action,
  moment: Moment,
): Promise<'done' | 'whole' | 'half'> {
  const why = `${action} ${JSON.stringify(moment)}`
  const lab = await makeLab(t)
  const { host } = lab
  const secret = randomBytes(64)
  const [kek, next] = ['kek', 'new'].map((keyId, index) => ({
    keyId,
    providerId: 'kms-1',
    handle: native.KeyHandle.importUnsafe(Buffer.from(secret.subarray(index * 32, index * 32 + 32))),
  })) as [Kek, Kek]
  await install(host, kek, next)
  const sealed = action !== 'encrypt' && { homeKey: kek, diskKey: kek }
  const vm = await makeVm(lab, { bytes, ...sealed })
  const done = await convertAndKill(lab, `${action}:inPlace`, secret, moment)

  const { reference } = vm
  const left = await host.readVirtualMachine(reference)
  const half = left.disks.some(({ conversion }) => conversion !== undefined)
  if (half) {
    await t.throwsAsync(host.powerOn(reference), { code: 'VMSEAL_DISK_IN_CONVERSION' }, why)
    await host.resumeConversion(reference)
  }
  t.deepEqual(await guestDigests(host, vm), [...vm.digests], `${why}: contents`)
  // The rest, by the same change of what it has not reached.
  const specs: Record<Action, CryptoSpec> = {
    encrypt: encryptWith(kek),
    decrypt,
    deepRecrypt: { type: 'deepRecrypt', newKey: idOf(next) },
  }
  const wanted = { encrypt: 'kek', decrypt: undefined, deepRecrypt: 'new' }[action]
  const now = await host.readVirtualMachine(reference)
  const disks = now.disks.filter(({ key }) => key?.keyId !== wanted)
  const home = now.homeKey?.keyId === wanted ? {} : { home: specs[action] }
  const rest = disks.map(({ diskId }) => ({ diskId, crypto: specs[action] }))
  await host.reconfigureVirtualMachine(reference, { conversion: 'inPlace', ...home, disks: rest })
  t.deepEqual(await guestDigests(host, vm), [...vm.digests], `${why}: contents after the rest`)
  const names = await readdir(join(lab.datastore, 'db01'))
  t.deepEqual(names.filter((name) => /-(job|copy|task)$|\.lck$|\.tmp-/.test(name)), [], why) // prettier-ignore
  if (action === 'encrypt') t.deepEqual(await filesWith(lab, marker.trim()), [], why)
  await host.powerOn(reference)
  await rm(lab.datastore, { recursive: true })
  return done ? 'done' : half ? 'half' : 'whole'
}

const counts: Readonly<Record<Action, readonly number[]>> = {
  encrypt: [2, 6, 11, 16, 20, 24, 28, 33, 40, 50],
  decrypt: [2, 8, 14, 20, 27, 36],
  deepRecrypt: [4, 12, 18, 24, 31, 40],
}

for (const action of ['encrypt', 'decrypt', 'deepRecrypt'] as const)
  test(`B8: killed after the n-th change in the folder, in place: ${action}`, async (t) => {
    const outcomes: string[] = []
    for (const changes of counts[action]) outcomes.push(await crash(t, action, { changes }))
    t.true(
      outcomes.some((outcome) => outcome !== 'done'),
      outcomes.join(),
    )
    t.true(outcomes.includes('half'), outcomes.join())
    t.log(outcomes.join(' '))
  })
