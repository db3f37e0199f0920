/** `vmseal kms enrol` in four ways, and what clients may do. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { KmipClient } from '../../src/kmip/client.js'
import { native } from '../../src/native/load.js'
import { refusal, temporaryDirectory } from '../kms/running-kms.js'
import { answer, refused, startServing, vmseal } from './command.js'
import type { ServingKms } from './command.js'

interface Listed {
  readonly clients: readonly {
    name: string
    enabled: boolean
    operations?: string[]
    certificates: unknown[]
  }[]
  readonly authorities: readonly { keyHash: string; subject: string }[]
  readonly grants: readonly { client: string; keyId: string; operations: string[] }[]
}

interface Site {
  readonly kms: ServingKms
  /** Runs a command of the KMS that must be done. */
  done<T = Record<string, unknown>>(...argv: string[]): T
  refusedWith(...argv: string[]): string
  file(name: string, text?: string): string
  connect(certificate: string, privateKeyFile: string): Promise<KmipClient>
}

async function startSite(t: ExecutionContext): Promise<Site> {
  const parent = temporaryDirectory(t)
  const directory = join(parent, 'kms')
  const kms = await startServing(t, directory)
  return {
    kms,
    done: (...argv) => answer(t, ['kms', ...argv, '--directory', directory]),
    refusedWith: (...argv) => refused(t, ['kms', ...argv, '--directory', directory], 2),
    file: (name, text) => {
      if (text !== undefined) writeFileSync(join(parent, name), text)
      return join(parent, name)
    },
    connect: async (certificate, privateKeyFile) => {
      const caCertificate = readFileSync(join(directory, 'ca.pem'), 'utf8')
      const client = await KmipClient.connect({ ...kms.endpoint, caCertificate, certificate, privateKeyFile })
      t.teardown(() => client.close())
      return client
    },
  }
}

test('four ways to enrol: issued, request signed, single certificate pinned, authority trusted', async (t) => {
  const { done, file, connect } = await startSite(t)
  const issued = done<{ certificateFile: string; privateKeyFile: string }>(
    'enrol',
    'issued',
    '--output',
    file('out'),
  )
  t.is(issued.privateKeyFile, join(file('out'), 'client.key'))

  const request = file('request.pem', native.createCertificateRequest('whatever', file('request.key')))
  const signed = done<{ certificate: string }>('enrol', 'signed', '--request', request)

  const own = native.createSelfSignedClient('pinned', file('pinned.key'))
  done('enrol', 'pinned', '--certificate', file('pinned.pem', own))

  const authority = native.createAuthority('theirs', file('theirs.key'))
  const { keyHash } = done<{ keyHash: string }>(
    'trust-authority',
    file('theirs.pem', authority),
    '--common-name',
    'known',
    '--operation',
    'Get',
    '--operation',
    'Locate',
  )
  const known = native.issueClientCertificate(authority, file('theirs.key'), 'known', file('known.key'))
  const stranger = native.issueClientCertificate(authority, file('theirs.key'), 'other', file('other.key'))

  for (const [certificate, key] of [
    [readFileSync(issued.certificateFile, 'utf8'), issued.privateKeyFile],
    [signed.certificate, file('request.key')],
    [own, file('pinned.key')],
  ] as const) {
    const client = await connect(certificate, key)
    t.truthy((await client.create()).id)
  }
  const restricted = await connect(known, file('known.key'))
  t.deepEqual(await restricted.locate(), [])
  t.is(await refusal(t, restricted.create()), 'PermissionDenied')
  await t.throwsAsync(async () => (await connect(stranger, file('other.key'))).locate())

  const { clients, authorities } = done<Listed>('clients')
  t.deepEqual(
    clients.slice(0, 1).map(({ name, certificates }) => [name, certificates.length]),
    [['issued', 1]],
  )
  t.true(clients.some(({ name }) => name.startsWith('known')))
  t.deepEqual(
    authorities.map((one) => one.keyHash),
    [keyHash],
  )
  done('distrust-authority', keyHash)
  await t.throwsAsync(async () => (await connect(known, file('known.key'))).locate())
  t.deepEqual(done<Listed>('clients').authorities, [])
})

