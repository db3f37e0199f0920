/**
 * A process of its own that shares no code with vmseal: it decrypts disks (see independent-reader.ts) and looks for
 * the KEK in files. It ends when it has answered.
 *
 * Input (one JSON line on stdin): AuditRequest. Output (one JSON line): AuditAnswer.
 */
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { digestOfPlaintext, fetchKek } from './independent-reader.js'
import type { KmsAccess } from './independent-reader.js'

export interface AuditRequest extends KmsAccess {
  readonly keyId: string
  /** Descriptors of encrypted disks. */
  readonly descriptors: readonly string[]
  /** Directories in which no file may hold the KEK. */
  readonly directories: readonly string[]
}

export interface AuditAnswer {
  /** SHA-256 of the plaintext of each disk. */
  readonly sha256: readonly string[]
  readonly filesSearched: number
  /** Files that hold the KEK, a half of it, or its hex or base64 text. */
  readonly filesWithKek: readonly string[]
}

const request = JSON.parse(readFileSync(0, 'utf8')) as AuditRequest
const kek = await fetchKek(request, request.keyId)
const sha256: string[] = []
for (const descriptor of request.descriptors) sha256.push(await digestOfPlaintext(descriptor, kek))
const files = request.directories.flatMap((directory) => filesBelow(directory))
const needles = [
  kek,
  kek.subarray(0, 16),
  kek.subarray(16),
  kek.toString('hex'),
  kek.toString('base64').slice(0, 42),
]
const filesWithKek = files.filter((file) => {
  const bytes = readFileSync(file)
  return needles.some((needle) => bytes.includes(needle))
})
const answer: AuditAnswer = { sha256, filesSearched: files.length, filesWithKek }
process.stdout.write(`${JSON.stringify(answer)}\n`)

function filesBelow(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
}
