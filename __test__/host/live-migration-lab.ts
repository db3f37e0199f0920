/** A VM that runs between two hosts that both have its key, and the messages of a live migration in their order. */
import { randomBytes, randomUUID } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import type { Host } from '../../src/host/host.js'
import type { SealedMigrationKey } from '../../src/rpc/host-api.js'
import { guestDigests, install, makeKek, makeLab, makeVm, type Lab, type MadeVm } from './fixture.js'

const megabyte = 1024 * 1024

export interface Move {
  readonly lab: Lab
  readonly vm: MadeVm
  readonly source: Host
  readonly target: Host
  readonly memory: Buffer
  readonly from: string
  readonly to: string
  readonly id: string
  /** Makes the target ready, and begins at the source. */
  begin(change?: (key: SealedMigrationKey) => SealedMigrationKey): Promise<string>
  /** Moves pieces until `count` are moved, or all. */
  stream(count?: number): Promise<void>
}

/** An encrypted VM that is on at esx-1; both hosts have its key. */
export async function setUp(
  t: ExecutionContext,
  options: { plain?: boolean; now?: () => number } = {},
): Promise<Move> {
  const lab = await makeLab(t, options.now ? { now: options.now } : {})
  const kek = makeKek()
  const source = lab.host
  const target = await lab.start('esx-9')
  for (const host of [source, target]) await install(host, kek)
  const keys = options.plain ? {} : { homeKey: kek, diskKey: kek }
  const vm = await makeVm(lab, keys)
  await source.powerOn(vm.reference)
  const memory = randomBytes(2 * megabyte + 12_345)
  const [from, to] = [join(lab.images, 'memory.out'), join(lab.images, 'memory.in')]
  await writeFile(from, memory)
  const id = randomUUID()
  let next = 0
  return {
    lab,
    vm,
    source,
    target,
    memory,
    from,
    to,
    id,
    begin: async (change = (key) => key) => {
      const { hostId, publicKey } = await source.identify()
      const sealTo = options.plain ? {} : { sealTo: { hostId, publicKey } }
      const { lock, key } = await target.prepareMigration(vm.reference, {
        migrationId: id,
        memory: to,
        ...sealTo,
      })
      const sealed = key ? { key: change(key) } : {}
      await source.beginMigration(vm.reference, {
        migrationId: id,
        targetHostId: target.id,
        memory: from,
        ...sealed,
      })
      return lock
    },
    stream: async (count = Infinity) => {
      for (let moved = 0; moved < count; moved += 1) {
        const piece = await source.readMigrationPiece(vm.reference, id, next)
        await target.writeMigrationPiece(vm.reference, id, next, piece)
        next += 1
        if (piece.last) return
      }
    },
  }
}

export async function states({ source, target, vm }: Move): Promise<[string, string]> {
  const [here, there] = [
    await source.readVirtualMachine(vm.reference),
    await target.readVirtualMachine(vm.reference),
  ]
  return [here.powerState, there.powerState]
}

/** It is whole, and one host alone can run it. */
export async function runsOnlyOn(t: ExecutionContext, move: Move, host: Host): Promise<void> {
  const { source, target, vm } = move
  const other = host === source ? target : source
  t.is((await host.readVirtualMachine(vm.reference)).powerState, 'poweredOn')
  t.is((await other.readVirtualMachine(vm.reference)).powerState, 'poweredOff')
  await t.throwsAsync(other.powerOn(vm.reference), { code: 'VMSEAL_FILE_LOCKED' })
  t.deepEqual(await guestDigests(host, vm), [...vm.digests])
}