test('disable, enable, allow, grant and revoke-grant work at once', async (t) => {
  const { kms, done, refusedWith, connect } = await startSite(t)
  const enrol = async (name: string): Promise<KmipClient> => {
    const files = done<{ certificateFile: string; privateKeyFile: string }>('enrol', name)
    return connect(readFileSync(files.certificateFile, 'utf8'), files.privateKeyFile)
  }
  const [owner, reader] = [await enrol('owner'), await enrol('reader')]
  const { id } = await owner.create()
  t.is(await refusal(t, reader.getAttributes(id)), 'ItemNotFound')
  done('grant', id, 'reader', 'GetAttributes')
  t.truthy(await reader.getAttributes(id))
  t.deepEqual(done<Listed>('clients').grants, [
    { client: 'reader', keyId: id, operations: ['GetAttributes'] },
  ])
  done('revoke-grant', id, 'reader')
  t.is(await refusal(t, reader.getAttributes(id)), 'ItemNotFound')

  done('allow', 'owner', 'Get', 'Locate')
  t.is(await refusal(t, owner.create()), 'PermissionDenied')
  t.deepEqual(done<Listed>('clients').clients[0]?.operations, ['Get', 'Locate'])
  done('allow', 'owner')
  t.truthy((await owner.create()).id)

  done('disable', 'owner')
  await t.throwsAsync(owner.locate())
  done('enable', 'owner')
  t.is(refusedWith('disable', 'nobody'), 'VMSEAL_NOT_FOUND')
  t.is(refusedWith('allow', 'owner', 'Steal'), 'VMSEAL_INVALID_ARGUMENT')
  t.is(refusedWith('grant', 'no-such-key', 'reader', 'Get'), 'VMSEAL_NOT_FOUND')
  t.is(refusedWith('grant', id, 'nobody', 'Get'), 'VMSEAL_NOT_FOUND')
  t.is(refusedWith('revoke-grant', id, 'reader'), 'VMSEAL_NOT_FOUND')
  t.is(refusedWith('distrust-authority', 'abc'), 'VMSEAL_NOT_FOUND')
  const { clients } = done<Listed>('clients')
  t.deepEqual(
    clients.map(({ name, enabled }) => [name, enabled]),
    [
      ['owner', true],
      ['reader', true],
    ],
  )
  t.is(await kms.stop(), 0, 'it was not harmed')
})

test('refused: names, files and combinations that are wrong', async (t) => {
  const { refusedWith, file } = await startSite(t)
  for (const name of ['', '../up', 'a/b', 'x'.repeat(500), 'line\nbreak'])
    t.is(refusedWith('enrol', name), 'VMSEAL_INVALID_ARGUMENT', name)
  t.is(refusedWith('enrol', 'x', '--request', file('missing')), 'VMSEAL_NOT_FOUND')
  t.is(refusedWith('enrol', 'x', '--request', file('junk', 'no PEM')), 'VMSEAL_CERTIFICATE_INVALID')
  t.is(refusedWith('enrol', 'x', '--certificate', file('junk')), 'VMSEAL_CERTIFICATE_INVALID')
  t.is(refusedWith('enrol', 'x', '--certificate', '/dev/zero'), 'VMSEAL_INVALID_ARGUMENT')
  t.is(refusedWith('trust-authority', file('big', 'x'.repeat(2 ** 20 + 1))), 'VMSEAL_INVALID_ARGUMENT')
  t.is(
    refusedWith('enrol', 'x', '--request', file('junk'), '--certificate', file('junk')),
    'VMSEAL_INVALID_ARGUMENT',
  )
})

test('people see tables', async (t) => {
  const directory = join(temporaryDirectory(t), 'kms')
  await startServing(t, directory)
  answer(t, ['kms', 'enrol', 'vcenter', '--directory', directory])
  answer(t, ['kms', 'grant', 'all', 'vcenter', 'Get', 'Locate', '--directory', directory])
  const { status, stdout } = vmseal(['kms', 'clients', '--directory', directory])
  t.is(status, 0)
  t.regex(
    stdout,
    /^client +state +may +certificates +last expires\nvcenter +enabled +all +1 +20\d\d-\d\d-\d\d\n/,
  )
  t.regex(stdout, /grant to +key +operations\nvcenter +all +Get Locate\n$/)
})
