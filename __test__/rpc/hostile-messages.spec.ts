/** Whoever has the right certificate may still send anything: every message is answered with a code, or not at all. */
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createServer, request as httpsRequest } from 'node:https'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { rpcPath } from '../../src/rpc/wire.js'
import { hostCertificateName } from '../../src/rpc/wire.js'
import { makeLab } from '../host/fixture.js'
import { makeAuthority, partialHost, serveHost, type ServedHost } from './network.js'

interface Answer {
  readonly status: number
  readonly message: { error?: { code: string }; result?: unknown; instance?: string; versions?: number[] }
}

function ask(
  served: ServedHost,
  method: string,
  path: string,
  { body, headers = {} }: { body?: string | Buffer; headers?: Record<string, string> } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const { certificate, privateKeyFile, caCertificate } = served.credentials
    const request = httpsRequest({
      ...served.address, method, path, headers, agent: false, ca: caCertificate, cert: certificate,
      key: readFileSync(privateKeyFile), servername: hostCertificateName(served.hostId),
    }) // prettier-ignore
    request.on('error', reject)
    request.on('response', (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (part: string) => (text += part))
      response.on('error', reject)
      response.on('end', () => {
        const last = text.trim().split('\n').at(-1) ?? ''
        resolve({ status: response.statusCode ?? 0, message: JSON.parse(last) as Answer['message'] })
      })
    })
    request.end(body)
  })
}

async function instanceOf(served: ServedHost): Promise<Record<string, string>> {
  const { message } = await ask(served, 'GET', rpcPath)
  return { 'vmseal-instance': message.instance ?? '' }
}

const requests = `${rpcPath}/1/requests`

async function serve(t: ExecutionContext): Promise<ServedHost> {
  return serveHost(t, partialHost({ listKeys: async () => [], removeKey: async () => {} }))
}

test('a request that is none is refused with a code that says so', async (t) => {
  const served = await serve(t)
  const headers = await instanceOf(served)
  const post = async (body: string | Buffer) =>
    (await ask(served, 'POST', `${requests}/${randomUUID()}`, { body, headers })).message.error?.code
  t.is(await post('{"method":"listKeys","values":[]}'), undefined, 'the test asks rightly')
  for (const body of [
    '',
    '{',
    'null',
    '[]',
    '7',
    '"listKeys"',
    '{"method":"listKeys"}',
    '{"method":"constructor","values":[]}',
    '{"method":"__proto__","values":[]}',
    '{"method":"toString","values":[]}',
    '{"method":["listKeys"],"values":[]}',
    '{"method":"listKeys","values":{}}',
    '{"method":"listKeys","values":[1]}',
    '{"values":[],"method":null}',
    `{"method":"removeKey","values":[${'['.repeat(5000)}${']'.repeat(5000)}]}`,
    `{"method":"removeKey","values":["${'x'.repeat(4 * 2 ** 20)}"]}`,
  ])
    // prettier-ignore
    t.is(await post(body), 'VMSEAL_RPC_MALFORMED', body.slice(0, 60))
  t.is(await post('{"method":"readDisk","values":[{},"",0,1]}'), 'VMSEAL_HOST_LOCAL_ONLY')
  t.is(await post(Buffer.from([0xff, 0xfe, 0x00])), 'VMSEAL_RPC_MALFORMED')
})

test('addresses, versions and instances that do not exist are refused', async (t) => {
  const served = await serve(t)
  const headers = await instanceOf(served)
  const code = async (method: string, path: string) =>
    (await ask(served, method, path, { headers })).message.error?.code
  for (const path of [
    '/',
    '/vmseal/',
    '/vmseal/1',
    `${requests}/`,
    `${requests}/../x`,
    `${requests}/1`,
    '/x'.repeat(500),
  ])
    t.is(await code('GET', path), 'VMSEAL_RPC_MALFORMED', path)
  t.is(await code('GET', `${rpcPath}/2/requests`), 'VMSEAL_RPC_VERSION')
  t.is(await code('GET', `${requests}/${randomUUID()}`), 'VMSEAL_NOT_FOUND')
  t.is(await code('PUT', `${requests}/${randomUUID()}`), 'VMSEAL_RPC_MALFORMED')
  t.is(await code('DELETE', requests), 'VMSEAL_RPC_MALFORMED')
  const stale = await ask(served, 'POST', `${requests}/${randomUUID()}`, {
    headers: { 'vmseal-instance': randomUUID() },
    body: '{"method":"listKeys","values":[]}',
  })
  t.is(stale.status, 409)
})

