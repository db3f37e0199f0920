/**
 * AES-256-XTS from JavaScript: `XtsCipher` in place beside Node's crypto, by sector size and call size. The peer works sector by
 * sector, so calls of more than a mebibyte tell nothing new of it and are measured without it.
 */
import { createCipheriv, createDecipheriv, createSecretKey, randomBytes } from 'node:crypto'
import type { CipherKey } from 'node:crypto'
import { SecretKey, XtsCipher } from '../src/crypto.js'
import type { loadNative } from './native-rate.js'
import { spreadOf, type JavaScriptResults } from './report.js'
import { interleave, type Case, type Pace } from './rounds.js'

type XtsResult = JavaScriptResults['xts'][number]

const firstSector = 2 ** 33
const KiB = 1024
const MiB = 1024 * KiB
const bothWays = ['encrypt', 'decrypt'] as const

export function measureXts(
  pace: Pace,
  large: readonly number[],
  nativeCipher: ReturnType<typeof loadNative>,
): { results: XtsResult[]; kernel: string } {
  const bytes = randomBytes(64)
  const node = [
    { name: 'node:crypto, KeyObject', key: createSecretKey(bytes) },
    { name: 'node:crypto, Buffer as key', key: Buffer.from(bytes) },
  ]
  const key = SecretKey.importUnsafe(Buffer.from(bytes))
  const results: XtsResult[] = []
  let kernel = ''
  for (const sectorSize of [512, 1024, 2048, 4096] as const) {
    const cipher = new XtsCipher(key, { sectorSize })
    kernel = cipher.kernel
    for (const callBytes of new Set([sectorSize, 4 * KiB, 64 * KiB, MiB, ...large])) {
      const data = randomBytes(callBytes)
      const common = (sectorSize === 512 || sectorSize === 4096) && callBytes <= MiB
      for (const operation of common ? bothWays : (['encrypt'] as const)) {
        const peers =
          callBytes > MiB
            ? []
            : node.map(({ name, key: peerKey }) => ({
                name,
                run: () => sectorBySector(operation, peerKey, data, sectorSize),
              }))
        const ours: Case = { name: 'vmseal', run: () => cipher[operation](data, firstSector) }
        const nativeOnes = callBytes === MiB ? [nativeCase(nativeCipher, operation, data, sectorSize)] : []
        agree(cipher, operation, data, node[0]!.key, sectorSize)
        const [own = [], ...others] = interleave([ours, ...nativeOnes, ...peers], pace)
        agree(cipher, operation, data, node[0]!.key, sectorSize)
        const native = nativeFigures(own, others.splice(0, nativeOnes.length)[0], callBytes)
        results.push({
          sectorSize,
          callBytes,
          operation,
          native,
          ...figures([own, ...others], callBytes, peers),
        })
      }
    }
    cipher.dispose()
  }
  key.dispose()
  return { results, kernel }
}

/** As anyone would write it: one cipher object for each sector. What it makes is not even copied back. */
function sectorBySector(
  operation: 'encrypt' | 'decrypt',
  key: CipherKey,
  data: Buffer,
  sectorSize: number,
): Buffer[] {
  const create = operation === 'encrypt' ? createCipheriv : createDecipheriv
  const tweak = Buffer.alloc(16)
  const sectors: Buffer[] = []
  for (let offset = 0, sector = firstSector; offset < data.length; offset += sectorSize, sector++) {
    tweak.writeBigUInt64LE(BigInt(sector))
    const cipher = create('aes-256-xts', key, tweak)
    sectors.push(cipher.update(data.subarray(offset, offset + sectorSize)))
    cipher.final()
  }
  return sectors
}

/** What is measured also works: both make the same bytes, of which a mebibyte is looked at. */
function agree(
  cipher: XtsCipher,
  operation: 'encrypt' | 'decrypt',
  data: Buffer,
  key: CipherKey,
  sectorSize: number,
): void {
  const ours = Buffer.from(data.subarray(0, MiB))
  const theirs = Buffer.concat(sectorBySector(operation, key, ours, sectorSize))
  cipher[operation](ours, firstSector)
  if (!ours.equals(theirs)) throw new Error(`vmseal and node:crypto ${operation} differently`)
}

/** So many that the one call from JavaScript around them is lost in their time. */
const NATIVE_CALLS = 8

function nativeCase(
  cipher: ReturnType<typeof loadNative>,
  operation: 'encrypt' | 'decrypt',
  data: Buffer,
  sectorSize: number,
): Case {
  const encrypts = operation === 'encrypt' ? 1 : 0
  return { name: 'vmseal, native calls', run: () => cipher(data, sectorSize, encrypts, NATIVE_CALLS) }
}

function nativeFigures(own: readonly number[], nativeCalls: readonly number[] | undefined, bytes: number) {
  if (nativeCalls === undefined) return null
  const seconds = nativeCalls.map((all) => all / NATIVE_CALLS)
  return {
    gbps: spreadOf(seconds.map((one) => bytes / one / 1e9)),
    share: spreadOf(seconds.map((one, round) => one / (own[round] ?? Number.NaN))),
  }
}

function figures(samples: number[][], bytes: number, peers: readonly Case[]) {
  const ours = samples[0] ?? []
  const rates = (seconds: readonly number[]) => spreadOf(seconds.map((one) => bytes / one / 1e9))
  return {
    gbps: rates(ours),
    nsPerCall: spreadOf(ours.map((one) => one * 1e9)),
    peers: peers.map(({ name }, index) => {
      const theirs = samples[index + 1] ?? []
      const ratios = theirs.map((one, round) => one / (ours[round] ?? Number.NaN))
      return { name, figure: rates(theirs), ours: spreadOf(ratios) }
    }),
  }
}
