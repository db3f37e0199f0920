/** The user name and password of a request header. */
import test from 'ava'
import { decodeAuthentication, encodeAuthentication } from '../../src/kmip/credential.js'
import { decodeRequest, encodeRequest } from '../../src/kmip/messages.js'
import { KmipServer } from '../../src/kmip/server.js'
import type { KmipService, OperationRecord } from '../../src/kmip/server.js'
import { kmipFailure } from '../../src/kmip/failure.js'
import { decodeTtlv, encodeTtlv } from '../../src/kmip/ttlv/codec.js'
import { dumpTtlv } from '../../src/kmip/ttlv/dump.js'
import { enumeration, structure, textString } from '../../src/kmip/ttlv/node.js'
import type { TtlvNode } from '../../src/kmip/ttlv/node.js'
import { StructureReader } from '../../src/kmip/ttlv/reader.js'
import { tags } from '../../src/kmip/ttlv/tags.js'
import { protocolVersions } from '../../src/kmip/version.js'
import { item, request } from './raw-connection.js'

const credential = { username: 'vcenter', password: 'correct horse' }

for (const version of protocolVersions)
  test(`KMIP ${version} carries them, and a dump does not show them`, (t) => {
    const message = encodeRequest({
      header: { version, credential },
      items: [{ operation: 10, payload: structure(tags.RequestPayload, []) }],
    })
    t.deepEqual(decodeRequest(decodeTtlv(encodeTtlv(message))).header.credential, credential)
    t.false(dumpTtlv(message).includes('horse'))
  })

function read(...credentials: TtlvNode[]) {
  return decodeAuthentication(new StructureReader(structure(tags.Authentication, credentials)))
}
function one(type: number, ...value: TtlvNode[]): TtlvNode {
  return structure(tags.Credential, [
    enumeration(tags.CredentialType, type),
    structure(tags.CredentialValue, value),
  ])
}
const username = textString(tags.Username, 'a')

test('a password may be missing; credentials of another type are passed over', (t) => {
  t.deepEqual(read(one(1, username)), { username: 'a' })
  t.deepEqual(read(one(2, textString(tags.DeviceSerialNumber, '1')), one(1, username)), { username: 'a' })
  t.is(read(one(3)), undefined)
  t.deepEqual(decodeAuthentication(new StructureReader(encodeAuthentication(credential))), credential)
})

test('refused: broken credentials', (t) => {
  t.throws(() => read(), { code: 'VMSEAL_KMIP_OPERATION_FAILED' })
  t.throws(() => read(one(1)), { code: 'VMSEAL_KMIP_MALFORMED' })
  t.throws(() => read(one(1, enumeration(tags.Username, 1))), { code: 'VMSEAL_KMIP_MALFORMED' })
  t.throws(() => read(structure(tags.Credential, [enumeration(tags.CredentialType, 1)])), {
    code: 'VMSEAL_KMIP_MALFORMED',
  })
})

test('the service and whoever lets callers in see them; the record does not', async (t) => {
  const seen: unknown[] = []
  const records: OperationRecord[] = []
  const service: KmipService = {
    Activate({ id }, context) {
      seen.push(context.credential)
      return { id }
    },
  }
  const server = new KmipServer(service, {
    authenticate(_, given) {
      seen.push(given)
      if (given?.password !== credential.password)
        throw kmipFailure('AuthenticationNotSuccessful', 'the user name or the password is wrong')
    },
    observe: (record) => records.push(record),
  })
  const ask = async (header: object) => {
    const message = encodeTtlv(
      request('1.2', [item('Activate', [textString(tags.UniqueIdentifier, '1')])], header),
    )
    const { message: answer } = await server.process(message, [], { connectionId: 1, clientKeyHash: 'h' })
    return dumpTtlv(decodeTtlv(answer))
  }
  t.true((await ask({ credential })).includes('UniqueIdentifier'))
  t.deepEqual(seen, [credential, credential])
  t.true((await ask({})).includes('0x00000003'), 'Authentication Not Successful')
  t.false(JSON.stringify(records).includes('horse'))
})
