import test from 'ava'
import { kmipFailure } from '../../src/kmip/failure.js'
import { failedItem } from '../../src/kmip/messages.js'
import { commonReason, reasonIn } from '../../src/kmip/result-reason.js'
import type { ResultReason } from '../../src/kmip/result-reason.js'
import { enumerations } from '../../src/kmip/ttlv/enumerations.js'
import { protocolVersions } from '../../src/kmip/version.js'

/** The highest reason of each version (KMIP 1.0 to 1.4, section 9.1.3.2.29; KMIP 2.1, section 11). */
const highest = { '1.0': 0x11, '1.1': 0x12, '1.2': 0x15, '1.3': 0x15, '1.4': 0x18, '2.0': 0x47, '2.1': 0x47 }

for (const version of protocolVersions)
  test(`KMIP ${version} is told no reason that it lacks`, (t) => {
    for (const reason of Object.keys(enumerations.ResultReason) as ResultReason[]) {
      const said = enumerations.ResultReason[reasonIn(version, reason)]
      t.true(said <= highest[version] || said === 0x100, reason)
      t.is(reasonIn('2.1', reason), reason)
    }
  })

test('a refusal is written in the terms of its version', (t) => {
  const destroyed = kmipFailure('ObjectDestroyed', 'gone')
  t.is(failedItem(destroyed, '2.0').reason, 'ObjectDestroyed')
  t.is(failedItem(destroyed, '1.4').reason, 'ItemNotFound')
  t.is(failedItem(kmipFailure('NotExtractable', 'no'), '1.3').reason, 'PermissionDenied')
  t.is(failedItem(new Error('secret'), '1.0').reason, 'GeneralFailure')
})

test('programs branch on the reasons of 1.4', (t) => {
  t.is(commonReason('ObjectNotFound'), 'ItemNotFound')
  t.is(commonReason('WrongKeyLifecycleState'), 'PermissionDenied')
  t.is(commonReason('ResponseTooLarge'), 'ResponseTooLarge')
  t.is(commonReason('Sensitive'), 'Sensitive')
})
