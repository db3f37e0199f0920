/** Row H7 of the feature table: ways to a KMS other than a plain connection to an IPv4 address. */
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import path from 'node:path'
import { KmipClient } from '../../src/kmip/client.js'
import { Kms, VCenter } from '../../src/index.js'
import { diagnoseUnregistered } from '../../src/vcenter/key-provider/doctor.js'
import { startWithClient, temporaryDirectory } from '../kms/running-kms.js'

async function openVCenter(t: ExecutionContext): Promise<VCenter> {
  const vcenter = await VCenter.open({ directory: path.join(temporaryDirectory(t), 'vcenter') })
  t.teardown(() => vcenter.close())
  return vcenter
}

/** An HTTP proxy that knows one name, and nothing but CONNECT; it says whom it was asked for. */
async function startHttpProxy(t: ExecutionContext, known: string, port: number) {
  const asked: string[] = []
  const open = new Set<Socket>()
  const proxy = createServer((_, response) => void response.writeHead(405).end())
  proxy.on('connect', ({ url = '' }, client: Socket) => {
    asked.push(url)
    open.add(client.on('error', () => {}))
    if (url !== `${known}:${port}`) return void client.end('HTTP/1.1 403 Forbidden\r\n\r\n')
    const server = connect({ host: '127.0.0.1', port }, () => {
      client.write('HTTP/1.1 200 OK\r\n\r\n')
      server.pipe(client).pipe(server)
    }).on('error', () => void client.destroy())
    open.add(server)
  })
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    proxy.close()
    for (const socket of open) socket.destroy()
  })
  return { address: { host: '127.0.0.1', port: (proxy.address() as AddressInfo).port }, asked }
}

test('H7: a provider reaches its KMS through an HTTP proxy, which alone knows its name', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  const { port } = kms.endpoint
  const proxy = await startHttpProxy(t, 'kms.inside.invalid', port)
  const server = { host: 'kms.inside.invalid', port, serverName: 'localhost', proxy: proxy.address }
  const vcenter = await openVCenter(t)
  await vcenter.keyProviders.add({ id: 'inside', servers: server, credentials })
  t.deepEqual((await vcenter.keyProviders.get('inside')).servers, [server])
  const { keyId } = await vcenter.keyProviders.keys.create({ providerId: 'inside' })
  t.truthy(keyId)
  const status = await vcenter.keyProviders.status('inside')
  t.like(status.servers[0], { status: 'green', reachable: true })
  const { certificate } = await vcenter.keyProviders.serverTrust.fetch('inside', server)
  t.regex(certificate, /BEGIN CERTIFICATE/)
  t.true(proxy.asked.length >= 2)
  t.deepEqual([...new Set(proxy.asked)], [`kms.inside.invalid:${port}`])
  const { ok, hops } = await diagnoseUnregistered(server, credentials)
  t.true(ok, JSON.stringify(hops))
  t.regex(hops.find(({ hop }) => hop === 'tcp')?.detail ?? '', /port of the proxy/)
})

test('H7: a proxy that refuses is named, and nobody waits for it', async (t) => {
  const { kms, credentials } = await startWithClient(t)
  const { port } = kms.endpoint
  const proxy = await startHttpProxy(t, 'kms.inside.invalid', port)
  const options = { ...credentials, port, serverName: 'localhost', proxy: proxy.address }
  await t.throwsAsync(KmipClient.connect({ ...options, host: 'another.invalid' }), {
    code: 'VMSEAL_KMIP_CONNECTION',
    message: /proxy gives no way to another\.invalid:\d+; it says "HTTP\/1\.1 403 Forbidden"/,
  })
  await t.throwsAsync(
    KmipClient.connect({ ...options, host: 'kms.inside.invalid', proxy: { host: '127.0.0.1', port: 1 } }),
    { code: 'VMSEAL_KMIP_CONNECTION', message: /by the proxy/ },
  )
  const vcenter = await openVCenter(t)
  for (const bad of [
    { host: '', port: 3128 },
    { host: 'proxy', port: 0 },
  ])
    await t.throwsAsync(
      vcenter.keyProviders.add({ id: 'bad', servers: { host: 'kms', port, proxy: bad }, credentials }),
      { code: 'VMSEAL_INVALID_ARGUMENT', message: /proxy/ },
    )
})

test('H7: a KMS that listens on an IPv6 address serves its clients there', async (t) => {
  const directory = path.join(temporaryDirectory(t), 'kms')
  const kms = await Kms.start({ directory, host: '::1' })
  t.teardown(() => kms.stop())
  const credentials = await kms.enrol('vcenter')
  const vcenter = await openVCenter(t)
  await vcenter.keyProviders.add({ id: 'six', servers: kms.endpoint, credentials })
  const { keyId } = await vcenter.keyProviders.keys.create({ providerId: 'six' })
  const client = await KmipClient.connect({ ...kms.endpoint, ...credentials })
  t.teardown(() => client.close())
  const { key } = await client.get(keyId)
  t.is(key.length, 32)
  key.dispose()
  const { ok } = await diagnoseUnregistered(kms.endpoint, credentials)
  t.true(ok)
})
