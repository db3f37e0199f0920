/** The life of a VM as its administrator types it, on a vCenter that runs: snapshots, clones, disks, states, conversions, alarms. */
import { writeFileSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import path from 'node:path'
import test from 'ava'
import type {
  Alarm,
  AppliedState,
  SnapshotConfig,
  VirtualMachineInfo,
  VmCompliance,
} from '../../src/index.js'
import { reach } from '../../src/cli/verb/reach.js'
import { version } from '../../src/cli/version.js'
import { filesWith } from '../vcenter/datastore-files.js'
import { encryption, marker, plain } from '../vcenter/site.js'
import { administer, type Administered } from './administered.js'

const place = ['--cluster', 'prod', '--datastore', 'ds1']
const argument = 'VMSEAL_INVALID_ARGUMENT'

async function imported({ site, answer }: Administered, name: string, policy: string, megabytes = 1) {
  const image = await site.image(name, megabytes)
  const vm = await answer<VirtualMachineInfo>('vm', 'import', name, image.file, ...place, '--policy', policy)
  site.seen('Create')
  return { vm, sha256: image.sha256 }
}

test.serial(
  'J3: snapshots: taken, shown as a tree, gone back to and removed, without a key being made',
  async (t) => {
    const user = await administer(t)
    const { site, answer, text, refused } = user
    const { sha256 } = await imported(user, 'db01', encryption)
    const list = () => answer<SnapshotConfig[]>('vm', 'snapshot', 'list', 'db01')
    t.is(await text('vm', 'snapshot', 'list', 'db01'), 'no snapshots\n')
    t.like(await answer('vm', 'snapshot', 'create', 'db01', 'clean', '--description', 'as imported'), {
      name: 'db01',
      powerState: 'poweredOff',
    })
    await answer('vm', 'power-on', 'db01')
    const memory = path.join(site.directory, 'memory')
    writeFileSync(memory, Buffer.alloc(4096, 7))
    t.regex(
      await text('vm', 'snapshot', 'create', 'db01', 'running', '--memory', memory),
      /^snapshot running of db01 is taken\n.*revert/,
    )
    const [clean, running] = await list()
    t.like(clean, { name: 'clean', description: 'as imported', memory: false })
    t.like(running, { name: 'running', memory: true, parent: clean?.id })
    t.regex(
      await text('vm', 'snapshot', 'list', 'db01'),
      /^NAME +TAKEN .*\nclean .*\n {2}running +\S+ +yes +1 /,
    )

    await answer('vm', 'power-off', 'db01')
    t.is(await refused(2, 'vm', 'recrypt', 'db01', '--deep'), 'VMSEAL_SNAPSHOTS_EXIST')
    for (const argv of [
      ['revert', 'db01', 'clean'],
      ['remove', 'db01', 'clean'],
      ['remove', 'db01', '--yes'],
      ['remove', 'db01', 'clean', '--all', '--yes'],
      ['remove', 'db01', '--all', '--children', '--yes'],
    ])
      // prettier-ignore
      t.is(await refused(2, 'vm', 'snapshot', ...argv), argument, argv.join(' '))
    t.is(await refused(2, 'vm', 'snapshot', 'revert', 'db01', 'dirty', '--yes'), 'VMSEAL_NOT_FOUND')
    t.is((await list()).length, 2, 'nothing happened')

    const vm = await site.vcenter.virtualMachines.get('db01')
    await vm.writeDisk('scsi0:0', 0, Buffer.alloc(512, 1))
    t.not((await vm.digest('scsi0:0')).sha256, sha256)
    t.like(await answer('vm', 'snapshot', 'revert', 'db01', 'clean', '--yes'), { powerState: 'poweredOff' })
    t.is((await vm.digest('scsi0:0')).sha256, sha256)
    t.regex(await text('vm', 'snapshot', 'remove', 'db01', running?.id ?? '', '--yes'), / is removed\n$/)
    t.deepEqual((await list()).map(({ name }) => name), ['clean']) // prettier-ignore
    await answer('vm', 'snapshot', 'create', 'db01', 'later')
    t.regex(await text('vm', 'snapshot', 'remove', 'db01', 'clean', '--children', '--yes'), /taken after it/)
    await answer('vm', 'snapshot', 'create', 'db01', 'last')
    await answer('vm', 'snapshot', 'remove', 'db01', '--all', '--yes')
    t.deepEqual(await list(), [])
    t.like(await answer('vm', 'snapshot', 'consolidate', 'db01'), { name: 'db01' })
    t.is((await vm.digest('scsi0:0')).sha256, sha256)
    t.is(site.seen('Create'), 0, 'no key was made')
  },
)

test.serial(
  'J1, J2: clones: with the keys that were asked for, encrypted and decrypted on the way, linked',
  async (t) => {
    const user = await administer(t)
    const { site, answer, refused } = user
    const { vm: source, sha256 } = await imported(user, 'db01', encryption)
    const clone = (...argv: string[]) => answer<VirtualMachineInfo>('vm', 'clone', ...argv)
    t.deepEqual((await clone('db01', 'same')).homeKey, source.homeKey)
    t.is(site.seen('Create'), 0)
    const fresh = await clone('db01', 'fresh', '--new-keys')
    t.notDeepEqual(fresh.homeKey, source.homeKey)
    t.deepEqual(fresh.disks[0]?.key, fresh.homeKey)
    t.is(site.seen('Create'), 1)
    const each = await clone('db01', 'each', '--per-disk-keys')
    t.notDeepEqual(each.disks[0]?.key, each.homeKey)
    t.is(site.seen('Create'), 2)
    const mine = await answer<{ keyId: string }>('key', 'create')
    site.seen('Create')
    t.is((await clone('db01', 'mine', '--key-id', mine.keyId)).disks[0]?.key?.keyId, mine.keyId)
    const partly = await clone('db01', 'partly', '--key-id', mine.keyId, '--disk', `scsi0:0=${plain}`)
    t.deepEqual([partly.homeKey?.keyId, partly.disks[0]?.key], [mine.keyId, undefined])
    const open = await clone('db01', 'open', '--policy', plain)
    t.deepEqual([open.homeKey, open.disks[0]?.key], [undefined, undefined])
    const half = await clone('db01', 'half', '--disk', `scsi0:0=${plain}`)
    t.deepEqual([half.homeKey, half.disks[0]?.key], [source.homeKey, undefined])
    t.is(site.seen('Create'), 0)
    t.truthy((await clone('open', 'closed', '--policy', encryption)).disks[0]?.key)
    t.is(site.seen('Create'), 1)

    await answer('vm', 'snapshot', 'create', 'db01', 'base')
    const linked = await clone('db01', 'linked', '--snapshot', 'base', '--linked')
    t.deepEqual(linked.disks[0]?.key, source.disks[0]?.key)
    for (const name of ['same', 'fresh', 'each', 'mine', 'partly', 'open', 'half', 'closed', 'linked'])
      t.is((await (await site.vcenter.virtualMachines.get(name)).digest('scsi0:0')).sha256, sha256, name)

    const before = await answer<unknown[]>('vm', 'list')
    const cases: (readonly [code: string, ...argv: string[]])[] = [
      [argument, 'x', '--linked'],
      [argument, 'x', '--per-disk-keys', '--key-id', mine.keyId],
      [argument, 'x', '--disks', encryption, '--disk', `scsi0:0=${plain}`],
      [argument, 'x', '--new-keys', '--key-id', mine.keyId],
      [argument, 'x', '--policy', plain, '--home', plain],
      [argument, '../x'],
      ['VMSEAL_DISK_CHAIN', 'x', '--linked', '--snapshot', 'base', '--new-keys'],
      ['VMSEAL_ENCRYPTION_MISMATCH', 'x', '--home', plain],
      ['VMSEAL_POLICY_UNKNOWN', 'x', '--policy', 'Gold'],
      ['VMSEAL_NOT_FOUND', 'x', '--snapshot', 'none'],
      ['VMSEAL_ALREADY_EXISTS', 'same'],
    ]
    for (const [code, ...argv] of cases)
      t.is(await refused(2, 'vm', 'clone', 'db01', ...argv), code, argv.join(' '))
    t.is(site.seen('Create'), 0, 'no key was made')
    t.deepEqual(await answer('vm', 'list'), before)
  },
)

test.serial('B13: a disk is detached and attached again with its key', async (t) => {
  const user = await administer(t)
  const { site, answer, refused } = user
  const { vm } = await imported(user, 'db01', encryption)
  t.like(await answer('vm', 'detach-disk', 'db01', 'scsi0:0'), { disks: { length: 0 } })
  t.is(await refused(2, 'vm', 'attach-disk', 'db01', 'db01/db01.vmdk'), 'VMSEAL_POLICY_NOT_ENCRYPTION')
  t.is(await refused(2, 'vm', 'attach-disk', 'db01', '[ds2] db01/db01.vmdk'), argument)
  t.is(await refused(2, 'vm', 'attach-disk', 'db01', 'db01/nothing.vmdk'), 'VMSEAL_NOT_FOUND')
  const again = await answer<VirtualMachineInfo>(
    'vm', 'attach-disk', 'db01', '[ds1] db01/db01.vmdk', '--policy', encryption) // prettier-ignore
  t.deepEqual(again.disks[0]?.key, vm.disks[0]?.key)
  t.is(site.seen('Create'), 0)
})

test.serial(
  'M10, I7: a declared state is told, applied once and kept; compliance says what is not as its policy',
  async (t) => {
    const user = await administer(t)
    const { site, answer, text, call, refused } = user
    await imported(user, 'db01', plain)
    const wish = ['--home', encryption, '--disks', encryption]
    const apply = (...argv: string[]) => answer<AppliedState>('vm', 'apply', 'db01', ...argv)
    t.deepEqual((await apply(...wish, '--dry-run')).changes.map(({ part, change }) => [part, change]), [
    ['home', 'encrypt'],
    ['scsi0:0', 'encrypt'],
  ]) // prettier-ignore
    t.regex(await text('vm', 'apply', 'db01', ...wish, '--dry-run'), /^PART +WOULD BE .*\nhome +encrypt /)
    t.is(site.seen('Create'), 0)
    t.regex(await text('vm', 'apply', 'db01', ...wish), /^PART +DONE .*\nhome +encrypt /)
    t.is(site.seen('Create'), 1)
    const file = path.join(site.directory, 'db01.json')
    writeFileSync(file, JSON.stringify({ home: encryption, disks: encryption, keyProvider: 'kms-1' }))
    t.deepEqual((await apply('--file', file)).changes, [])
    t.is(await text('vm', 'apply', 'db01', '--file', file), 'db01 is as declared\n')
    t.is(site.seen('Create'), 0)
    const wrong = path.join(site.directory, 'wrong.json')
    for (const content of ['{', '[]', '{"home":1}', '{"keyId":"x"}']) {
      writeFileSync(wrong, content)
      t.is(await refused(2, 'vm', 'apply', 'db01', '--file', wrong), argument, content)
    }
    t.is(await refused(2, 'vm', 'apply', 'db01'), argument)
    t.is(await refused(2, 'vm', 'apply', 'db01', '--file', file, ...wish), argument)
    t.is(await refused(2, 'vm', 'apply', 'db01', '--home', plain), 'VMSEAL_ENCRYPTION_MISMATCH')

    // A policy of one's own, which changes under the VM.
    t.like(await answer('policy', 'clone', encryption, 'Gold'), {
      name: 'Gold',
      encryption: true,
      bundled: false,
    })
    await apply('--home', 'Gold', '--disks', 'Gold')
    t.is(site.seen('Create'), 0, 'the crypto state stays')
    const judged = () => call('--json', 'vm', 'compliance', 'db01')
    t.is((await judged()).status, 0)
    t.like(await answer('policy', 'update', 'Gold', '--plain'), { encryption: false, version: 2 })
    const late = await judged()
    t.is(late.status, 1)
    t.like((JSON.parse(late.stdout) as VmCompliance[])[0], { name: 'db01', status: 'outOfDate', seen: 'now' })
    const shown = await call('vm', 'compliance')
    t.is(shown.status, 1)
    t.regex(shown.stdout, /db01 +home +Gold +encrypted +outOfDate +now +the policy was changed/)
    t.is(await refused(2, 'policy', 'remove', 'Gold'), 'VMSEAL_INVALID_STATE')
    t.is(await refused(2, 'policy', 'update', 'Gold'), argument)
    t.is(await refused(2, 'policy', 'update', 'Gold', '--plain', '--encrypted'), argument)
    t.is(await refused(2, 'policy', 'update', encryption, '--name', 'x'), 'VMSEAL_INVALID_STATE')
    t.like(await answer('policy', 'update', 'Gold', '--encrypted', '--name', 'Platinum'), {
      name: 'Platinum',
    })
    await apply(...wish)
    t.is((await judged()).status, 0)
    t.deepEqual(await answer('policy', 'remove', 'Platinum'), { policy: 'Platinum' })
    await answer('policy', 'clone', encryption, 'Replicated', '--filters', 'before')
    t.regex(await text('policy', 'list'), /\nReplicated +yes +before it +1\n/)
    t.like(await answer('policy', 'update', 'Replicated', '--filters', 'after'), {
      encryption: true,
      filtersBeforeEncryption: false,
    })
    t.is(await refused(2, 'vm', 'compliance', 'nobody'), 'VMSEAL_NOT_FOUND')
  },
)

test.serial(
  'B8: conversion in place, interrupted and gone on with; a source that is overwritten',
  async (t) => {
    const user = await administer(t)
    const { site, answer, text, refused } = user
    const { sha256 } = await imported(user, 'db01', plain, 96)
    const flat = path.join(site.datastore, 'db01', 'db01-flat.vmdk')
    const { ino } = await stat(flat)
    for (const argv of [
      ['encrypt', 'db01', '--in-place', '--discard-source', 'overwrite'],
      ['encrypt', 'db01', '--discard-source', 'burn'],
      ['encrypt', 'db01', '--in-place', '--discard-source', 'unlink'],
    ])
      t.is(await refused(2, 'vm', ...argv), argument, argv.join(' '))
    t.is(await refused(2, 'vm', 'resume-conversion', 'db01'), 'VMSEAL_INVALID_STATE')
    t.is(site.seen('Create'), 0)

    site.vcenter.once('task', (task) =>
      task.on('progress', ({ step, doneBytes }) => {
        if (step.includes('scsi0:0') && doneBytes > 2 ** 20) task.cancel()
      }),
    )
    const { status } = await user.call('vm', 'encrypt', 'db01', '--in-place', '--max-rate', '16M')
    t.is(status, 5, 'cancelled')
    t.regex(
      await text('vm', 'show', 'db01'),
      /scsi0:0 is in conversion \(encrypt, .* of 96.0 MiB\): vmseal vm resume-conversion db01/,
    )
    t.is(await refused(2, 'vm', 'power-on', 'db01'), 'VMSEAL_DISK_IN_CONVERSION')
    const done = await answer<VirtualMachineInfo>('vm', 'resume-conversion', 'db01')
    t.truthy(done.disks[0]?.key)
    t.is(done.disks[0]?.conversion, undefined)
    t.is((await stat(flat)).ino, ino, 'the file is the one it was')
    t.deepEqual(await filesWith(site.datastore, marker), [])
    t.is(await refused(2, 'vm', 'recrypt', 'db01', '--in-place'), argument, 'shallow touches no data')
    t.truthy((await answer('vm', 'encrypt', 'db01')).homeKey)
    await answer('vm', 'recrypt', 'db01', '--deep', '--discard-source', 'overwrite')
    t.not((await stat(flat).catch(() => ({ ino: 0 }))).ino, ino)
    await answer('vm', 'decrypt', 'db01', '--in-place')
    const vm = await site.vcenter.virtualMachines.get('db01')
    t.is((await vm.digest('scsi0:0')).sha256, sha256)
  },
)

test.serial('I6: alarms are listed, acknowledged, followed and cleared', async (t) => {
  const user = await administer(t)
  const { answer, text, refused } = user
  const { vm } = await imported(user, 'db01', encryption)
  t.is(await text('alarm', 'list'), 'no alarms\n')
  t.is(await refused(2, 'alarm', 'acknowledge', 'vm.locked', 'db01'), 'VMSEAL_NOT_FOUND')
  t.is(await refused(2, 'alarm', 'clear', 'vm.hungry', 'db01'), argument)

  const { sequence } = await answer<{ sequence: number }>('event', 'head')
  await answer('key', 'remove', `kms-1/${vm.homeKey?.keyId}`, '--force')
  await answer('vm', 'reload', 'db01')
  const [alarm] = await answer<Alarm[]>('alarm', 'list')
  t.like(alarm, {
    kind: 'vm.locked',
    entity: { type: 'vm', name: 'db01' },
    status: 'red',
    acknowledgedBy: null,
  })
  t.like(await answer('alarm', 'acknowledge', 'vm.locked', 'db01'), { acknowledgedBy: 'administrator' })
  t.is(await refused(2, 'alarm', 'acknowledge', 'vm.locked', 'db01'), 'VMSEAL_INVALID_STATE')
  t.regex(await text('alarm', 'list'), /^STATUS +ALARM .*\nred +vm\.locked +db01 .* administrator /)
  t.like(await answer('alarm', 'clear', 'vm.locked', 'db01'), { kind: 'vm.locked' })
  t.deepEqual(await answer('alarm', 'list'), [])

  const told: object[] = []
  const enough = new AbortController()
  const order = { verb: 'alarm follow', version, values: { after: sequence } }
  await reach(user.directory, order, {
    onEvent: (event) => {
      if (told.push(event) === 3) enough.abort()
    },
    cancel: enough.signal,
    needsHosts: false,
    waitSeconds: 0,
    mustRun: true,
  })
  t.like(told, [
    { id: 'vim.event.AlarmStatusChangedEvent', details: { from: 'green', to: 'red' } },
    { id: 'vim.event.AlarmAcknowledgedEvent', actor: 'administrator', details: { alarm: 'vm.locked' } },
    { id: 'vim.event.AlarmStatusChangedEvent', details: { from: 'red', to: 'green' } },
  ])
})

test.serial('I2: each verb asks for its privilege, and nothing happens without', async (t) => {
  const user = await administer(t)
  const { site, answer, refused } = user
  await imported(user, 'db01', encryption)
  await answer('user', 'create', 'anna')
  await answer('permission', 'set', 'anna', 'Read-only')
  const as = ['--as', 'anna']
  for (const argv of [
    ['vm', 'snapshot', 'create', 'db01', 'x'],
    ['vm', 'snapshot', 'revert', 'db01', 'x', '--yes'],
    ['vm', 'snapshot', 'remove', 'db01', '--all', '--yes'],
    ['vm', 'snapshot', 'consolidate', 'db01'],
    ['vm', 'clone', 'db01', 'x'],
    ['vm', 'attach-disk', 'db01', 'db01/db01.vmdk'],
    ['vm', 'detach-disk', 'db01', 'scsi0:0'],
    ['vm', 'apply', 'db01', '--home', plain, '--disks', plain],
    ['alarm', 'acknowledge', 'vm.locked', 'db01'],
    ['alarm', 'clear', 'vm.locked', 'db01'],
    ['policy', 'clone', encryption, 'x'],
  ])
    t.is(await refused(3, ...argv, ...as), 'VMSEAL_NO_PERMISSION', argv.join(' '))
  t.is(site.seen('Create'), 0)
  for (const argv of [
    ['vm', 'snapshot', 'list', 'db01'],
    ['vm', 'compliance'],
    ['alarm', 'list'],
  ])
    await answer(...argv, ...as)
  await answer('permission', 'set', 'anna', 'No access', '--on', 'vm:db01')
  t.deepEqual(await answer('vm', 'compliance', ...as), [], 'what he may not see is not there')
})
