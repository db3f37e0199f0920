/** `vmseal vm disk digest`, `read` and `write`: data of a disk as a guest has it, over standard streams and files. */
import { createHash } from 'node:crypto'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import test from 'ava'
import { allPrivileges, type Privilege } from '../../src/vcenter/authorization/privileges.js'
import { userWith } from '../vcenter/authorization/users.js'
import { filesWith } from '../vcenter/datastore-files.js'
import { encryption, marker } from '../vcenter/site.js'
import { administer, type Administered } from './administered.js'

const argument = 'VMSEAL_INVALID_ARGUMENT'
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

async function imported({ site }: Administered, megabytes = 1) {
  const image = await site.image('a', megabytes)
  await site.vcenter.virtualMachines.import({
    name: 'db01', cluster: 'prod', datastore: 'ds1', policy: encryption, disks: [image.file],
  }) // prettier-ignore
  return image
}

test.serial(
  'L4: a disk is read to a file, whole or in part, and its digest is that of the image',
  async (t) => {
    const user = await administer(t)
    const { site, answer, text } = user
    const image = await imported(user, 3)
    const digest = await answer('vm', 'disk', 'digest', 'db01', 'scsi0:0')
    t.deepEqual(digest, { vm: 'db01', disk: 'scsi0:0', sha256: image.sha256, bytes: 3 * 2 ** 20 })
    t.true(
      (await text('vm', 'disk', 'digest', 'db01', 'scsi0:0')).startsWith(`${image.sha256}  db01 scsi0:0`),
    )
    const out = path.join(site.directory, 'out.raw')
    t.like(await answer('vm', 'disk', 'read', 'db01', 'scsi0:0', '--out', out), {
      offset: 0,
      bytes: 3 * 2 ** 20,
      sha256: image.sha256,
    })
    t.deepEqual(readFileSync(out), image.bytes)
    t.is(statSync(out).mode & 0o777, 0o600)
    const part = path.join(site.directory, 'part.raw')
    const range = ['--offset', String(2 ** 20 - 512), '--length', '1024']
    await answer('vm', 'disk', 'read', 'db01', 'scsi0:0', '--out', part, ...range)
    t.deepEqual(readFileSync(part), image.bytes.subarray(2 ** 20 - 512, 2 ** 20 + 512))
  },
)

test.serial('L4: a disk is read to standard output, the summary beside it', async (t) => {
  const user = await administer(t)
  const image = await imported(user)
  const read = ['vm', 'disk', 'read', 'db01', 'scsi0:0', '--length', '512', '--progress']
  const { status, stdout, stderr } = await user.call(...read)
  t.is(status, 0, stderr)
  t.is(stdout, image.bytes.subarray(0, 512).toString())
  t.regex(stderr, /read scsi0:0 +100\.0 %[\s\S]*512 bytes at 0 of db01 scsi0:0/)
  const { stdout: data, stderr: none } = await user.call('--json', ...read.slice(0, -1))
  t.deepEqual([data, none], [stdout, ''])
})

test.serial('L4: a disk is written from a file, as ciphertext, and read back the same', async (t) => {
  const user = await administer(t)
  const { site, answer } = user
  const image = await imported(user, 3)
  const file = path.join(site.directory, 'in.raw')
  const bytes = Buffer.alloc(2 ** 20 + 1024, marker)
  writeFileSync(file, bytes)
  const write = ['vm', 'disk', 'write', 'db01', 'scsi0:0', '--offset', '4096']
  t.like(await answer(...write, '--in', file, '--yes'), {
    offset: 4096,
    bytes: bytes.length,
    sha256: sha256(bytes),
  })
  const expected = Buffer.from(image.bytes)
  bytes.copy(expected, 4096)
  t.is((await answer('vm', 'disk', 'digest', 'db01', 'scsi0:0')).sha256, sha256(expected))
  t.deepEqual(await filesWith(site.datastore, marker.trim()), [])
  t.is(site.seen('Create'), 1)
})

test.serial('L4: what is wrong is refused before a byte is written', async (t) => {
  const user = await administer(t)
  const { site, answer, refused } = user
  const image = await imported(user)
  const file = path.join(site.directory, 'in.raw')
  writeFileSync(file, Buffer.alloc(1024))
  const disk = ['db01', 'scsi0:0']
  for (const [code, ...argv] of [
    [argument, 'write', ...disk, '--in', file],
    [argument, 'write', ...disk, '--in', file, '--yes', '--offset', String(2 ** 20 - 512)],
    [argument, 'read', ...disk, '--offset', String(2 ** 20), '--length', '1'],
    ['VMSEAL_NOT_FOUND', 'write', ...disk, '--in', `${file}-2`, '--yes'],
    ['VMSEAL_NOT_FOUND', 'write', 'db01', 'scsi0:9', '--in', file, '--yes'],
    ['VMSEAL_NOT_FOUND', 'read', 'db01', 'scsi0:9'],
    ['VMSEAL_NOT_FOUND', 'digest', 'db02', 'scsi0:0'],
    ['VMSEAL_ALREADY_EXISTS', 'read', ...disk, '--out', file],
  ] as const)
    t.is(await refused(2, 'vm', 'disk', ...argv), code, argv.join(' '))
  for (const [privilege, ...argv] of [
    ['VirtualMachine.Provisioning.DiskRandomRead', 'digest', ...disk],
    ['VirtualMachine.Provisioning.DiskRandomRead', 'read', ...disk],
    ['VirtualMachine.Provisioning.DiskRandomAccess', 'write', ...disk, '--in', file, '--yes'],
    ['Cryptographer.Access', 'write', ...disk, '--in', file, '--yes'],
    ['Cryptographer.Access', 'read', ...disk],
  ] as const satisfies readonly (readonly [Privilege, ...string[]])[]) {
    const others = allPrivileges.filter((other) => other !== privilege)
    const { user: name } = await userWith(site.vcenter, others)
    const { status, stdout, stderr } = await user.call('vm', 'disk', ...argv, '--as', name)
    t.is(stdout, '')
    t.not(status, 0)
    t.true(stderr.includes(privilege), stderr)
  }
  t.is((await answer('vm', 'disk', 'digest', ...disk)).sha256, image.sha256)
})
