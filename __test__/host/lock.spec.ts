import { spawn } from 'node:child_process'
import { createHash, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import { VmsealError } from '../../src/errors.js'
import { Datastore } from '../../src/host/datastore.js'
import { VirtualMachineLock, registerBoot } from '../../src/host/lock.js'
import type { VirtualMachineFiles } from '../../src/host/virtual-machine-files.js'

const owner = { hostId: 'host-1', bootId: 'boot-1' }

async function scratch(t: ExecutionContext) {
  const directory = await mkdtemp(join(tmpdir(), 'vmseal-lock-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  await mkdir(join(directory, 'db01'))
  return { directory, files: (await Datastore.open('ds1', directory)).filesOf('db01') }
}

async function holdInChild(directory: string, hostId: string) {
  const script = fileURLToPath(new URL('hold-lock.ts', import.meta.url))
  const child = spawn(process.execPath, ['--import=tsx', script, directory, 'db01', hostId], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(child.stdout, 'data')
  return async () => {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
}

/** Above what Linux gives: proc(5), pid_max. */
const noProcess = 2 ** 22 + 1

/** Takes the lock over from the record of this process with another `token`, which nobody gave up. */
async function acquireFrom(files: VirtualMachineFiles, token: string): Promise<VirtualMachineLock> {
  const record = JSON.parse(await readFile(files.path(files.lock), 'utf8')) as object
  await writeFile(files.path(files.lock), JSON.stringify({ ...record, token }))
  return VirtualMachineLock.acquire(files, owner)
}

/** What a lock of this process says. */
async function recordOf(files: VirtualMachineFiles): Promise<Record<string, unknown>> {
  const lock = await VirtualMachineLock.acquire(files, owner)
  const text = await readFile(files.path(files.lock), 'utf8')
  await lock.release()
  return JSON.parse(text) as Record<string, unknown>
}

test('one holder at a time; release lets the next in and leaves no file', async (t) => {
  const { files } = await scratch(t)
  const first = await VirtualMachineLock.acquire(files, owner)
  await t.throwsAsync(VirtualMachineLock.acquire(files, owner), { code: 'VMSEAL_FILE_LOCKED' })
  await t.throwsAsync(VirtualMachineLock.acquire(files, { hostId: 'host-2', bootId: 'b' }), {
    code: 'VMSEAL_FILE_LOCKED',
    message: /host-1/,
  })
  await first.assertHeld()
  await first.release()
  const second = await VirtualMachineLock.acquire(files, { hostId: 'host-2', bootId: 'b' })
  await second.release()
  t.deepEqual(await readdir(files.directory), [])
})

test('of many at once exactly one gets it', async (t) => {
  const { files } = await scratch(t)
  const attempts = await Promise.allSettled(
    Array.from({ length: 20 }, () => VirtualMachineLock.acquire(files, owner)),
  )
  t.is(attempts.filter(({ status }) => status === 'fulfilled').length, 1)
  for (const attempt of attempts)
    if (attempt.status === 'rejected') t.like(attempt.reason, { code: 'VMSEAL_FILE_LOCKED' })
  t.deepEqual(await readdir(files.directory), [files.lock])
})

test('the lock of a living process holds, that of a killed one is taken over', async (t) => {
  const { directory, files } = await scratch(t)
  const kill = await holdInChild(directory, 'host-2')
  await t.throwsAsync(VirtualMachineLock.acquire(files, owner), { code: 'VMSEAL_FILE_LOCKED' })
  // A living process also keeps out another process of the same host.
  await t.throwsAsync(VirtualMachineLock.acquire(files, { hostId: 'host-2', bootId: 'x' }), {
    code: 'VMSEAL_FILE_LOCKED',
  })
  await kill()
  const attempts = await Promise.allSettled(
    Array.from({ length: 8 }, () => VirtualMachineLock.acquire(files, owner)),
  )
  t.is(attempts.filter(({ status }) => status === 'fulfilled').length, 1)
  t.deepEqual(await readdir(files.directory), [files.lock])
})

test('a void lock that many take over at once goes to exactly one of them', async (t) => {
  const { files } = await scratch(t)
  const record = await recordOf(files)
  for (let round = 0; round < 40; round += 1) {
    await writeFile(
      files.path(files.lock),
      JSON.stringify({ ...record, token: randomUUID(), pid: noProcess }),
    )
    const attempts = await Promise.allSettled(
      Array.from({ length: 12 }, () => VirtualMachineLock.acquire(files, owner)),
    )
    const taken = attempts.flatMap((attempt) => (attempt.status === 'fulfilled' ? [attempt.value] : []))
    t.is(taken.length, 1)
    await taken[0]?.assertHeld()
    t.deepEqual(await readdir(files.directory), [files.lock])
  }
})

test('a host that ended while it took a void lock over is in nobody’s way', async (t) => {
  const { files } = await scratch(t)
  const record = await recordOf(files)
  const gone = JSON.stringify({ ...record, pid: noProcess })
  const removal = createHash('sha256').update(`${files.lock}\0${gone}`).digest('hex').slice(0, 32)
  const left = `.${files.lock}.tmp-${removal}`
  await writeFile(files.path(files.lock), gone)
  await writeFile(files.path(left), gone)
  const lock = await VirtualMachineLock.acquire(files, owner)
  t.deepEqual(await readdir(files.directory), [files.lock])
  await lock.release()
  // While one that lives takes it over, the lock counts as held.
  await writeFile(files.path(files.lock), gone)
  await writeFile(files.path(left), JSON.stringify(record))
  await t.throwsAsync(VirtualMachineLock.acquire(files, owner), { code: 'VMSEAL_FILE_LOCKED' })
})

test('a host takes over the lock of an earlier start of its own, not of a start that lives', async (t) => {
  const { files } = await scratch(t)
  await VirtualMachineLock.acquire(files, owner)
  const unregister = registerBoot(owner.bootId)
  await t.throwsAsync(VirtualMachineLock.acquire(files, { ...owner, bootId: 'boot-2' }), {
    code: 'VMSEAL_FILE_LOCKED',
  })
  unregister()
  await t.throwsAsync(VirtualMachineLock.acquire(files, { hostId: 'host-2', bootId: 'boot-2' }), {
    code: 'VMSEAL_FILE_LOCKED',
  })
  const lock = await VirtualMachineLock.acquire(files, { ...owner, bootId: 'boot-2' })
  await lock.release()
  t.deepEqual(await readdir(files.directory), [])
})

test('a lock whose release failed is in nobody’s way once the disk works again', async (t) => {
  const { files } = await scratch(t)
  const path = files.path(files.lock)
  const lock = await VirtualMachineLock.acquire(files, owner)
  const text = await readFile(path, 'utf8')
  // A directory in its place cannot be read as a lock.
  await rm(path)
  await mkdir(path)
  await t.throwsAsync(lock.release(), { instanceOf: VmsealError })
  await rm(path, { recursive: true })
  await writeFile(path, text)
  await t.throwsAsync(acquireFrom(files, randomUUID()), { code: 'VMSEAL_FILE_LOCKED' })
  await writeFile(path, text)
  const next = await VirtualMachineLock.acquire(files, owner)
  await next.release()
  t.deepEqual(await readdir(files.directory), [])
})

test('a lock of another machine, or one that cannot be read, counts as held', async (t) => {
  const { files } = await scratch(t)
  const lock = await VirtualMachineLock.acquire(files, owner)
  const record = JSON.parse(await readFile(files.path(files.lock), 'utf8')) as Record<string, unknown>
  const texts = [
    JSON.stringify({ ...record, hostId: 'host-9', pidSpace: 'another kernel', pid: 1 }),
    JSON.stringify({ ...record, pid: -1 }),
    JSON.stringify({ ...record, token: undefined }),
    'null',
    '',
    'x'.repeat(4000),
  ]
  for (const text of texts) {
    await writeFile(files.path(files.lock), text)
    await t.throwsAsync(VirtualMachineLock.acquire(files, { ...owner, bootId: 'new' }), {
      code: 'VMSEAL_FILE_LOCKED',
    })
    t.is(await readFile(files.path(files.lock), 'utf8'), text)
  }
  // The holder notices that its lock is gone and leaves that of the other alone.
  await t.throwsAsync(lock.assertHeld(), { code: 'VMSEAL_FILE_LOCKED' })
  await lock.release()
  t.deepEqual(await readdir(files.directory), [files.lock])
  await writeFile(
    files.path(files.lock),
    JSON.stringify({ ...record, bootId: 'old', pidSpace: 'before the reboot' }),
  )
  await (await VirtualMachineLock.acquire(files, owner)).release()
})

test('without the folder there is no lock', async (t) => {
  const { directory } = await scratch(t)
  const files = (await Datastore.open('ds1', directory)).filesOf('db02')
  await t.throwsAsync(VirtualMachineLock.acquire(files, owner), { code: 'VMSEAL_NOT_FOUND' })
})
