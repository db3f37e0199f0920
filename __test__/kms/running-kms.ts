/** A KMS in a directory of its own that ends with its test. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import { KmipClient } from '../../src/kmip/client.js'
import type { KmipClientOptions } from '../../src/kmip/client.js'
import { Kms } from '../../src/kms/kms.js'
import type { KmsCredentials } from '../../src/kms/kms.js'

export function temporaryDirectory(t: ExecutionContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'vmseal-kms-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

export async function startKms(t: ExecutionContext, directory = temporaryDirectory(t)): Promise<Kms> {
  const kms = await Kms.start({ directory })
  t.teardown(() => kms.stop())
  return kms
}

export async function connect(
  t: ExecutionContext,
  kms: Kms,
  credentials: KmsCredentials,
  options: Partial<KmipClientOptions> = {},
): Promise<KmipClient> {
  const client = await KmipClient.connect({ ...kms.endpoint, ...credentials, ...options })
  t.teardown(() => client.close())
  return client
}

/** A running KMS with one client. */
export async function startWithClient(
  t: ExecutionContext,
  options: Partial<KmipClientOptions> = {},
): Promise<{ kms: Kms; client: KmipClient; credentials: KmsCredentials }> {
  const kms = await startKms(t)
  const credentials = await kms.enrol('vcenter')
  return { kms, client: await connect(t, kms, credentials, options), credentials }
}

/** The result reason with which the KMS refuses. */
export async function refusal(t: ExecutionContext, promise: Promise<unknown>): Promise<string | undefined> {
  const error = await t.throwsAsync(promise, { code: 'VMSEAL_KMIP_OPERATION_FAILED' })
  return (error as unknown as { details?: { resultReason?: string } } | undefined)?.details?.resultReason
}
