/** PyKMIP (Debian: python3-pykmip) as server and as client. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { KmipClient } from '../../src/kmip/client.js'
import type { KmipClientOptions } from '../../src/kmip/client.js'
import { native } from '../../src/native/load.js'
import { temporaryDirectory } from '../kms/running-kms.js'
import { requirePeer, runs } from '../peers.js'

/** Where Debian puts python3-pykmip. */
const python = '/usr/bin/python3'

export function hasPyKmip(t: ExecutionContext): boolean {
  return requirePeer(t, 'python3-pykmip', runs(python, '-c', 'import kmip'))
}

function script(name: string): string {
  return fileURLToPath(new URL(name, import.meta.url))
}

/** Starts the server on loopback with an ECDSA certificate (it has no suites in common with rustls for RSA). */
export async function startPyKmip(
  t: Pick<ExecutionContext, 'teardown'>,
  interpreter = python,
): Promise<KmipClientOptions> {
  const directory = temporaryDirectory(t as ExecutionContext)
  const file = (name: string) => join(directory, name)
  const caCertificate = native.createAuthority('peer authority', file('ca.key'))
  const server = native.issueServerCertificate(
    caCertificate,
    file('ca.key'),
    ['localhost', '127.0.0.1'],
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
  mkdirSync(file('policies'))
  const port = await freePort()
  writeFileSync(
    file('server.conf'),
    [
      '[server]',
      'hostname=127.0.0.1',
      `port=${port}`,
      `certificate_path=${file('server.pem')}`,
      `key_path=${file('server.key')}`,
      `ca_path=${file('ca.pem')}`,
      'auth_suite=TLS1.2',
      `policy_path=${file('policies')}`,
      'enable_tls_client_auth=True',
      `database_path=${file('pykmip.db')}`,
      'logging_level=INFO',
      '',
    ].join('\n'),
  )
  // It forks: a process group of its own is ended as a whole.
  const child = spawn(interpreter, [script('pykmip-server.py'), file('server.conf'), file('server.log')], {
    detached: true,
    stdio: 'ignore',
  })
  const ended = once(child, 'exit')
  t.teardown(async () => {
    if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGKILL')
    await ended
  })
  const options = {
    host: '127.0.0.1',
    port,
    caCertificate,
    certificate,
    privateKeyFile: file('client.key'),
  }
  await waitForServer(options, () => readFileSync(file('server.log'), 'utf8'))
  return options
}

async function waitForServer(options: KmipClientOptions, log: () => string): Promise<void> {
  let last: unknown
  for (let attempt = 0; attempt < 100; attempt++) {
    try {
      const client = await KmipClient.connect(options)
      client.close()
      return
    } catch (error) {
      last = error
      await sleep(100)
    }
  }
  throw new Error(`PyKMIP did not start: ${log()}`, { cause: last })
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

export interface PyKmipJob {
  host: string
  port: number
  certificate: string
  key: string
  ca: string
  version: string
}

/** Runs PyKMIP's client through a life of keys; what it saw. */
export async function runPyKmipClient(job: PyKmipJob): Promise<Record<string, unknown>> {
  const child = spawn(python, [script('pykmip-client.py')], { stdio: 'pipe' })
  const output: Buffer[] = []
  const errors: Buffer[] = []
  child.stdout.on('data', (data: Buffer) => output.push(data))
  child.stderr.on('data', (data: Buffer) => errors.push(data))
  child.stdin.end(JSON.stringify(job))
  const [code] = (await once(child, 'close')) as [number | null]
  if (code !== 0) throw new Error(`PyKMIP's client failed: ${Buffer.concat(errors).toString()}`)
  return JSON.parse(Buffer.concat(output).toString()) as Record<string, unknown>
}
