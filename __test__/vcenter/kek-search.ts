/**
 * Its own process, with a KMIP client of its own: fetches keys and tells which files of some directories hold one,
 * raw, as hex or as base64, whole or half. Prints JSON without key bytes.
 */
import { readFile, readdir } from 'node:fs/promises'
import path from 'node:path'
import { fetchKek, type KmsAccess } from '../../examples/main-job/independent-reader.js'

interface SearchRequest extends KmsAccess {
  readonly keyIds: readonly string[]
  readonly directories: readonly string[]
}

const request = JSON.parse(process.argv[2] ?? '') as SearchRequest
const keys: Buffer[] = []
for (const id of request.keyIds) keys.push(await fetchKek(request, id))
const needles = keys.flatMap((key) => {
  const parts = [key, key.subarray(0, 16), key.subarray(16)]
  const texts = parts.flatMap((part) => [part.toString('hex'), part.toString('hex').toUpperCase()])
  // Base64 of the middle of a key, whatever stands before it in the same text.
  const base64 = [0, 1, 2].map((skip) => key.subarray(skip, skip + 15).toString('base64'))
  return [...parts, ...[...texts, ...base64].map((text) => Buffer.from(text))]
})
const withKek: string[] = []
const withId: string[] = []
let files = 0
for (const directory of request.directories)
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const file = path.join(entry.parentPath, entry.name)
    const bytes = await readFile(file)
    files += 1
    if (needles.some((needle) => bytes.includes(needle))) withKek.push(file)
    if (request.keyIds.some((id) => bytes.includes(id))) withId.push(file)
  }
process.stdout.write(
  JSON.stringify({ keys: keys.filter((key) => key.length === 32).length, files, withKek, withId }),
)
