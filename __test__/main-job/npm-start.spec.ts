/** What a person at the terminal sees of `npm start`, without the set-up. */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { marker, writeFat16Image } from '../../examples/main-job/fat16.js'
import { requirePeer } from '../peers.js'

const program = fileURLToPath(new URL('../../examples/main-job/main.ts', import.meta.url))

function temporaryDirectory(t: ExecutionContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'vmseal-main-job-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

function start(directory: string, ...argv: string[]) {
  return spawnSync(process.execPath, ['--import=tsx', program, ...argv], {
    encoding: 'utf8',
    env: { ...process.env, VMSEAL_DEMO_DIRECTORY: directory, VMSEAL_CALLED_FROM: directory },
  })
}

test('without an image: all checks hold, keys are named, nothing is left behind', (t) => {
  const directory = temporaryDirectory(t)
  const { status, stdout, stderr } = start(directory)
  t.is(status, 0, stderr)
  t.notRegex(stdout, /FAILED/)
  t.regex(stdout, /(1[4-9]|2\d) checks held, 0 failed/)
  t.regex(stdout, /KMS +made key [0-9a-f-]{36} for vCenter/)
  t.regex(stdout, /vCenter +sealed key [0-9a-f-]{36} to the public key of esx-2/)
  t.regex(stdout, /encrypting db01 100 %/)
  t.regex(stdout, /vault01 +scsi0:1 +encrypted +kms-1 +[0-9a-f-]{36}/)
  t.false(stdout.includes('\u001b'), 'plain lines without a terminal')
  t.deepEqual(readdirSync(directory), [])
})

test('a raw image and a flat VMDK of the user: converted, checked and never changed', (t) => {
  const directory = temporaryDirectory(t)
  const raw = join(directory, 'mine.raw')
  writeFileSync(raw, Buffer.alloc(3 * 2 ** 20 + 512, 'bytes of the user '))
  writeFileSync(
    join(directory, 'mine.vmdk'),
    `# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW ${readFileSync(raw).length / 512} FLAT "mine.raw" 0\n`,
  )
  const before = createHash('sha256').update(readFileSync(raw)).digest('hex')
  for (const image of ['mine.raw', join(directory, 'mine.vmdk')]) {
    const { status, stdout, stderr } = start(directory, image)
    t.is(status, 0, stderr)
    t.regex(stdout, /checks held, 0 failed/)
  }
  t.is(createHash('sha256').update(readFileSync(raw)).digest('hex'), before)
  t.deepEqual(readdirSync(directory).toSorted(), ['mine.raw', 'mine.vmdk'])
})

test('a qcow2 image goes through qemu-img', (t) => {
  const directory = temporaryDirectory(t)
  const image = join(directory, 'mine.qcow2')
  const made = spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, '8M'])
  if (!requirePeer(t, 'qemu-utils', made.error === undefined)) return
  const { status, stdout, stderr } = start(directory, image)
  t.is(status, 0, stderr)
  t.regex(stdout, /checks held, 0 failed/)
})

test('an image that cannot be used: one clear line and status 2', (t) => {
  const directory = temporaryDirectory(t)
  mkdirSync(join(directory, 'folder'))
  writeFileSync(join(directory, 'empty.raw'), '')
  writeFileSync(join(directory, 'odd.raw'), Buffer.alloc(1000))
  writeFileSync(join(directory, 'broken.vmdk'), '# Disk DescriptorFile\nversion=1\nnonsense')
  for (const [image, says] of [
    ['missing.raw', /missing\.raw: there is no such file/],
    ['folder', /folder: not a file/],
    ['empty.raw', /empty\.raw: the file is empty/],
    ['odd.raw', /odd\.raw.*512/],
    ['broken.vmdk', /broken\.vmdk/],
  ] as const) {
    const { status, stderr } = start(directory, image)
    t.is(status, 2, `${image}: ${stderr}`)
    t.regex(stderr, says)
    t.is(stderr.trim().split('\n').length, 1, stderr)
  }
})

test('an image that may not be read: one clear line and status 2', (t) => {
  const directory = temporaryDirectory(t)
  const image = join(directory, 'secret.raw')
  writeFileSync(image, Buffer.alloc(512))
  chmodSync(image, 0)
  if (process.getuid?.() === 0) {
    t.log('skipped: root may read every file')
    return t.pass()
  }
  const { status, stderr } = start(directory, image)
  t.is(status, 2)
  t.regex(stderr, /secret\.raw: the file cannot be read/)
})

test('the generated disk holds a file system that others check and read', async (t) => {
  const directory = temporaryDirectory(t)
  const image = join(directory, 'disk.raw')
  await writeFat16Image(image, { bytes: 256 * 2 ** 20, files: 40, fileBytes: 5 * 2 ** 20 })
  const fsck = spawnSync('fsck.fat', ['-n', image], { encoding: 'utf8' })
  if (!requirePeer(t, 'dosfstools', fsck.error === undefined)) return
  t.is(fsck.status, 0, fsck.stdout)
  t.regex(fsck.stdout, /41 files/)
  t.true(readFileSync(image).includes(`${marker} file 39 line 0`))
})
