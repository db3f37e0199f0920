/** Every operation in every version, between ours and ours, and between ours and kmip-go where it is built. */
import test from 'ava'
import { defaultVersions, isSince, protocolVersions } from '../../src/kmip/version.js'
import { startKms } from '../kms/running-kms.js'
import { hasKmipGo, startKmipGo } from './kmip-go.js'
import { operations, tryOurClient } from './our-client.js'
import type { Outcome } from './our-client.js'
import { tryKmipGo } from './their-clients.js'

function failures(outcome: Outcome): Outcome {
  return Object.fromEntries(Object.entries(outcome).filter(([, result]) => result !== 'ok'))
}

for (const version of protocolVersions)
  test(`our client and our server do every operation of KMIP ${version}`, async (t) => {
    const kms = await startKms(t)
    const outcome = await tryOurClient({ ...kms.endpoint, ...(await kms.enrol('client')) }, version)
    // 1.0 has no encoding option, so a key cannot be wrapped without encoding.
    t.deepEqual(failures(outcome), version === '1.0' ? { 'Get wrapped': 'InvalidField' } : {})
    const lacking = new Set<string>([
      ...(isSince(version, '1.1') ? [] : ['DiscoverVersions']),
      ...(isSince(version, '2.0') ? [] : ['SetAttribute']),
    ])
    t.deepEqual(
      Object.keys(outcome).toSorted(),
      operations.filter((operation) => !lacking.has(operation)).toSorted(),
    )
  })

test.serial("our client at kmip-go's server", async (t) => {
  if (!hasKmipGo(t)) return
  const options = await startKmipGo(t)
  for (const version of defaultVersions)
    t.deepEqual(
      failures(await tryOurClient(options, version)),
      {
        Archive: 'OperationNotSupported',
        Check: 'OperationNotSupported',
        ...(version === '1.0' ? { 'Get wrapped': 'FeatureNotSupported' } : {}),
      },
      version,
    )
})

test.serial("kmip-go's client at our server", async (t) => {
  if (!hasKmipGo(t)) return
  for (const version of defaultVersions) {
    const kms = await startKms(t)
    const outcome = await tryKmipGo(kms, await kms.enrol('client'), version)
    const { 'Get wrapped': wrapped, ...rest } = failures(outcome)
    t.deepEqual(rest, {}, version)
    t.is(wrapped === undefined, version !== '1.0', wrapped)
  }
})
