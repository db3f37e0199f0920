/** The server and the client of interop/kmip-go, which scripts/interop.mjs builds. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import type { KmipClientOptions } from '../../src/kmip/client.js'
import { native } from '../../src/native/load.js'
import { temporaryDirectory } from '../kms/running-kms.js'

export const kmipGo = fileURLToPath(new URL('../../build/interop/kmip-go', import.meta.url))

/** It needs modules from the network to be built, so its absence never fails a test. */
export function hasKmipGo(t: ExecutionContext): boolean {
  if (existsSync(kmipGo)) return true
  t.log('skipped: kmip-go not built (node scripts/interop.mjs builds it with Go)')
  t.pass()
  return false
}

export async function startKmipGo(t: Pick<ExecutionContext, 'teardown'>): Promise<KmipClientOptions> {
  const directory = temporaryDirectory(t as ExecutionContext)
  const file = (name: string) => join(directory, name)
  const caCertificate = native.createAuthority('peer authority', file('ca.key'))
  const server = native.issueServerCertificate(
    caCertificate,
    file('ca.key'),
    ['127.0.0.1'],
    file('server.key'),
  )
  const certificate = native.issueClientCertificate(
    caCertificate,
    file('ca.key'),
    'alice',
    file('client.key'),
  )
  writeFileSync(file('ca.pem'), caCertificate)
  writeFileSync(file('server.pem'), server)
  const child = spawn(kmipGo, ['server', file('server.pem'), file('server.key'), file('ca.pem')], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = once(child, 'exit')
  t.teardown(async () => {
    child.kill()
    await ended
  })
  const [address] = (await once(createInterface({ input: child.stdout }), 'line')) as [string]
  const port = Number(address.split(':').at(-1))
  return { host: '127.0.0.1', port, caCertificate, certificate, privateKeyFile: file('client.key') }
}
