import { randomUUID } from 'node:crypto'
import test, { type ExecutionContext } from 'ava'
import { VmsealError } from '../../src/errors.js'
import type { Host } from '../../src/host/host.js'
import { connectInProcess } from '../../src/rpc/in-process.js'
import type { HostApi, WorkProgress } from '../../src/rpc/host-api.js'
import {
  decrypt,
  encryptWith,
  guestDigests,
  idOf,
  install,
  makeKek,
  makeLab,
  makeVm,
  sealFor,
} from '../host/fixture.js'
import { serveHost } from './network.js'

/** The same host, and the same tests, in this process and across a network. */
const transports: readonly (readonly [string, (t: ExecutionContext, host: Host) => Promise<HostApi>])[] = [
  ['in process', async (_t, host) => connectInProcess(host)],
  ['over HTTPS', async (t, host) => (await serveHost(t, host, { hostId: host.id })).connect().api],
]

for (const [transport, connect] of transports) {
  test(`${transport}: a host behind the wall does everything that a host does`, async (t) => {
    const lab = await makeLab(t)
    const remote = await connect(t, lab.host)
    t.deepEqual(await remote.identify(), await lab.host.identify())
    const kek = makeKek()
    await install(remote, kek)
    t.deepEqual(await remote.listKeys(), [idOf(kek)])
    t.deepEqual(await remote.heldKeys([idOf(makeKek()), idOf(kek)]), [idOf(kek)])
    const vm = await makeVm(lab, { host: remote })
    t.deepEqual(await remote.findVirtualMachines('ds1'), [vm.reference])
    const disks = vm.config.disks.map(({ diskId }) => ({ diskId, crypto: encryptWith(kek) }))
    const events: WorkProgress[] = []
    const onProgress = (event: WorkProgress) => events.push(event)
    const sealed = await remote.reconfigureVirtualMachine(
      vm.reference,
      { home: encryptWith(kek), disks },
      { onProgress },
    )
    t.deepEqual(sealed, await lab.host.readVirtualMachine(vm.reference))
    t.true(events.length > 0)
    const [found] = (await remote.findKeys('ds1')).found
    t.deepEqual(found?.key, idOf(kek))
    t.is(found?.count, 5, 'home, and two disks with their second copies')
    const file = `db01/${sealed.disks[0]?.file}`
    t.like(await remote.describeDisk('ds1', file), { file, key: idOf(kek), attachedTo: vm.reference.vmx })
    t.is((await remote.powerOn(vm.reference)).powerState, 'poweredOn')
    t.deepEqual(await guestDigests(remote, vm), [...vm.digests])
    const read = remote.readDisk(vm.reference, disks[0]!.diskId, 512, 1024)
    if (transport === 'in process') t.is(Buffer.from(await read, 'base64').length, 1024)
    else
      await t.throwsAsync(read, { code: 'VMSEAL_HOST_LOCAL_ONLY' }, 'no plaintext of a disk over a network')
    await remote.powerOff(vm.reference)
    const spec = { home: decrypt, disks: disks.map(({ diskId }) => ({ diskId, crypto: decrypt })) }
    await t.throwsAsync(
      remote.reconfigureVirtualMachine(vm.reference, spec, { signal: AbortSignal.abort() }),
      {
        code: 'VMSEAL_CANCELLED',
      },
    )
    await remote.reconfigureVirtualMachine(vm.reference, spec)
    await remote.destroyVirtualMachine(vm.reference)
    await remote.removeKey(idOf(kek))
    t.deepEqual(await remote.listKeys(), [])
  })

  test(`${transport}: errors cross with code, message and details, as new objects`, async (t) => {
    const lab = await makeLab(t)
    const remote = await connect(t, lab.host)
    const kek = makeKek()
    await install(remote, kek)
    const vm = await makeVm(lab, { homeKey: kek })
    await remote.removeKey(idOf(kek))
    const direct = await t.throwsAsync(lab.host.powerOn(vm.reference), { instanceOf: VmsealError })
    const crossed = await t.throwsAsync(remote.powerOn(vm.reference), { instanceOf: VmsealError })
    t.not(crossed, direct)
    t.is(crossed?.code, 'VMSEAL_ENCRYPTION_KEY_REQUIRED')
    t.is(crossed?.message, direct?.message)
    t.deepEqual(crossed?.details, { ...direct?.details })
    t.is(crossed?.cause, undefined)
  })

  test(`${transport}: only JSON crosses: what is no JSON is gone or refused on the other side`, async (t) => {
    const lab = await makeLab(t)
    const remote = await connect(t, lab.host)
    const sealed = await sealFor(remote, makeKek())
    const smuggled = Object.assign(Object.create({ keyId: 'x' }) as typeof sealed, sealed, {
      handle: () => 'a function',
    })
    await remote.installKey(smuggled)
    await t.throwsAsync(remote.digestDisk({ datastore: 'ds1', vmx: 'a/a.vmx' }, randomUUID()), {
      code: 'VMSEAL_NOT_FOUND',
    })
    const nothing = undefined as unknown as string
    await t.throwsAsync(remote.findVirtualMachines(nothing), { code: 'VMSEAL_NOT_FOUND' })
    await t.throwsAsync(remote.createVirtualMachine(nothing as never), { code: 'VMSEAL_INVALID_ARGUMENT' })
    await t.throwsAsync(remote.removeKey(nothing as never), { code: 'VMSEAL_INVALID_ARGUMENT' })
    for (const keys of [
      nothing,
      ['k'],
      Array.from({ length: 1001 }, () => ({ keyId: 'k', providerId: 'p' })),
    ])
      await t.throwsAsync(remote.heldKeys(keys as never), { code: 'VMSEAL_INVALID_ARGUMENT' })
  })

  test(`${transport}: results are copies: changing one changes nothing at the host`, async (t) => {
    const lab = await makeLab(t)
    const remote = await connect(t, lab.host)
    const kek = makeKek()
    await install(remote, kek)
    const listed = await remote.listKeys()
    Object.assign(listed[0]!, { keyId: 'changed' })
    t.deepEqual(await remote.listKeys(), [idOf(kek)])
  })

  test(`${transport}: a host that stopped does not answer, until it is started again`, async (t) => {
    const lab = await makeLab(t)
    const remote: HostApi = await connect(t, lab.host)
    await lab.host.stop()
    const vm = { datastore: 'ds1', vmx: 'a/a.vmx' }
    const key = { keyId: 'k', providerId: 'p' }
    for (const request of [
      () => remote.identify(),
      () => remote.listKeys(),
      () => remote.heldKeys([key]),
      () => remote.removeKey(key),
      () => remote.findVirtualMachines('ds1'),
      () => remote.readVirtualMachine(vm),
      () => remote.reconfigureVirtualMachine(vm, {}),
      () => remote.destroyVirtualMachine(vm),
      () => remote.powerOn(vm),
      () => remote.powerOff(vm),
      () => remote.digestDisk(vm, randomUUID()),
      ...(transport === 'in process' ? [() => remote.readDisk(vm, randomUUID(), 0, 1)] : []),
    ])
      await t.throwsAsync(request(), { code: 'VMSEAL_HOST_UNREACHABLE' })
    await lab.host.restart()
    t.deepEqual(await remote.listKeys(), [])
  })
}
