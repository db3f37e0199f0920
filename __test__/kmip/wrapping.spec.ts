/** Keys in payloads: registered, got, and got under another key. */
import test from 'ava'
import type { ExecutionContext } from 'ava'
import { operationTable } from '../../src/kmip/operations/table.js'
import type { KeyWrapping } from '../../src/kmip/operations/key-wrapping.js'
import { decodeTtlv, encodeTtlv } from '../../src/kmip/ttlv/codec.js'
import { dumpTtlv } from '../../src/kmip/ttlv/dump.js'
import { attachKeys, collectKeys } from '../../src/kmip/ttlv/keys.js'
import {
  byteString,
  enumeration,
  integer,
  keyString,
  structure,
  textString,
} from '../../src/kmip/ttlv/node.js'
import type { TtlvNode } from '../../src/kmip/ttlv/node.js'
import { StructureReader } from '../../src/kmip/ttlv/reader.js'
import { tags } from '../../src/kmip/ttlv/tags.js'
import { protocolVersions } from '../../src/kmip/version.js'
import { native } from '../../src/native/load.js'
import type { KeyHandle } from '../../src/native/load.js'

const wrapping: KeyWrapping = {
  method: 'Encrypt',
  wrappingKeyId: 'kek',
  blockCipherMode: 'NISTKeyWrap',
  encodingOption: 'NoEncoding',
}

function generate(t: ExecutionContext, length = 32): KeyHandle {
  const key = native.KeyHandle.generate(length)
  t.teardown(() => key.dispose())
  return key
}

function onWire(children: readonly TtlvNode[], lenient = false): StructureReader {
  const node = structure(tags.RequestPayload, children)
  return new StructureReader(attachKeys(decodeTtlv(encodeTtlv(node)), collectKeys(node)), lenient)
}

for (const version of protocolVersions)
  test(`Register and both answers to Get survive the wire of KMIP ${version}`, (t) => {
    const key = generate(t)
    const request = {
      key,
      algorithm: 'AES',
      length: 256,
      attributes: [{ name: 'Cryptographic Usage Mask', value: 12 }],
    } as const
    const registered = onWire(operationTable.Register.encodeRequest(request, version))
    t.deepEqual(operationTable.Register.decodeRequest(registered, version), request)
    registered.end()

    const { Get } = operationTable
    const plain = { id: '1', key, algorithm: 'AES', length: 256 } as const
    t.deepEqual(Get.decodeResponse(onWire(Get.encodeResponse(plain, version)), version), plain)
    const { encodingOption: _, ...older } = wrapping
    const used = version === '1.0' ? older : wrapping
    const wrapped = {
      id: '1',
      wrapped: Uint8Array.of(1, 2),
      wrapping: used,
      algorithm: 'AES',
      length: 256,
    } as const
    t.deepEqual(Get.decodeResponse(onWire(Get.encodeResponse(wrapped, version)), version), wrapped)
    const asked = onWire(operationTable.Get.encodeRequest({ id: '1', wrapping }, version))
    t.deepEqual(operationTable.Get.decodeRequest(asked, version), { id: '1', wrapping: used })
    asked.end()
  })

test('parameters of RSA-OAEP survive the wire', (t) => {
  const oaep: KeyWrapping = {
    method: 'Encrypt',
    wrappingKeyId: 'public',
    paddingMethod: 'OAEP',
    hashingAlgorithm: 'SHA256',
    algorithm: 'RSA',
    encodingOption: 'NoEncoding',
  }
  const asked = onWire(operationTable.Get.encodeRequest({ id: '1', wrapping: oaep }, '1.4'))
  t.deepEqual(operationTable.Get.decodeRequest(asked, '1.4'), { id: '1', wrapping: oaep })
})

/** An answer whose key is wrapped, with this Key Value. */
function answerWith(value: TtlvNode): StructureReader {
  return onWire(
    [
      enumeration(tags.ObjectType, 2),
      textString(tags.UniqueIdentifier, '1'),
      structure(tags.SymmetricKey, [
        structure(tags.KeyBlock, [
          enumeration(tags.KeyFormatType, 1),
          value,
          structure(tags.KeyWrappingData, [
            enumeration(tags.WrappingMethod, 1),
            structure(tags.EncryptionKeyInformation, [textString(tags.UniqueIdentifier, 'kek')]),
          ]),
        ]),
      ]),
    ],
    true,
  )
}

