/** Key wrap of 64-byte keys from JavaScript, one by one and in batches, beside Node's `id-aes256-wrap`. */
import { createCipheriv, createDecipheriv, createSecretKey, randomBytes, type KeyObject } from 'node:crypto'
import { SecretKey, disposeKeys, unwrapKey, unwrapKeys, wrapKey, wrapKeys } from '../src/crypto.js'
import { spreadOf, type JavaScriptResults } from './report.js'
import { interleave, type Case, type Pace } from './rounds.js'

type KeyWrapResult = JavaScriptResults['keyWrap'][number]

const initialValue = Buffer.alloc(8, 0xa6)

export function measureKeyWrap(pace: Pace): KeyWrapResult[] {
  const kekBytes = randomBytes(32)
  const kekObject = createSecretKey(kekBytes)
  const kek = SecretKey.importUnsafe(Buffer.from(kekBytes))
  const results: KeyWrapResult[] = []
  for (const batch of [1, 32, 1024]) {
    const plain = Array.from({ length: batch }, () => randomBytes(64))
    const keys = plain.map((bytes) => SecretKey.importUnsafe(Buffer.from(bytes)))
    const wrapped = keys.map((key) => wrapKey(kek, key))
    const ours =
      batch === 1
        ? { wrap: () => [wrapKey(kek, keys[0]!)], unwrap: () => [unwrapKey(kek, wrapped[0]!)] }
        : { wrap: () => wrapKeys(kek, keys), unwrap: () => unwrapKeys(kek, wrapped) }
    agree(ours.wrap(), wrapped, plain, kekObject)
    const cases = {
      wrap: [
        { name: 'vmseal', run: ours.wrap },
        {
          name: 'node:crypto id-aes256-wrap, KeyObject',
          run: () => plain.map((key) => nodeWrap(kekObject, key)),
        },
      ],
      unwrap: [
        // Wiping belongs to it: a key is not left to garbage collection.
        {
          name: 'vmseal',
          run: () => (batch === 1 ? ours.unwrap()[0]?.dispose() : disposeKeys(ours.unwrap())),
        },
        {
          name: 'node:crypto id-aes256-wrap, KeyObject',
          run: () => wrapped.map((one) => nodeUnwrap(kekObject, one)),
        },
      ],
    }
    for (const operation of ['wrap', 'unwrap'] as const)
      results.push({
        operation,
        batch,
        ...figures(interleave(cases[operation], pace), batch, cases[operation]),
      })
    const opened = ours.unwrap()
    if (!opened.every((key, index) => key.equals(keys[index]!))) throw new Error('a key did not come back')
    for (const key of [...opened, ...keys]) key.dispose()
  }
  kek.dispose()
  return results
}

function nodeWrap(kek: KeyObject, key: Buffer): Buffer {
  const cipher = createCipheriv('id-aes256-wrap', kek, initialValue)
  const wrapped = cipher.update(key)
  cipher.final()
  return wrapped
}

function nodeUnwrap(kek: KeyObject, wrapped: Buffer): Buffer {
  const cipher = createDecipheriv('id-aes256-wrap', kek, initialValue)
  const key = cipher.update(wrapped)
  cipher.final()
  return key
}

function agree(made: Buffer[], wrapped: Buffer[], plain: Buffer[], kek: KeyObject): void {
  const same = wrapped.every((one, index) => {
    const key = plain[index]!
    return one.equals(nodeWrap(kek, key)) && made[index]!.equals(one) && nodeUnwrap(kek, one).equals(key)
  })
  if (!same) throw new Error('vmseal and node:crypto wrap differently')
}

function figures(samples: number[][], batch: number, cases: readonly Case[]) {
  const perKey = (seconds: readonly number[]) => spreadOf(seconds.map((one) => (one * 1e9) / batch))
  const [ours = [], theirs = []] = samples
  const ratios = theirs.map((one, round) => one / (ours[round] ?? Number.NaN))
  return {
    nsPerKey: perKey(ours),
    peers: cases.slice(1).map(({ name }) => ({ name, figure: perKey(theirs), ours: spreadOf(ratios) })),
  }
}
