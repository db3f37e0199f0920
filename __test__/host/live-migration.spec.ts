/** A VM that runs goes from one host to another, step by step: who has its lock, what is refused, what a failure leaves. */
import { randomBytes, randomUUID } from 'node:crypto'
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { open, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test from 'ava'
import type { SealedMigrationKey } from '../../src/rpc/host-api.js'
import { guestDigests, install } from './fixture.js'
import { runsOnlyOn, setUp, states } from './live-migration-lab.js'

for (const plain of [false, true])
  test(`J4: memory, disks and lock go over, and what the guest wrote on the way is there (${plain ? 'plain' : 'encrypted'})`, async (t) => {
    const move = await setUp(t, { plain })
    const { source, target, vm, memory, to } = move
    const lock = await move.begin()
    await move.stream(1)
    const [disk] = vm.config.disks
    const before = Buffer.from(await source.readDisk(vm.reference, disk!.diskId, 4096, 512), 'base64')
    const written = randomBytes(512)
    await source.writeDisk(vm.reference, disk!.diskId, 4096, written.toString('base64'))
    t.deepEqual(await states(move), ['poweredOn', 'poweredOff'])
    await move.stream()
    t.deepEqual(await states(move), ['poweredOn', 'poweredOff'], 'until the lock is handed over')
    await source.handOverMigration(vm.reference, move.id, lock)
    await source.handOverMigration(vm.reference, move.id, lock)
    t.deepEqual(await states(move), ['poweredOff', 'poweredOff'])
    await t.throwsAsync(source.writeDisk(vm.reference, disk!.diskId, 0, written.toString('base64')), {
      code: 'VMSEAL_FILE_LOCKED',
    })
    await target.takeOverMigration(vm.reference, move.id)
    await target.takeOverMigration(vm.reference, move.id)
    await source.endMigration(vm.reference, 'moved')
    t.true((await readFile(to)).equals(memory))
    t.is((await stat(to)).mode & 0o777, 0o600)
    t.is(await target.readDisk(vm.reference, disk!.diskId, 4096, 512), written.toString('base64'))
    await target.writeDisk(vm.reference, disk!.diskId, 4096, before.toString('base64'))
    await runsOnlyOn(t, move, target)
    // And ends late messages of any kind.
    await t.throwsAsync(source.handOverMigration(vm.reference, move.id, lock), { code: 'VMSEAL_NOT_FOUND' })
    t.is((await target.endMigration(vm.reference, 'abandoned')).powerState, 'poweredOn')
    t.true(existsSync(to))
    await target.powerOff(vm.reference)
    t.is((await source.powerOn(vm.reference)).powerState, 'poweredOn')
  })

test('J4: what travels is sealed: no run of the memory is in a piece, and each piece is bound to its place', async (t) => {
  const move = await setUp(t)
  const { source, target, vm, memory, id } = move
  await move.begin()
  const first = await source.readMigrationPiece(vm.reference, id, 0)
  t.deepEqual(
    await source.readMigrationPiece(vm.reference, id, 0),
    first,
    'a repeated question has the same answer',
  )
  const bytes = Buffer.from(first.data, 'base64')
  for (let at = 0; at < memory.length - 32; at += 4099) t.false(bytes.includes(memory.subarray(at, at + 32)))
  await t.throwsAsync(source.readMigrationPiece(vm.reference, id, 2), { code: 'VMSEAL_INVALID_ARGUMENT' })
  await t.throwsAsync(source.readMigrationPiece(vm.reference, randomUUID(), 0), { code: 'VMSEAL_NOT_FOUND' })
  await t.throwsAsync(target.writeMigrationPiece(vm.reference, id, 1, first), {
    code: 'VMSEAL_INVALID_ARGUMENT',
  })
  const altered = Buffer.from(bytes)
  altered[5000]! ^= 1
  await t.throwsAsync(
    target.writeMigrationPiece(vm.reference, id, 0, { data: altered.toString('base64'), last: false }),
    { code: 'VMSEAL_STREAM_INVALID' },
  )
  await t.throwsAsync(target.writeMigrationPiece(vm.reference, id, 0, first), {
    code: 'VMSEAL_STREAM_INVALID',
  })
  await target.endMigration(vm.reference, 'abandoned')
  t.false(existsSync(move.to), 'half a memory is removed')
  await runsOnlyOn(t, move, source)
})

test('J4: a migration key that is altered, expired, repeated, or of another migration, VM or host is refused', async (t) => {
  let offset = 0
  const move = await setUp(t, { now: () => Date.now() + offset })
  const { source, target, vm, from } = move
  const begin = (key: SealedMigrationKey, change: object = {}) =>
    source.beginMigration(vm.reference, {
      migrationId: move.id,
      targetHostId: target.id,
      memory: from,
      key,
      ...change,
    })
  let kept: SealedMigrationKey | undefined
  await move.begin((key) => (kept = key))
  const key = kept!
  await t.throwsAsync(begin(key), { code: 'VMSEAL_SEAL_REPLAYED' })
  const { hostId, publicKey } = await source.identify()
  const fresh = async (sealTo = { hostId, publicKey }) => {
    const spec = { migrationId: move.id, memory: join(move.lab.images, randomUUID()), sealTo }
    return (await target.prepareMigration(vm.reference, spec)).key!
  }
  const next = await fresh()
  t.not(next.sealed, key.sealed)
  const flipped = Buffer.from(next.sealed, 'base64')
  flipped[40]! ^= 1
  const other = randomUUID()
  const cases: [Partial<SealedMigrationKey>, object?][] = [
    [{ sealed: flipped.toString('base64') }],
    [{ hostId: other }],
    [{ nonce: key.nonce.replace(/^./, (letter) => (letter === 'A' ? 'B' : 'A')) }],
    [{ expiresAt: new Date(Date.now() + 3_600_000).toISOString() }],
    [{ migrationId: other }],
    [{ migrationId: other }, { migrationId: other }],
    [{ vmId: other }],
    [{ targetHostId: other }],
    [{ targetHostId: other }, { targetHostId: other }],
  ]
  for (const [change, spec] of cases)
    await t.throwsAsync(
      begin({ ...next, ...change }, spec),
      { code: 'VMSEAL_SEAL_INVALID' },
      JSON.stringify(change),
    )
  // Sealed to the public key of somebody else under the id of the source.
  const theirs = await fresh({ hostId, publicKey: (await target.identify()).publicKey })
  await t.throwsAsync(begin(theirs), { code: 'VMSEAL_SEAL_INVALID' })
  await t.throwsAsync(begin({ ...next, sealed: 'no base64' }), { code: 'VMSEAL_INVALID_ARGUMENT' })
  // A KEK that was sealed to the host is no migration key, and the other way round.
  await t.throwsAsync(source.installKey({ ...next, keyId: 'k', providerId: 'p' }), {
    code: 'VMSEAL_SEAL_INVALID',
  })
  offset = 3 * 60_000
  await t.throwsAsync(begin(next), { code: 'VMSEAL_SEAL_EXPIRED' })
  await runsOnlyOn(t, move, source)
})

test('J4: neither host moves the memory of an encrypted VM in plaintext, whatever it is asked', async (t) => {
  const move = await setUp(t)
  const { source, target, vm, from, to } = move
  const spec = { migrationId: move.id, targetHostId: target.id, memory: from }
  await t.throwsAsync(source.beginMigration(vm.reference, spec), {
    code: 'VMSEAL_INVALID_STATE',
    message: /required/,
  })
  await t.throwsAsync(target.prepareMigration(vm.reference, { migrationId: move.id, memory: to }), {
    code: 'VMSEAL_INVALID_STATE',
    message: /required/,
  })
  t.false(existsSync(to))
  for (const mode of ['disabled', 'opportunistic'] as const)
    await t.throwsAsync(source.setMigrateEncryption(vm.reference, mode), {
      code: 'VMSEAL_INVALID_STATE',
      message: /required/,
    })
  t.is((await source.setMigrateEncryption(vm.reference, 'required')).migrateEncryption, 'required')
  await t.throwsAsync(source.setMigrateEncryption(vm.reference, 'never' as never), {
    code: 'VMSEAL_INVALID_ARGUMENT',
  })
})

test('J5: the setting of a plain VM is in its files, of a VM that is on too; what nobody knows asks for the most', async (t) => {
  const move = await setUp(t, { plain: true })
  const { source, target, vm, from, to } = move
  t.is((await source.readVirtualMachine(vm.reference)).migrateEncryption, 'opportunistic')
  for (const mode of ['disabled', 'required'] as const) {
    t.is((await source.setMigrateEncryption(vm.reference, mode)).migrateEncryption, mode)
    t.is((await target.readVirtualMachine(vm.reference)).migrateEncryption, mode)
  }
  const spec = { migrationId: move.id, targetHostId: target.id, memory: from }
  await t.throwsAsync(source.beginMigration(vm.reference, spec), { code: 'VMSEAL_INVALID_STATE' })
  await t.throwsAsync(target.prepareMigration(vm.reference, { migrationId: move.id, memory: to }), {
    code: 'VMSEAL_INVALID_STATE',
  })
  await source.powerOff(vm.reference)
  const vmx = join(move.lab.datastore, vm.reference.vmx)
  const text = await readFile(vmx, 'utf8')
  await writeFile(vmx, text.replace('"required"', '"sometimes"'))
  t.is((await source.readVirtualMachine(vm.reference)).migrateEncryption, 'required')
  t.deepEqual(await guestDigests(source, vm), [...vm.digests])
})

test('J4: the lock is handed over only when all of the memory was read, and to the host that was named', async (t) => {
  const move = await setUp(t)
  const { source, target, vm, id } = move
  const lock = await move.begin()
  await t.throwsAsync(target.takeOverMigration(vm.reference, id), { code: 'VMSEAL_INVALID_STATE' })
  await t.throwsAsync(source.handOverMigration(vm.reference, id, lock), { code: 'VMSEAL_INVALID_STATE' })
  await move.stream()
  await t.throwsAsync(target.takeOverMigration(vm.reference, id), { code: 'VMSEAL_FILE_LOCKED' })
  t.deepEqual(await states(move), ['poweredOn', 'poweredOff'])
  for (const wrong of [
    '',
    'nonsense',
    JSON.stringify({ ...(JSON.parse(lock) as object), hostId: source.id }),
    lock.padEnd(5000),
  ])
    await t.throwsAsync(source.handOverMigration(vm.reference, id, wrong), {
      code: 'VMSEAL_INVALID_ARGUMENT',
    })
  // It had stopped for the hand-over, and is still nobody else's.
  await t.throwsAsync(target.powerOn(vm.reference), { code: 'VMSEAL_FILE_LOCKED' })
  t.is((await source.endMigration(vm.reference, 'abandoned')).powerState, 'poweredOn')
  await runsOnlyOn(t, move, source)
})

test('J4: at every step either host may stop: one runs the VM or it is off and whole, and never two', async (t) => {
  for (const gone of ['source', 'target'] as const)
    for (const step of ['prepared', 'half', 'whole', 'handed over', 'taken over'] as const) {
      const move = await setUp(t)
      const { source, target, vm, id } = move
      const lock = await move.begin()
      if (step !== 'prepared') await move.stream(step === 'half' ? 1 : Infinity)
      if (step === 'handed over' || step === 'taken over')
        await source.handOverMigration(vm.reference, id, lock)
      if (step === 'taken over') await target.takeOverMigration(vm.reference, id)
      const [lost, left] = gone === 'source' ? [source, target] : [target, source]
      await lost.restart()
      await left.endMigration(vm.reference, 'abandoned')
      t.is((await lost.endMigration(vm.reference, 'abandoned')).powerState, 'poweredOff', `${gone} ${step}`)
      const { powerState } = await left.readVirtualMachine(vm.reference)
      const expected = (gone === 'source') === (step === 'taken over') ? 'poweredOn' : 'poweredOff'
      t.is(powerState, expected, `${gone} ${step}`)
      if (powerState === 'poweredOff') await left.powerOn(vm.reference)
      t.deepEqual(await guestDigests(left, vm), [...vm.digests], `${gone} ${step}`)
      t.is(existsSync(move.to), step === 'taken over', `${gone} ${step}`)
    }
})

test('J4: a host process that is gone with the lock may have run the VM: it is off, whole, and any host powers it on', async (t) => {
  const move = await setUp(t)
  const { source, target, vm, id } = move
  const lock = await move.begin()
  await move.stream()
  const gone = Number(execFileSync(process.execPath, ['-e', 'console.log(process.pid)']).toString())
  const record = { ...(JSON.parse(lock) as object), pid: gone, token: randomUUID() }
  await source.handOverMigration(vm.reference, id, JSON.stringify(record))
  await t.throwsAsync(
    target.takeOverMigration(vm.reference, id),
    { code: 'VMSEAL_FILE_LOCKED' },
    'it was not handed to this start',
  )
  t.is((await source.endMigration(vm.reference, 'abandoned')).powerState, 'poweredOff')
  await source.powerOn(vm.reference)
  await runsOnlyOn(t, move, source)
})

test('J4: a source without the key any more cannot take the VM back: it is off, whole and free', async (t) => {
  const move = await setUp(t)
  const { source, target, vm, id } = move
  const lock = await move.begin()
  await move.stream()
  await source.handOverMigration(vm.reference, id, lock)
  await t.throwsAsync(source.endMigration(vm.reference, 'abandoned'), { code: 'VMSEAL_FILE_LOCKED' })
  await target.endMigration(vm.reference, 'abandoned')
  for (const key of await source.listKeys()) await source.removeKey(key)
  await t.throwsAsync(source.endMigration(vm.reference, 'abandoned'), {
    code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED',
  })
  t.deepEqual(await states(move), ['poweredOff', 'poweredOff'])
  await target.powerOn(vm.reference)
  await runsOnlyOn(t, move, target)
})

test('J4: power-on ends a migration that nobody ends: the target gives the lock back, and the guest goes on at the source', async (t) => {
  const move = await setUp(t)
  const { source, target, vm, id } = move
  const lock = await move.begin()
  await move.stream()
  await source.handOverMigration(vm.reference, id, lock)
  await t.throwsAsync(source.powerOn(vm.reference), { code: 'VMSEAL_FILE_LOCKED' })
  await t.throwsAsync(target.powerOn(vm.reference), { code: 'VMSEAL_FILE_LOCKED' })
  t.is((await source.powerOn(vm.reference)).powerState, 'poweredOn')
  await runsOnlyOn(t, move, source)
})

test('J4: a guest that ran at the target does not go on at the source with the memory of before', async (t) => {
  const move = await setUp(t)
  const { source, target, vm, id } = move
  const lock = await move.begin()
  await move.stream()
  await source.handOverMigration(vm.reference, id, lock)
  await target.takeOverMigration(vm.reference, id)
  await target.powerOff(vm.reference)
  t.is((await source.endMigration(vm.reference, 'abandoned')).powerState, 'poweredOff')
  t.deepEqual(await states(move), ['poweredOff', 'poweredOff'])
})

test('J6: the host it goes to refuses without keys, when it is not safe, and while the VM is on there', async (t) => {
  const move = await setUp(t)
  const { source, target, vm, lab } = move
  const { hostId, publicKey } = await source.identify()
  const spec = { migrationId: move.id, memory: move.to, sealTo: { hostId, publicKey } }
  await t.throwsAsync(source.prepareMigration(vm.reference, spec), { code: 'VMSEAL_INVALID_POWER_STATE' })
  await t.throwsAsync(
    target.beginMigration(vm.reference, { migrationId: move.id, targetHostId: source.id, memory: move.from }),
    {
      code: 'VMSEAL_INVALID_POWER_STATE',
    },
  )
  await writeFile(move.to, 'somebody else')
  await t.throwsAsync(target.prepareMigration(vm.reference, spec), { code: 'VMSEAL_ALREADY_EXISTS' })
  const [kek] = await target.listKeys()
  await target.removeKey(kek!)
  await t.throwsAsync(target.prepareMigration(vm.reference, spec), { code: 'VMSEAL_ENCRYPTION_KEY_REQUIRED' })
  const unsafe = await lab.start('esx-10')
  await unsafe.restart()
  await t.throwsAsync(unsafe.prepareMigration(vm.reference, spec), { code: 'VMSEAL_INVALID_STATE' })
  const unable = await lab.start('esx-11', { encryptedMigration: false })
  await install(unable)
  await t.throwsAsync(unable.prepareMigration(vm.reference, spec), { code: 'VMSEAL_MIGRATION_NOT_SUPPORTED' })
  t.deepEqual((await unable.identify()).capabilities, ['liveMigration'])
  t.is(await readFile(move.to, 'utf8'), 'somebody else')
})

test('J4: pipes: the source waits for its hypervisor and can be stopped in that, the target writes to the one that reads', async (t) => {
  const move = await setUp(t, { plain: true })
  const { source, target, vm, lab, id, memory } = move
  const [from, to] = [join(lab.images, 'out'), join(lab.images, 'in')]
  execFileSync('mkfifo', [from, to])
  await t.throwsAsync(target.prepareMigration(vm.reference, { migrationId: id, memory: to }), {
    code: 'VMSEAL_INVALID_STATE',
    message: /nobody reads the pipe/,
  })
  const received = readFile(to)
  // A reader that opens a pipe waits for its writer.
  const ready = async () => {
    for (;;)
      try {
        return await target.prepareMigration(vm.reference, { migrationId: id, memory: to })
      } catch {
        await new Promise((resolve) => setImmediate(resolve))
      }
  }
  const { lock } = await ready()
  await source.beginMigration(vm.reference, { migrationId: id, targetHostId: target.id, memory: from })
  const cancelled = new AbortController()
  const waiting = source.readMigrationPiece(vm.reference, id, 0, { signal: cancelled.signal })
  cancelled.abort()
  await t.throwsAsync(waiting, { code: 'VMSEAL_CANCELLED' })
  const writing = (async () => {
    const pipe = await open(from, 'w')
    await pipe.writeFile(memory)
    await pipe.close()
  })()
  await move.stream()
  await writing
  await source.handOverMigration(vm.reference, id, lock)
  await target.takeOverMigration(vm.reference, id)
  t.true((await received).equals(memory))
  await runsOnlyOn(t, move, target)
})
