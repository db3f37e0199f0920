/** Conversion in place through the boundary: keys as handles, errors as codes, cancel and resume. */
import { execFileSync } from 'node:child_process'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import { errorCodes } from '../../src/errors.js'
import { native, type KeyHandle, type NativeTask } from '../../src/native/load.js'

const mebibyte = 1024 * 1024
const vmId = randomUUID()

interface Disk {
  readonly folder: string
  readonly path: string
  readonly flat: string
  readonly plain: Buffer
  readonly diskId: string
  readonly kek: KeyHandle
}

function plainDisk(t: ExecutionContext, bytes = 2 * mebibyte): Disk {
  const folder = mkdtempSync(join(tmpdir(), 'vmseal-in-place-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const flat = join(folder, 'db01.raw')
  const plain = randomBytes(bytes)
  writeFileSync(flat, plain)
  const diskId = randomUUID()
  const path = native.describeRawImage(flat, diskId)
  return { folder, path, flat, plain, diskId, kek: native.KeyHandle.generate(32) }
}

function specOf({ diskId }: Disk) {
  return { keyId: 'kek-1', providerId: 'kms', vmId, diskId, generation: 1, sectorSize: 512 }
}

function encrypt(disk: Disk): Promise<string> {
  return native.encryptDiskInPlace(disk.path, disk.kek, specOf(disk)).done()
}

/** A job that was cancelled before its second zone. */
async function stopped(t: ExecutionContext, disk: Disk, begin: () => NativeTask): Promise<void> {
  const task = begin()
  task.limit(1)
  while (task.totalBytes === 0) await setImmediate()
  task.cancel()
  await t.throwsAsync(task.done(), { code: 'VMSEAL_CANCELLED' })
  t.throws(() => native.inspectImage(disk.path), { code: 'VMSEAL_DISK_IN_CONVERSION' })
}

/** Whether the disk opens and reads as it did when it was plain. */
async function readsAsBefore(disk: Disk, kek: KeyHandle): Promise<boolean> {
  const handle = native.DiskHandle.openSealed(disk.path, kek, { vmId, diskId: disk.diskId })
  try {
    const { sha256 } = JSON.parse(await handle.digest().done()) as { sha256: string }
    return sha256 === createHash('sha256').update(disk.plain).digest('hex')
  } finally {
    handle.close()
  }
}

test.serial(
  'B8: encrypt, deep recrypt and decrypt in place, of a raw image that gets a descriptor',
  async (t) => {
    const disk = plainDisk(t)
    const outcome = JSON.parse(await encrypt(disk)) as { bytes: number; holes: string }
    t.is(outcome.bytes, disk.plain.length)
    t.is(outcome.holes, 'dense')
    const first = readFileSync(disk.flat)
    t.is(first.length, disk.plain.length)
    t.false(first.equals(disk.plain))
    t.true(await readsAsBefore(disk, disk.kek))

    const newKek = native.KeyHandle.generate(32)
    const binding = { vmId, diskId: disk.diskId }
    const newKey = { keyId: 'kek-2', providerId: 'kms' }
    await native.recryptDiskInPlace(disk.path, disk.kek, binding, newKek, newKey).done()
    t.true(await readsAsBefore(disk, newKek))
    t.throws(() => native.DiskHandle.openSealed(disk.path, disk.kek, binding), {
      code: 'VMSEAL_ENVELOPE_AUTHENTICATION',
    })
    await native.decryptDiskInPlace(disk.path, newKek, binding).done()
    t.true(readFileSync(disk.flat).equals(disk.plain))
    t.deepEqual(readdirSync(disk.folder).toSorted(), ['db01.raw', 'db01.vmdk'])
  },
)

test.serial(
  'a cancelled job says what it is without a key, is authenticated with it, and resumes',
  async (t) => {
    const disk = plainDisk(t, 64 * mebibyte)
    const binding = { vmId, diskId: disk.diskId }
    await stopped(t, disk, () => native.encryptDiskInPlace(disk.path, disk.kek, specOf(disk)))
    const info = JSON.parse(native.conversionInfo(disk.path) ?? 'null') as { id: string }
    t.like(info, {
      mode: 'encrypt',
      totalBytes: disk.plain.length,
      diskId: disk.diskId,
      old: null,
      new: { generation: 1, keys: [{ keyId: 'kek-1', providerId: 'kms' }] },
    })
    const repaired = JSON.parse(await native.repairConversion(disk.path)) as { mode: string }
    t.is(repaired.mode, 'encrypt')
    const proven = JSON.parse(await native.verifyConversion(disk.path, [disk.kek], binding)) as { id: string }
    t.is(proven.id, info.id)
    const stranger = native.KeyHandle.generate(32)
    await t.throwsAsync(native.verifyConversion(disk.path, [stranger], binding), {
      code: 'VMSEAL_ENVELOPE_AUTHENTICATION',
    })
    await t.throwsAsync(native.resumeConversion(disk.path, [stranger], binding).done(), {
      code: 'VMSEAL_ENVELOPE_AUTHENTICATION',
    })
    await native.resumeConversion(disk.path, [stranger, disk.kek], binding).done()
    t.true(await readsAsBefore(disk, disk.kek))
    t.is(native.conversionInfo(disk.path), null)
  },
)

test.serial('a forged record, a missing one and one of another disk write nothing', async (t) => {
  const disk = plainDisk(t, 64 * mebibyte)
  await stopped(t, disk, () => native.encryptDiskInPlace(disk.path, disk.kek, specOf(disk)))
  const record = `${disk.path}.vmseal-job`
  const bytes = readFileSync(record)
  const before = readFileSync(disk.flat)
  const resume = () => native.resumeConversion(disk.path, [disk.kek], { vmId, diskId: disk.diskId }).done()
  rmSync(record)
  await t.throwsAsync(resume(), { code: 'VMSEAL_JOB_INVALID' })
  t.throws(() => native.conversionInfo(disk.path), { code: 'VMSEAL_JOB_INVALID' })
  await t.throwsAsync(native.repairConversion(disk.path), { code: 'VMSEAL_JOB_INVALID' })
  writeFileSync(record, randomBytes(bytes.length))
  await t.throwsAsync(resume(), { code: 'VMSEAL_JOB_INVALID' })
  const other = plainDisk(t, 64 * mebibyte)
  await stopped(t, other, () => native.encryptDiskInPlace(other.path, other.kek, specOf(other)))
  writeFileSync(record, readFileSync(`${other.path}.vmseal-job`))
  await t.throwsAsync(resume(), { code: 'VMSEAL_JOB_INVALID' })
  t.true(readFileSync(disk.flat).equals(before))
  writeFileSync(record, bytes)
  await resume()
  t.true(await readsAsBefore(disk, disk.kek))
})

test.serial('what cannot be converted in place is refused before anything is written', async (t) => {
  const disk = plainDisk(t)
  const binding = { vmId, diskId: disk.diskId }
  const names = readdirSync(disk.folder)
  await t.throwsAsync(native.decryptDiskInPlace(disk.path, disk.kek, binding).done(), {
    code: 'VMSEAL_DISK_STATE',
  })
  await t.throwsAsync(native.resumeConversion(disk.path, [disk.kek], binding).done(), {
    code: 'VMSEAL_DISK_STATE',
  })
  await t.throwsAsync(native.repairConversion(disk.path), { code: 'VMSEAL_DISK_STATE' })
  await t.throwsAsync(native.verifyConversion(disk.path, [disk.kek], binding), { code: 'VMSEAL_DISK_STATE' })
  t.throws(() => native.encryptDiskInPlace(disk.path, disk.kek, { ...specOf(disk), diskId: 'x' }), {
    code: 'VMSEAL_INVALID_ARGUMENT',
  })
  const sectorSize = 1024
  await t.throwsAsync(
    native.encryptDiskInPlace(disk.path, disk.kek, { ...specOf(disk), sectorSize }).done(),
    {
      code: 'VMSEAL_INVALID_ARGUMENT',
    },
  )
  disk.kek.dispose()
  t.throws(() => native.encryptDiskInPlace(disk.path, disk.kek, specOf(disk)), {
    code: 'VMSEAL_KEY_DISPOSED',
  })
  t.deepEqual(readdirSync(disk.folder), names)
  t.true(readFileSync(disk.flat).equals(disk.plain))
})

test.serial('a raw image gets its descriptor once, and no file is taken for one', (t) => {
  const { folder, path, flat, diskId } = plainDisk(t, 512)
  t.is(native.describeRawImage(flat, diskId), path)
  const refused = (name: string, bytes: Buffer, code: string): void => {
    writeFileSync(join(folder, name), bytes)
    t.throws(() => native.describeRawImage(join(folder, name), diskId), { code }, name)
  }
  refused('empty.raw', Buffer.alloc(0), 'VMSEAL_IMAGE_INVALID')
  refused('odd.raw', Buffer.alloc(513), 'VMSEAL_IMAGE_INVALID')
  refused('one.vmdk', Buffer.alloc(512), 'VMSEAL_IMAGE_INVALID')
  refused(
    'image.qcow2',
    Buffer.concat([Buffer.from('QFI\u00fb\0\0\0\u0003', 'latin1'), Buffer.alloc(504)]),
    'VMSEAL_IMAGE_INVALID',
  )
  refused('db01.img', Buffer.alloc(512), 'VMSEAL_ALREADY_EXISTS')
  t.throws(() => native.describeRawImage(join(folder, 'nothing.raw'), diskId), { code: 'VMSEAL_NOT_FOUND' })
})

test.serial('every code that a crate can give has its row in the table', (t) => {
  const root = fileURLToPath(new URL('../..', import.meta.url))
  const pattern = '(=> |coded\\(\\s*)"VMSEAL_[A-Z_]+"'
  const found = execFileSync('git', ['grep', '-ohE', pattern, '--', 'crates/*.rs', 'src/native/*.rs'], {
    cwd: root,
    encoding: 'utf8',
  })
  const codes = new Set(found.match(/VMSEAL_[A-Z_]+/g))
  t.true(codes.size > 30)
  t.deepEqual(
    [...codes].filter((code) => !Object.hasOwn(errorCodes, code)),
    [],
  )
})
