/** A host on the network before, while and after it joins a vCenter. */
import { mkdir, mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { connect } from 'node:tls'
import { once } from 'node:events'
import test, { type ExecutionContext } from 'ava'
import { HostAgent, type HostAgentOptions } from '../../src/agent/host-agent.js'
import { VmsealError } from '../../src/errors.js'
import { native } from '../../src/native/load.js'
import { renewHostCertificate } from '../../src/rpc/certificate-client.js'
import { HostServer } from '../../src/rpc/host-server.js'
import { HttpsHost } from '../../src/rpc/https-host.js'
import { HttpsListener } from '../../src/rpc/https-listener.js'
import { joinHost } from '../../src/rpc/join-client.js'
import type { JoinOffer } from '../../src/rpc/join-server.js'
import type { JoinGrant } from '../../src/rpc/join-token.js'
import { hostCertificateName, type HostAddress } from '../../src/rpc/wire.js'

interface Place {
  readonly directory: string
  start(change?: Partial<HostAgentOptions>): Promise<HostAgent>
}

async function makePlace(t: ExecutionContext): Promise<Place> {
  const root = await mkdtemp(path.join(tmpdir(), 'vmseal-agent-'))
  const directory = path.join(root, 'host')
  await mkdir(path.join(root, 'ds1'))
  const agents: HostAgent[] = []
  t.teardown(async () => {
    for (const agent of agents) await agent.stop().catch(() => {})
    await rm(root, { recursive: true, force: true })
  })
  return {
    directory,
    start: async (change = {}) => {
      const datastores = { ds1: path.join(root, 'ds1') }
      const agent = await HostAgent.start({ name: 'esx-1', datastores, directory, ...change })
      agents.push(agent)
      return agent
    },
  }
}

/** A vCenter's CA and its own certificate. */
async function makeVcenter(t: ExecutionContext) {
  const directory = await mkdtemp(path.join(tmpdir(), 'vmseal-ca-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  const [caKey, privateKeyFile] = [path.join(directory, 'ca.key'), path.join(directory, 'client.key')]
  const caCertificate = native.createAuthority('CA', caKey)
  const certificate = native.issueClientCertificate(caCertificate, caKey, 'vcenter', privateKeyFile)
  const vcenterKeyHash = native.describeCertificate(certificate).keyHash
  const sign = (names: string[], request: string, notAfter?: number) =>
    native.signServerRequest(caCertificate, caKey, request, names, notAfter)
  return {
    credentials: { caCertificate, certificate, privateKeyFile },
    sign,
    grant: async ({ hostId, request }: JoinOffer): Promise<JoinGrant> => ({
      caCertificate,
      vcenterKeyHash,
      certificate: sign([hostCertificateName(hostId)], request),
    }),
  }
}

async function joinAgent(t: ExecutionContext, agent: HostAgent) {
  const vcenter = await makeVcenter(t)
  const { token = '' } = agent.joinToken ?? {}
  let keyHash = ''
  const joined = once(agent, 'joined')
  const { hostId } = await joinHost(agent.address, token, async (offer) => {
    const grant = await vcenter.grant(offer)
    keyHash = native.describeCertificate(grant.certificate).keyHash
    return grant
  })
  await joined
  const connectTo = (address: HostAddress) => {
    const host = new HttpsHost({ address, hostId, keyHash, credentials: vcenter.credentials })
    t.teardown(() => host.close())
    return host.api
  }
  const peer = {
    address: agent.address,
    hostId,
    keyHashes: new Set([keyHash]),
    credentials: vcenter.credentials,
  }
  return { hostId, token, connectTo, vcenter, peer }
}

test('a host joins, is reached by its vCenter, and belongs to it after every start', async (t) => {
  const place = await makePlace(t)
  const first = await place.start()
  const { hostId, connectTo } = await joinAgent(t, first)
  t.is(first.joinToken, undefined)
  const identity = await connectTo(first.address).identify()
  t.like(identity, { hostId, name: 'esx-1' })
  await first.stop()
  const second = await place.start()
  t.is(second.joinToken, undefined)
  const again = await connectTo(second.address).identify()
  t.is(again.hostId, hostId)
  t.not(again.bootId, identity.bootId)
})

test('private keys are files of their owner, and the token is in no file', async (t) => {
  const place = await makePlace(t)
  const agent = await place.start()
  const { token } = agent.joinToken ?? { token: 'none' }
  const secret = Buffer.from(token.slice('vmseal-join-1.'.length), 'base64url').subarray(32)
  const files = await readdir(place.directory)
  t.is(files.filter((name) => name.endsWith('.key')).length, 2)
  for (const name of files) {
    const file = path.join(place.directory, name)
    const bytes = await readFile(file)
    for (const form of [
      secret,
      secret.toString('base64'),
      secret.toString('base64url'),
      secret.toString('hex'),
    ])
      t.false(bytes.includes(form), name)
    if (name.endsWith('.key') || name === 'host.json') t.is((await stat(file)).mode & 0o777, 0o600, name)
  }
  t.is((await stat(place.directory)).mode & 0o777, 0o700)
})

test('before it joins a host answers nothing but the join, whoever asks', async (t) => {
  const place = await makePlace(t)
  const agent = await place.start()
  const socket = connect({ ...agent.address, rejectUnauthorized: false })
  let text = ''
  socket.setEncoding('utf8').on('data', (part: string) => (text += part))
  await once(socket, 'secureConnect')
  socket.write('GET /vmseal HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n')
  await once(socket, 'close')
  t.regex(text, /VMSEAL_JOIN_REFUSED/)
  const vcenter = await makeVcenter(t)
  const host = new HttpsHost({
    address: agent.address,
    hostId: agent.host.id,
    keyHash: 'ab'.repeat(32),
    credentials: vcenter.credentials,
  })
  t.teardown(() => host.close())
  await t.throwsAsync(host.api.identify(), { code: 'VMSEAL_HOST_NOT_TRUSTED' })
})

test('a certificate for another host, another key or another CA is not taken', async (t) => {
  const place = await makePlace(t)
  const agent = await place.start()
  const [vcenter, other] = [await makeVcenter(t), await makeVcenter(t)]
  const keyFile = path.join(place.directory, '..', 'other.key')
  const otherRequest = native.createCertificateRequest('x', keyFile)
  const wrong: ((offer: JoinOffer) => Promise<JoinGrant>)[] = [
    async (offer) => ({
      ...(await vcenter.grant(offer)),
      certificate: vcenter.sign(['x.host.vmseal'], offer.request),
    }),
    async (offer) => vcenter.grant({ ...offer, request: otherRequest }),
    async (offer) => ({
      ...(await vcenter.grant(offer)),
      caCertificate: (await other.grant(offer)).caCertificate,
    }),
    async (offer) => ({
      ...(await vcenter.grant(offer)),
      caCertificate: (await vcenter.grant(offer)).certificate,
    }),
    async (offer) => ({ ...(await vcenter.grant(offer)), certificate: 'no PEM' }),
  ]
  for (const grant of wrong) {
    const { token } = await agent.renewJoinToken()
    await t.throwsAsync(joinHost(agent.address, token, grant), { code: 'VMSEAL_CERTIFICATE_INVALID' })
  }
  const { token } = await agent.renewJoinToken()
  await joinHost(agent.address, token, vcenter.grant)
})

test('a new token takes the place of the old one; a host that has joined makes none', async (t) => {
  const place = await makePlace(t)
  const agent = await place.start()
  const old = agent.joinToken?.token ?? ''
  t.not((await agent.renewJoinToken()).token, old)
  const { grant } = await makeVcenter(t)
  await t.throwsAsync(joinHost(agent.address, old, grant), { code: 'VMSEAL_HOST_NOT_TRUSTED' })
  await joinAgent(t, agent)
  await t.throwsAsync(agent.renewJoinToken(), { code: 'VMSEAL_INVALID_STATE' })
})

test('a host that leaves its vCenter waits to join again, under the same id', async (t) => {
  const place = await makePlace(t)
  const agent = await place.start()
  const { hostId, connectTo } = await joinAgent(t, agent)
  await t.throwsAsync(HostAgent.leave(place.directory), { code: 'VMSEAL_FILE_LOCKED' })
  await agent.stop()
  await HostAgent.leave(place.directory)
  const again = await place.start()
  t.is(again.host.id, hostId)
  t.truthy(again.joinToken)
  await t.throwsAsync(connectTo(again.address).identify(), { code: 'VMSEAL_HOST_NOT_TRUSTED' })
  await joinAgent(t, again)
})

test('one agent for one directory, one port for one agent, and no agent from a damaged file', async (t) => {
  const place = await makePlace(t)
  const agent = await place.start()
  await t.throwsAsync(place.start(), { code: 'VMSEAL_FILE_LOCKED' })
  const other = path.join(place.directory, '..', 'other')
  await t.throwsAsync(place.start({ directory: other, listen: agent.address }), {
    code: 'VMSEAL_ADDRESS_UNAVAILABLE',
  })
  await agent.stop()
  for (const text of ['', '{', '{"version":2}', '{"version":1,"hostId":"x"}', 'x'.repeat(200_000)]) {
    await writeFile(path.join(place.directory, 'host.json'), text)
    await t.throwsAsync(place.start(), { code: 'VMSEAL_STORE_INVALID' }, text.slice(0, 30))
  }
  await t.throwsAsync(place.start({ directory: '' }), { code: 'VMSEAL_INVALID_ARGUMENT' })
})

const keysIn = async (directory: string) =>
  (await readdir(directory)).filter((name) => name.startsWith('host-')).toSorted()

test('a certificate is renewed for another key, without a break, and lasts over a start', async (t) => {
  const place = await makePlace(t)
  const agent = await place.start()
  const { hostId, connectTo, vcenter, peer } = await joinAgent(t, agent)
  const before = await keysIn(place.directory)
  const link = connectTo(agent.address)
  const { bootId } = await link.identify()
  const renewed = once(agent, 'certificateRenewed')
  let keyHash = ''
  const ends = Math.floor(Date.now() / 1000) + 3600
  await renewHostCertificate(peer, async (request, shown) => {
    t.true(peer.keyHashes.has(shown))
    const certificate = vcenter.sign([hostCertificateName(hostId)], request, ends)
    keyHash = native.describeCertificate(certificate).keyHash
    return certificate
  })
  t.deepEqual(await renewed, [new Date(ends * 1000)])
  t.deepEqual(agent.certificateExpires, new Date(ends * 1000))
  t.is((await link.identify()).bootId, bootId, 'a connection that is open goes on')
  const after = await keysIn(place.directory)
  t.is(after.length, 1)
  t.notDeepEqual(after, before, 'the old key is gone')
  // A new connection has to accept the new key; who knows the old one only is not fooled.
  await t.throwsAsync(connectTo(agent.address).identify(), { code: 'VMSEAL_HOST_NOT_TRUSTED' })
  await agent.stop()
  const again = await place.start()
  const next = new HttpsHost({ address: again.address, hostId, keyHash, credentials: vcenter.credentials })
  t.teardown(() => next.close())
  t.is((await next.api.identify()).hostId, hostId)
  t.deepEqual(again.certificateExpires, new Date(ends * 1000))
})

test('a renewal with a certificate that is not right changes nothing, nor does one that nobody asked for', async (t) => {
  const place = await makePlace(t)
  const agent = await place.start()
  const { hostId, connectTo, vcenter, peer } = await joinAgent(t, agent)
  const other = await makeVcenter(t)
  const names = [hostCertificateName(hostId)]
  const keyFile = path.join(place.directory, '..', 'other.key')
  const otherRequest = native.createCertificateRequest('x', keyFile)
  const earlier: string[] = []
  const wrong: [string, (request: string) => string][] = [
    ['of another CA', (request) => other.sign(names, request)],
    ['for another id', (request) => vcenter.sign(['x.host.vmseal'], request)],
    ['for another key', () => vcenter.sign(names, otherRequest)],
    ['that has expired', (request) => vcenter.sign(names, request, Math.floor(Date.now() / 1000) - 60)],
    ['no PEM', () => 'no PEM'],
    ['for the key of an earlier request', (request) => vcenter.sign(names, earlier.splice(0, 1, request)[0] ?? request)],
  ] // prettier-ignore
  await renewHostCertificate(peer, async (request) => {
    earlier.push(request)
    throw new VmsealError('VMSEAL_CANCELLED')
  }).catch(() => {})
  for (const [why, make] of wrong)
    await t.throwsAsync(
      renewHostCertificate(peer, async (request) => make(request)),
      { code: 'VMSEAL_CERTIFICATE_INVALID' },
      why,
    )
  t.is((await connectTo(agent.address).identify()).hostId, hostId, 'the old one counts')
  await agent.stop()
  t.is((await connectTo((await place.start({ listen: peer.address })).address).identify()).hostId, hostId)
})

test('vCenter asks nothing of who is not the host, and takes an expired certificate only on order', async (t) => {
  const place = await makePlace(t)
  const agent = await place.start()
  const { hostId, vcenter, peer } = await joinAgent(t, agent)
  const other = await makeVcenter(t)
  const names = [hostCertificateName(hostId)]
  const unasked = async (): Promise<string> => {
    t.fail('it was asked')
    return ''
  }
  const refused = async (change: object, code: string) =>
    t.throwsAsync(renewHostCertificate({ ...peer, ...change }, unasked), { code })
  await refused({ keyHashes: new Set(['ab'.repeat(32)]) }, 'VMSEAL_HOST_NOT_TRUSTED')
  await refused({ hostId: '11111111-1111-4111-8111-111111111111' }, 'VMSEAL_HOST_NOT_TRUSTED')
  await refused({ address: { host: '127.0.0.1', port: 1 } }, 'VMSEAL_HOST_UNREACHABLE')
  await refused({ credentials: other.credentials }, 'VMSEAL_HOST_NOT_TRUSTED')

  // The same host with a certificate that is too old.
  await agent.stop()
  const old = await expiredIdentity(vcenter, path.join(place.directory, '..'), names)
  const listener = await HttpsListener.open({ host: '127.0.0.1', port: 0 }, () => {})
  t.teardown(() => listener.close())
  const server = new HostServer({
    host: agent.host,
    hostId,
    certificate: { request: async () => 'a request', install: async () => {} },
  })
  listener.serve(old, server.answer)
  const address = { host: '127.0.0.1', port: listener.port }
  const keyHashes = new Set([native.describeCertificate(old.certificate).keyHash])
  await refused({ address, keyHashes }, 'VMSEAL_HOST_CERTIFICATE_EXPIRED')
  await refused({ address, keyHashes: peer.keyHashes, expiredToo: true }, 'VMSEAL_HOST_NOT_TRUSTED')
  await refused({ address, keyHashes, expiredToo: true, credentials: { ...peer.credentials, caCertificate: other.credentials.caCertificate } }, 'VMSEAL_HOST_NOT_TRUSTED') // prettier-ignore
  const asked: string[] = []
  await renewHostCertificate({ ...peer, address, keyHashes, expiredToo: true }, async (request) => {
    asked.push(request)
    return 'a certificate'
  })
  t.deepEqual(asked, ['a request'])
  const link = new HttpsHost({
    address,
    hostId,
    keyHash: [...keyHashes][0] ?? '',
    credentials: peer.credentials,
  })
  t.teardown(() => link.close())
  const told = await t.throwsAsync<VmsealError>(link.api.identify(), {
    code: 'VMSEAL_HOST_CERTIFICATE_EXPIRED',
  })
  t.regex(told?.action ?? '', /host renew-certificate/)
})

/** A key whose certificate ended a minute ago, and whom it lets in. */
async function expiredIdentity(
  vcenter: Awaited<ReturnType<typeof makeVcenter>>,
  directory: string,
  names: string[],
) {
  const privateKeyFile = path.join(directory, 'expired.key')
  const request = native.createCertificateRequest('x', privateKeyFile)
  const certificate = vcenter.sign(names, request, Math.floor(Date.now() / 1000) - 60)
  const clientKeyHash = native.describeCertificate(vcenter.credentials.certificate).keyHash
  return { caCertificate: vcenter.credentials.caCertificate, certificate, privateKeyFile, clientKeyHash }
}

test('a directory that was open to others is closed to them', async (t) => {
  const place = await makePlace(t)
  await mkdir(place.directory, { mode: 0o755 })
  await place.start()
  t.is((await stat(place.directory)).mode & 0o777, 0o700)
})
