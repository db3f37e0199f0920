/** What the verbs refuse: with which code and status, and that nothing is left behind. */
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import test from 'ava'
import type { VirtualMachineInfo } from '../../src/index.js'
import { administer } from './administered.js'

test.serial(
  'what is wrong, absent, in another state or taken is refused by code, and nothing happens',
  async (t) => {
    const { site, answer, call } = await administer(t)
    const place = ['--cluster', 'prod', '--datastore', 'ds1']
    await answer('vm', 'create', 'plain', ...place, '--disk', '1M')
    const sealed = await answer<VirtualMachineInfo>(
    'vm', 'create', 'sealed', ...place, '--disk', '1M', '--policy', 'VM Encryption Policy',
  ) // prettier-ignore
    await answer('vm', 'create', 'running', ...place, '--disk', '1M')
    await answer('vm', 'power-on', 'running')
    const notPem = path.join(site.directory, 'not.pem')
    writeFileSync(notPem, 'no certificate\n')
    const { host, port } = site.kms.endpoint
    const server = `${host}:${port}`
    const key = sealed.homeKey?.keyId ?? ''
    const before = { creates: site.seen('Create'), vms: await answer<unknown[]>('vm', 'list') }

    const argument = 'VMSEAL_INVALID_ARGUMENT'
    const absent = 'VMSEAL_NOT_FOUND'
    const state = 'VMSEAL_INVALID_STATE'
    const cases: string[][] = [
    // The line itself.
    [argument, 'vm', 'encrpyt', 'plain'],
    [argument, 'vm', 'encrypt'],
    [argument, 'vm', 'encrypt', 'plain', 'sealed'],
    [argument, 'vm', 'encrypt', 'plain', '--sector-size', '1024'],
    [argument, 'vm', 'create', 'x', '--cluster', 'prod'],
    [argument, 'vm', 'create', 'x', ...place, '--disk', '20Q'],
    [argument, 'vm', 'create', 'x', ...place, '--disk', '0'],
    [argument, 'vm', 'create', 'x', ...place, '--disk', '99999999T'],
    [argument, 'vm', 'create', 'x', ...place, '--set', 'memsize'],
    [argument, 'vm', 'create', '../x', ...place],
    [argument, 'vm', 'create', '\u001b[2J', ...place],
    [argument, 'vm', 'list', '--crypto', 'open'],
    [argument, 'vm', 'add-disk', 'plain'],
    [argument, 'vm', 'add-disk', 'plain', '--size', '1M', '--image', 'x'],
    [argument, 'vm', 'destroy', 'plain'],
    [argument, 'vm', 'set-policy', 'plain', '--disk', 'scsi0:0'],
    [argument, 'vm', 'recrypt', 'sealed', '--sector-size', '4096'],
    [argument, 'vm', 'recrypt', 'sealed', '--in-place'],
    [argument, 'vm', 'recrypt', 'sealed', '--discard-source', 'overwrite'],
    [argument, 'vm', 'encrypt', 'plain', '--discard-source', 'burn'],
    [argument, 'vm', 'decrypt', 'sealed', '--in-place', '--discard-source', 'overwrite'],
    [argument, 'vm', 'snapshot'],
    [argument, 'vm', 'snapshot', 'create', 'plain', ''],
    [argument, 'vm', 'snapshot', 'create', 'plain', 'x'.repeat(81)],
    [argument, 'vm', 'snapshot', 'remove', 'plain', '--yes'],
    [argument, 'vm', 'snapshot', 'revert', 'plain', 'x'],
    [argument, 'vm', 'clone', 'plain', '../x'],
    [argument, 'vm', 'clone', 'plain', 'x', '--linked'],
    [argument, 'vm', 'apply', 'plain'],
    [argument, 'vm', 'apply', 'plain', '--file', notPem],
    [argument, 'vm', 'attach-disk', 'plain', ''],
    [argument, 'alarm', 'clear', 'vm.hungry', 'plain'],
    [argument, 'alarm', 'follow', '--after', '-1'],
    [argument, 'policy', 'update', 'VM Encryption Policy'],
    [argument, 'policy', 'create', 'x', '--plain', '--filters', 'before'],
    [argument, 'policy', 'create', 'x', '--encrypted', '--filters', 'around'],
    [argument, 'policy', 'clone', 'VM Encryption Policy', ''],
    [argument, 'rekey', '--provider', 'kms-1', '--rate-limit', '-1'],
    [argument, 'policy', 'create', 'x'],
    [argument, 'policy', 'create', 'x', '--plain', '--encrypted'],
    [argument, 'role', 'create', 'x', 'Cryptographer.Everything'],
    [argument, 'permission', 'set', 'anna', 'Read-only', '--on', 'folder:x'],
    [argument, 'provider', 'default', 'kms-1', '--none'],
    [argument, 'provider', 'login', 'kms-1', '--username', 'x'],
    [argument, 'provider', 'add', 'x', '--server', 'a:b:c'],
    [argument, 'provider', 'add', 'x', '--server', server, '--ca', notPem],
    [argument, 'provider', 'add', ' x ', '--server', server],
    [argument, 'provider', 'trust', 'kms-1', server, '--certificate', notPem, '--fingerprint', '00'],
    ['VMSEAL_JOIN_REFUSED', 'host', 'add', 'localhost:1', '--cluster', 'prod', '--token-file', notPem],
    [argument, 'key', 'destroy', key, '--provider', 'kms-1'],
    [argument, 'key', 'destroy', 'nothing', '--provider', 'kms-1', '--yes'],
    [argument, 'key', 'remove', 'nothing'],
    [argument, 'key', 'create', '--attribute', 'Owner=x'],
    [argument, 'event', 'verify', '--head', '7'],
    [argument, 'event', 'list', '--limit', '1.5'],
    [argument, 'user', 'create', ''],
    [argument, '__complete', '--nonsense'],
    // What is not there.
    [absent, 'vm', 'show', 'nobody'],
    [absent, 'vm', 'encrypt', 'nobody'],
    [absent, 'vm', 'encrypt-disk', 'sealed', 'scsi0:9'],
    [absent, 'vm', 'detach-disk', 'plain', 'scsi0:9'],
    [absent, 'vm', 'create', 'x', '--cluster', 'nowhere', '--datastore', 'ds1'],
    [absent, 'host', 'enable-encryption', 'esx-9'],
    [absent, 'host', 'remove', 'esx-9'],
    [absent, 'host', 'renew-certificate', 'esx-9'],
    [state, 'host', 'renew-certificate', 'esx-1'],
    ['VMSEAL_HOST_NOT_RUNNING', 'host', 'status', '--directory', site.directory],
    ['VMSEAL_HOST_NOT_RUNNING', 'host', 'dump', 'write', 'x', notPem, '--directory', site.directory],
    [argument, 'host', 'dump', 'extract', notPem, '--output', '/nonexistent/x'],
    [argument, 'host', 'dump', 'info', notPem],
    [absent, 'host', 'dump', 'info', '/nonexistent/x.dump'],
    [argument, 'host', 'dump', 'extract', notPem],
    [absent, 'host', 'list', '--cluster', 'nowhere'],
    [absent, 'host', 'add', 'localhost:1', '--cluster', 'prod', '--token-file', '/nonexistent'],
    [absent, 'provider', 'default', 'kms-9'],
    [absent, 'provider', 'keys', 'kms-9'],
    [absent, 'provider', 'remove', 'kms-9'],
    [absent, 'provider', 'trust', 'kms-1', 'localhost:1'],
    [absent, 'provider', 'add', 'x', '--server', server, '--credentials', '/nonexistent'],
    [absent, 'role', 'show', 'nobody'],
    [absent, 'user', 'remove', 'nobody'],
    [absent, 'permission', 'show', 'nobody'],
    [absent, 'permission', 'remove', 'administrator'],
    [absent, 'task', 'cancel', 'x'],
    [absent, 'task', 'follow', 'x'],
    [absent, 'vm', 'snapshot', 'list', 'nobody'],
    [absent, 'vm', 'snapshot', 'remove', 'plain', 'x', '--yes'],
    [absent, 'vm', 'clone', 'nobody', 'x'],
    [absent, 'vm', 'clone', 'plain', 'x', '--snapshot', 'x'],
    [absent, 'vm', 'apply', 'plain', '--file', '/nonexistent'],
    [absent, 'vm', 'compliance', 'plain', 'nobody'],
    [absent, 'vm', 'attach-disk', 'plain', 'plain/none.vmdk'],
    [absent, 'alarm', 'acknowledge', 'vm.locked', 'sealed'],
    [absent, 'alarm', 'clear', 'keyProvider.notTrusted', 'kms-1'],
    ['VMSEAL_POLICY_UNKNOWN', 'vm', 'encrypt', 'plain', '--policy', 'Gold'],
    ['VMSEAL_POLICY_UNKNOWN', 'vm', 'clone', 'plain', 'x', '--policy', 'Gold'],
    ['VMSEAL_POLICY_UNKNOWN', 'vm', 'apply', 'plain', '--home', 'Gold'],
    ['VMSEAL_POLICY_UNKNOWN', 'policy', 'remove', 'Gold'],
    // Another state.
    ['VMSEAL_INVALID_POWER_STATE', 'vm', 'encrypt', 'running'],
    ['VMSEAL_INVALID_POWER_STATE', 'vm', 'destroy', 'running', '--yes'],
    ['VMSEAL_ENCRYPTION_MISMATCH', 'vm', 'encrypt-disk', 'plain', 'scsi0:0'],
    ['VMSEAL_DISK_STATE', 'vm', 'recrypt-disk', 'plain', 'scsi0:0'],
    ['VMSEAL_ENCRYPTION_MISMATCH', 'vm', 'clone', 'sealed', 'x', '--home', 'Datastore Default'],
    [state, 'vm', 'recrypt', 'plain'],
    [state, 'vm', 'resume-conversion', 'plain'],
    [state, 'policy', 'update', 'VM Encryption Policy', '--name', 'x'],
    [state, 'policy', 'remove', 'Datastore Default'],
    [state, 'host', 'disable-encryption', 'esx-1'],
    [state, 'host', 'remove', 'esx-1'],
    [state, 'key', 'remove', key],
    [state, 'key', 'destroy', key, '--provider', 'kms-1', '--yes'],
    [state, 'provider', 'remove-server', 'kms-1', server],
    [state, 'provider', 'certificate', 'use', 'kms-1'],
    [state, 'role', 'update', 'Read-only', 'System.View'],
    ['VMSEAL_CERTIFICATE_INVALID', 'provider', 'trust', 'kms-1', server, '--fingerprint', '00'],
    ['VMSEAL_CERTIFICATE_INVALID', 'provider', 'certificate', 'upload', 'kms-1', '--certificate', notPem, '--key', notPem],
    // Taken.
    ['VMSEAL_ALREADY_EXISTS', 'vm', 'create', 'plain', ...place],
    ['VMSEAL_ALREADY_EXISTS', 'cluster', 'create', 'prod'],
    ['VMSEAL_ALREADY_EXISTS', 'provider', 'add', 'kms-1', '--server', server],
    ['VMSEAL_ALREADY_EXISTS', 'policy', 'create', 'VM Encryption Policy', '--plain'],
    ['VMSEAL_ALREADY_EXISTS', 'user', 'create', 'administrator'],
  ] // prettier-ignore
    const told: string[][] = []
    for (const [, ...argv] of cases) {
      const { status, stdout, stderr } = await call('--json', ...argv)
      const { error } = JSON.parse(stderr || '{"error":{}}') as { error: { code?: string; message?: string } }
      const people = await call(...argv)
      const asItShould = status === 2 && people.status === 2 && people.stdout === '' && people.stderr !== ''
      told.push([asItShould && error.code ? error.code : `status ${status}: ${stdout}${stderr}`, ...argv])
    }
    t.deepEqual(told, cases)
    t.is(site.seen('Create'), 0, 'no key was made')
    t.deepEqual(await answer<unknown[]>('vm', 'list'), before.vms)
  },
)