test('no message of any shape makes a real host answer with anything but a code', async (t) => {
  const lab = await makeLab(t)
  const served = await serveHost(t, lab.host, { hostId: lab.host.id })
  const headers = await instanceOf(served)
  const method = fc.constantFrom(
    'installKey', 'removeKey', 'createVirtualMachine', 'reconfigureVirtualMachine', 'readVirtualMachine',
    'findVirtualMachines', 'destroyVirtualMachine', 'powerOn', 'digestDisk',
  ) // prettier-ignore
  await fc.assert(
    fc.asyncProperty(method, fc.array(fc.jsonValue(), { maxLength: 2 }), async (name, values) => {
      const body = JSON.stringify({ method: name, values })
      const { message } = await ask(served, 'POST', `${requests}/${randomUUID()}`, { headers, body })
      if (name === 'removeKey' && message.error === undefined) return
      t.regex(message.error?.code ?? 'none', /^VMSEAL_(?!INTERNAL)/, `${body} ${JSON.stringify(message)}`)
    }),
    { numRuns: 150 },
  )
  t.is((await lab.host.identify()).hostId, lab.host.id)
})

test('an answer that is none is refused by vCenter with a code', async (t) => {
  const hostId = randomUUID()
  const authority = await makeAuthority(t)
  const [own, credentials] = [authority.host(hostId), authority.client()]
  let answer = ''
  const server = createServer(
    {
      cert: own.certificate,
      key: readFileSync(own.privateKeyFile),
      ca: authority.caCertificate,
      requestCert: true,
    },
    (request, response) => {
      const greeting = JSON.stringify({ versions: [1], instance: randomUUID(), hostId })
      response.end(request.url === rpcPath ? `${greeting}\n` : answer)
    },
  )
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const address = { host: '127.0.0.1', port: (server.address() as AddressInfo).port }
  const served = await serve(t)
  const client = served.connect({ address, hostId, keyHash: own.keyHash, credentials })
  for (const text of [
    '7\n',
    'null\n',
    '{}\n',
    '{"result":7}\n',
    '{"result":[{"keyId":1,"providerId":"p"}]}\n',
    '{"result":{}}\n',
    '{"error":7}\n',
    '{"error":{"code":"VMSEAL_IO"}}\n',
    'no JSON\n',
    `${'['.repeat(1000)}\n`,
    `{"result":"${'x'.repeat(5 * 2 ** 20)}"}\n`,
  ]) {
    // prettier-ignore
    answer = text
    await t.throwsAsync(client.api.listKeys(), { code: 'VMSEAL_RPC_MALFORMED' }, text.slice(0, 60))
  }
  answer = '{"error":{"code":"VMSEAL_OF_A_NEWER_VERSION","message":"what it says","details":{}}}\n'
  await t.throwsAsync(client.api.listKeys(), { code: 'VMSEAL_INTERNAL', message: 'what it says' })
  answer = '{"result":[{"keyId":"k","providerId":"p"}]}\n'
  t.deepEqual(await client.api.listKeys(), [{ keyId: 'k', providerId: 'p' }])
})

test('a vCenter that has no version in common with a host says which ones there are', async (t) => {
  const hostId = randomUUID()
  const authority = await makeAuthority(t)
  const [own, credentials] = [authority.host(hostId), authority.client()]
  const server = createServer(
    {
      cert: own.certificate,
      key: readFileSync(own.privateKeyFile),
      ca: authority.caCertificate,
      requestCert: true,
    },
    (_, response) =>
      response.end(`${JSON.stringify({ versions: [98, 99], instance: randomUUID(), hostId })}\n`),
  )
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const address = { host: '127.0.0.1', port: (server.address() as AddressInfo).port }
  const client = (await serve(t)).connect({ address, hostId, keyHash: own.keyHash, credentials })
  const error = await t.throwsAsync(client.api.listKeys(), { code: 'VMSEAL_RPC_VERSION' })
  t.regex(error?.message ?? '', /98, 99/)
})

test('the same id with another request is refused; with the same one it is not done again', async (t) => {
  const done: string[] = []
  const served = await serveHost(t, partialHost({ removeKey: async ({ keyId }) => void done.push(keyId) }))
  const headers = await instanceOf(served)
  const path = `${requests}/${randomUUID()}`
  const body = (keyId: string) =>
    JSON.stringify({ method: 'removeKey', values: [{ keyId, providerId: 'p' }] })
  for (let times = 0; times < 3; times += 1)
    t.is((await ask(served, 'POST', path, { headers, body: body('k') })).message.error, undefined)
  const other = await ask(served, 'POST', path, { headers, body: body('k2') })
  t.is(other.message.error?.code, 'VMSEAL_RPC_MALFORMED')
  t.deepEqual(done, ['k'])
})