test('our wrapped key is a Byte String; the structure with wrapped Key Material is read too', (t) => {
  const bytes = Buffer.alloc(40, 7)
  const answer = { id: '1', wrapped: bytes, wrapping, algorithm: 'AES', length: 256 } as const
  const [, , object] = operationTable.Get.encodeResponse(answer, '1.2')
  t.true(dumpTtlv(object as TtlvNode).includes('KeyValue (ByteString): (40 bytes)'))
  const inside = structure(tags.KeyValue, [byteString(tags.KeyMaterial, bytes)])
  t.deepEqual(operationTable.Get.decodeResponse(answerWith(inside), '1.2'), {
    id: '1',
    wrapped: new Uint8Array(bytes),
    wrapping: { method: 'Encrypt', wrappingKeyId: 'kek' },
  })
  for (const broken of [structure(tags.KeyValue, []), integer(tags.KeyValue, 1)])
    t.throws(() => operationTable.Get.decodeResponse(answerWith(broken), '1.2'), {
      code: 'VMSEAL_KMIP_MALFORMED',
    })
})

function specification(...fields: TtlvNode[]): StructureReader {
  return onWire([textString(tags.UniqueIdentifier, '1'), structure(tags.KeyWrappingSpecification, fields)])
}
const method = enumeration(tags.WrappingMethod, 1)
function information(...fields: TtlvNode[]): TtlvNode {
  return structure(tags.EncryptionKeyInformation, [textString(tags.UniqueIdentifier, 'kek'), ...fields])
}

const unusable: Record<string, StructureReader> = {
  'no method': specification(information()),
  'no key information': specification(method),
  'attributes to be wrapped along': specification(
    method,
    information(),
    textString(tags.AttributeName, 'State'),
  ),
  'a MAC besides': specification(
    method,
    information(),
    structure(tags.MACSignatureKeyInformation, [textString(tags.UniqueIdentifier, 'mac')]),
  ),
  'a parameter that is not known here': specification(
    method,
    information(structure(tags.CryptographicParameters, [integer(tags.IVLength, 12)])),
  ),
  'an encoding option in 1.0, which has none': specification(
    method,
    information(),
    enumeration(tags.EncodingOption, 1),
  ),
}

for (const [what, reader] of Object.entries(unusable))
  test(`refused: a wrapping with ${what}`, (t) => {
    const error = t.throws(() => operationTable.Get.decodeRequest(reader, '1.0')) as
      { code?: string } | undefined
    t.true(['VMSEAL_KMIP_MALFORMED', 'VMSEAL_KMIP_OPERATION_FAILED'].includes(error?.code ?? ''))
  })

function register(objectType: number, block: TtlvNode[]) {
  return operationTable.Register.decodeRequest(
    onWire([
      enumeration(tags.ObjectType, objectType),
      structure(tags.TemplateAttribute, []),
      structure(tags.SymmetricKey, [structure(tags.KeyBlock, block)]),
    ]),
    '1.2',
  )
}

test('refused: keys to register that are wrapped, of another kind, or not what they claim', (t) => {
  const key = generate(t)
  const format = enumeration(tags.KeyFormatType, 1)
  const value = structure(tags.KeyValue, [keyString(tags.KeyMaterial, key)])
  const aes = enumeration(tags.CryptographicAlgorithm, 3)
  const bits = integer(tags.CryptographicLength, 256)
  const data = structure(tags.KeyWrappingData, [method, information()])
  t.is(register(2, [format, value, aes, bits]).key, key)
  for (const [objectType, block] of [
    [7, [format, value, aes, bits]],
    [2, [enumeration(tags.KeyFormatType, 7), value, aes, bits]],
    [2, [format, value, aes, integer(tags.CryptographicLength, 128)]],
    [2, [format, value]],
    [2, [format, structure(tags.KeyValue, []), aes, bits]],
    [2, [format, byteString(tags.KeyValue, Buffer.alloc(40, 1)), aes, bits, data]],
    [2, [format, enumeration(tags.KeyCompressionType, 1), value, aes, bits]],
  ] as const)
    t.throws(() => register(objectType, [...block]))
})
