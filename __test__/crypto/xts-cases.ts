import { createCipheriv, createDecipheriv, randomBytes, randomInt } from 'node:crypto'
import { SecretKey, XtsCipher, isVmsealError } from '../../src/crypto.js'

export const kernels = ['portable', 'aesni', 'vaes256', 'vaes512'] as const

/** One cipher object for each sector: the independent implementation (Node's OpenSSL). */
function opensslXts(
  key: Buffer,
  data: Buffer,
  first: bigint,
  size: number,
  step: bigint,
  encrypt: boolean,
): Buffer {
  const sectors: Buffer[] = []
  for (let offset = 0, sector = first; offset < data.length; offset += size, sector += 1n) {
    const tweak = Buffer.alloc(16)
    tweak.writeBigUInt64LE(BigInt.asUintN(64, sector * step))
    const cipher = (encrypt ? createCipheriv : createDecipheriv)('aes-256-xts', key, tweak)
    sectors.push(cipher.update(data.subarray(offset, offset + size)), cipher.final())
  }
  return Buffer.concat(sectors)
}

/**
 * Compares a kernel with Node's OpenSSL on random keys, contents, sizes, counts, sector numbers and alignments, both ways.
 * Returns how many cases agreed: 0 where this CPU has no such kernel. Throws an Error that holds the whole case.
 */
export function compareWithOpenssl(kernel: string, cases: number): number {
  const before = process.env['VMSEAL_XTS_KERNEL']
  process.env['VMSEAL_XTS_KERNEL'] = kernel
  try {
    for (let done = 0; done < cases; done += 1) if (!oneCase(kernel)) return 0
    return cases
  } finally {
    if (before === undefined) delete process.env['VMSEAL_XTS_KERNEL']
    else process.env['VMSEAL_XTS_KERNEL'] = before
  }
}

function oneCase(kernel: string): boolean {
  const size = [512, 1024, 2048, 4096][randomInt(4)] as 512 | 1024 | 2048 | 4096
  const step = size === 4096 && randomInt(2) === 1 ? 8 : 1
  const count = randomInt(500) === 0 ? 1 + randomInt(600) : 1 + randomInt(3)
  const first = randomFirstSector()
  const keyBytes = randomBytes(64)
  const plain = randomBytes(count * size)
  const expected = opensslXts(keyBytes, plain, first, size, BigInt(step), true)
  let cipher: XtsCipher
  try {
    using key = SecretKey.importUnsafe(Buffer.from(keyBytes))
    cipher = new XtsCipher(key, { sectorSize: size, tweakStep: step })
  } catch (error) {
    if (kernel === 'portable' || !isVmsealError(error, 'VMSEAL_INVALID_ARGUMENT')) throw error
    return false
  }
  const text = `${count} sectors of ${size} from ${first}, step ${step}, test key ${keyBytes.toString('hex')}`
  if (cipher.kernel !== kernel) throw new Error(`${cipher.kernel} instead of ${kernel}`)
  // Any alignment: the data starts at an odd place of a larger buffer.
  const shift = randomInt(64)
  const data = Buffer.alloc(shift + plain.length).subarray(shift)
  plain.copy(data)
  cipher.encrypt(data, first)
  if (!data.equals(expected)) throw new Error(`${kernel}: encryption differs: ${text}`)
  cipher.decrypt(data, first)
  if (!data.equals(plain)) throw new Error(`${kernel}: decryption differs: ${text}`)
  cipher.dispose()
  return true
}

function randomFirstSector(): bigint {
  const random = randomBytes(8).readBigUInt64LE()
  const choices = [
    random & 0xffffn,
    random & 0xff_ffff_ffffn,
    random,
    2n ** 64n - 1n - (random & 0xfn),
    2n ** 32n - 3n,
  ]
  return choices[randomInt(choices.length)] as bigint
}
