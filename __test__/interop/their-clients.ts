/** Other people's clients through their operations at our server: what each came to. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ProtocolVersion } from '../../src/kmip/version.js'
import type { Kms, KmsCredentials } from '../../src/kms/kms.js'
import { kmipGo } from './kmip-go.js'
import type { Outcome } from './our-client.js'

const trial = fileURLToPath(new URL('pykmip-trial.py', import.meta.url))

/** `interpreter` is the Python that has PyKMIP. */
export function tryPyKmip(
  interpreter: string,
  kms: Kms,
  credentials: KmsCredentials,
  version: ProtocolVersion,
): Promise<Outcome> {
  return run(interpreter, [trial], {
    ...place(kms, credentials),
    version: `KMIP_${version.replace('.', '_')}`,
  })
}

export function tryKmipGo(kms: Kms, credentials: KmsCredentials, version: ProtocolVersion): Promise<Outcome> {
  const [major, minor] = version.split('.').map(Number)
  return run(kmipGo, ['client'], { ...place(kms, credentials), major, minor })
}

function place(kms: Kms, { privateKeyFile }: KmsCredentials) {
  const issued = dirname(privateKeyFile)
  return {
    ...kms.endpoint,
    certificate: join(issued, 'client.pem'),
    key: privateKeyFile,
    ca: join(issued, 'ca.pem'),
  }
}

async function run(program: string, argv: readonly string[], job: object): Promise<Outcome> {
  const child = spawn(program, argv, { stdio: 'pipe' })
  const output: Buffer[] = []
  const errors: Buffer[] = []
  child.stdout.on('data', (data: Buffer) => output.push(data))
  child.stderr.on('data', (data: Buffer) => errors.push(data))
  child.stdin.end(JSON.stringify(job))
  const [code] = (await once(child, 'close')) as [number | null]
  if (code !== 0) throw new Error(`${program} failed: ${Buffer.concat(errors).toString()}`)
  return JSON.parse(Buffer.concat(output).toString()) as Outcome
}