test.serial(
  'a user is refused by privilege and object, with status 3, before anything happens',
  async (t) => {
    const { site, answer, refused, text } = await administer(t)
    const place = ['--cluster', 'prod', '--datastore', 'ds1']
    await answer('vm', 'create', 'db01', ...place, '--disk', '1M')
    await answer('user', 'create', 'anna')
    await answer('role', 'create', 'encrypter', 'System.View', 'System.Read', 'StorageProfile.View',
    'StorageProfile.Apply', 'Cryptographer.Encrypt', 'Cryptographer.RegisterHost') // prettier-ignore
    const as = ['--as', 'anna']
    const none = 'VMSEAL_NO_PERMISSION'
    for (const argv of [
      ['vm', 'show', 'db01'],
      ['vm', 'encrypt', 'db01'],
      ['vm', 'power-on', 'db01'],
      ['vm', 'create', 'x', ...place],
      ['host', 'set-key', 'esx-1'],
      ['provider', 'list'],
      ['provider', 'doctor', 'kms-1'],
      ['key', 'list'],
      ['key', 'create'],
      ['policy', 'create', 'x', '--plain'],
      ['user', 'create', 'x'],
      ['permission', 'set', 'anna', 'Administrator'],
      ['event', 'list'],
      ['event', 'follow'],
      ['task', 'list'],
      ['rekey', '--provider', 'kms-1'],
    ])
      t.is(await refused(3, ...argv, ...as), none, argv.join(' '))
    t.is(site.seen('Create'), 0, 'no key was made')
    t.deepEqual(await answer<unknown[]>('vm', 'list', ...as), [], 'what he may not see is not there')

    await answer('permission', 'set', 'anna', 'encrypter', '--on', 'vm:db01')
    await answer('permission', 'set', 'anna', 'encrypter', '--on', 'cluster:prod')
    await answer('permission', 'set', 'anna', 'Read-only')
    await answer('permission', 'remove', 'anna', '--on', 'vm:db01')
    t.true(
      (await answer<string[]>('permission', 'show', 'anna', '--on', 'vm:db01')).includes(
        'Cryptographer.Encrypt',
      ),
    )
    t.truthy((await answer('vm', 'encrypt', 'db01', ...as)).homeKey)
    t.is(await refused(3, 'vm', 'decrypt', 'db01', ...as), none, 'he may encrypt and not decrypt')
    t.regex(await text('event', 'list'), /anna +vmseal\.authorization\.Refused .*Cryptographer\.Decrypt/)
    const [last] = await answer<{ actor: string }[]>('event', 'list', '--limit', '1')
    t.is(last?.actor, 'anna', 'the event names who acted')
  },
)
