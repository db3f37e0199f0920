/**
 * Reads vmseal's keys and disks without vmseal: the KEK comes from the KMS over Node's TLS with a KMIP request written
 * out by hand, a stock JOSE library opens the wrapped DEK, Node's OpenSSL decrypts, one cipher for each sector.
 * Keys are in JavaScript here on purpose: only processes that audit another one may use it.
 */
import { createDecipheriv, createHash } from 'node:crypto'
import { open, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { connect } from 'node:tls'
import { compactDecrypt } from 'jose'

/** Where the KMS is, and a client that may read the key. */
export interface KmsAccess {
  readonly kms: { readonly host: string; readonly port: number }
  readonly credentials: {
    readonly caCertificate: string
    readonly certificate: string
    readonly privateKeyFile: string
  }
}

/** KMIP 1.2 Get (OASIS KMIP specification 4.11), written out by hand. */
export async function fetchKek({ kms, credentials }: KmsAccess, keyId: string): Promise<Buffer> {
  const version = item(0x420069, 1, [item(0x42006a, 2, integer(1)), item(0x42006b, 2, integer(2))])
  const header = item(0x420077, 1, [version, item(0x42000d, 2, integer(1))])
  const payload = item(0x420079, 1, [item(0x420094, 7, Buffer.from(keyId))])
  const message = item(0x420078, 1, [header, item(0x42000f, 1, [item(0x42005c, 5, integer(0x0a)), payload])])
  const socket = connect({
    host: kms.host,
    port: kms.port,
    ca: credentials.caCertificate,
    cert: credentials.certificate,
    key: await readFile(credentials.privateKeyFile),
  })
  const answer = await new Promise<Buffer>((resolve, reject) => {
    let received = Buffer.alloc(0)
    socket.on('secureConnect', () => socket.write(message))
    socket.on('error', reject)
    socket.on('data', (chunk: Buffer) => {
      received = Buffer.concat([received, chunk])
      if (received.length >= 8 && received.length >= 8 + received.readUInt32BE(4)) resolve(received)
    })
    socket.setTimeout(10_000, () => reject(new Error('the KMS does not answer')))
  })
  socket.destroy()
  const at = answer.indexOf(Buffer.from('42004308', 'hex'))
  if (at < 0) throw new Error(`the KMS refused Get of ${keyId}`)
  return answer.subarray(at + 8, at + 8 + answer.readUInt32BE(at + 4))
}

function item(tag: number, type: number, content: Buffer | readonly Buffer[]): Buffer {
  const value = Buffer.isBuffer(content) ? content : Buffer.concat(content)
  const head = Buffer.alloc(8)
  head.writeUIntBE(tag, 0, 3)
  head.writeUInt8(type, 3)
  head.writeUInt32BE(value.length, 4)
  return Buffer.concat([head, value, Buffer.alloc((8 - (value.length % 8)) % 8)])
}

function integer(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(value)
  return bytes
}

/** The DEK of a descriptor or .vmx text, and what the header of its wrap says. */
export async function openWrap(text: string, kek: Buffer): Promise<{ dek: Buffer; header: WrapHeader }> {
  const jwe = /^vmseal\.dek\.0\s*=\s*"([^"]+)"/m.exec(text)?.[1]
  if (!jwe) throw new Error('no wrapped DEK in this text')
  const { plaintext, protectedHeader } = await compactDecrypt(jwe, kek)
  const { k } = JSON.parse(Buffer.from(plaintext).toString()) as { k: string }
  return { dek: Buffer.from(k, 'base64url'), header: protectedHeader['vmseal'] as WrapHeader }
}

/** The `vmseal` object of a disk's wrap: data unit and what a unit of zero bytes means. */
export interface WrapHeader {
  readonly ss: number
  readonly holes: string
}

/** SHA-256 (hex) of an encrypted disk's plaintext. */
export async function digestOfPlaintext(descriptor: string, kek: Buffer): Promise<string> {
  const text = await readFile(descriptor, 'utf8')
  const flat = /^RW (\d+) \w+ "([^"]+)"/m.exec(text)?.[2]
  if (!flat) throw new Error(`${descriptor} has no extent`)
  const {
    dek,
    header: { ss, holes },
  } = await openWrap(text, kek)
  const zeros = Buffer.alloc(ss)
  const hash = createHash('sha256')
  const extent = await open(join(dirname(descriptor), flat))
  const chunk = Buffer.alloc(1 << 20)
  for (let position = 0; ;) {
    const { bytesRead } = await extent.read(chunk, 0, chunk.length, position)
    if (bytesRead === 0) break
    for (let offset = 0; offset < bytesRead; offset += ss) {
      const sector = chunk.subarray(offset, offset + ss)
      // In a disk with holes, a unit of zero bytes is a hole and reads as zeros.
      hash.update(holes === 'zero' && sector.equals(zeros) ? zeros : decrypt(dek, position + offset, sector))
    }
    position += bytesRead
  }
  await extent.close()
  return hash.digest('hex')
}

function decrypt(dek: Buffer, position: number, sector: Buffer): Buffer {
  const tweak = Buffer.alloc(16)
  tweak.writeBigUInt64LE(BigInt(position / 512))
  const decipher = createDecipheriv('aes-256-xts', dek, tweak)
  return Buffer.concat([decipher.update(sector), decipher.final()])
}
