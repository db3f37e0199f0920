/** Which keys the files of a datastore name, whoever they belong to: a key that a file names may be the last way to its data. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { VmsealError, type CryptoKeyId } from '../errors.js'
import { native } from '../native/load.js'
import type { KeysInFiles } from '../rpc/host-api.js'
import type { Datastore } from './datastore.js'
import { readSmallFile } from './durable-file.js'
import { isKeyId } from './home-description.js'
import { errnoOf, ioError } from './io-error.js'
import { VmxDocument, vmxByteLimit } from './vmx.js'

/** The largest descriptor that the native side reads. */
const descriptorByteLimit = 1024 * 1024
const descriptorMark = '# Disk DescriptorFile'
const foldersInPage = 500
const filesNamed = 20
const unreadableNamed = 1000

/** Reads the .vmx and disk descriptors of a page of folders; no key is needed. What cannot be read is told: it may name any key. */
export async function findKeys(datastore: Datastore, given?: unknown): Promise<KeysInFiles> {
  // What is absent crosses a network as null.
  const after = given ?? ''
  if (typeof after !== 'string')
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'after must be the name of a folder')
  const folders = (await entriesOf(datastore.directory))
    .filter((entry) => entry.isDirectory() && entry.name > after)
    .map(({ name }) => name)
    .toSorted((one, other) => (one < other ? -1 : 1))
  const page = folders.slice(0, foldersInPage)
  const found = new Map<string, { key: CryptoKeyId; count: number; files: string[] }>()
  const unreadable: string[] = []
  for (const folder of page)
    for (const entry of await entriesOf(join(datastore.directory, folder))) {
      if (!isRead(entry.name)) continue
      const file = `${folder}/${entry.name}`
      try {
        for (const key of await keysOfFile(join(datastore.directory, file), `[${datastore.name}] ${file}`)) {
          const id = JSON.stringify([key.providerId, key.keyId])
          const known = found.get(id) ?? { key, count: 0, files: [] }
          known.count += 1
          if (known.files.length < filesNamed && known.files.at(-1) !== file) known.files.push(file)
          found.set(id, known)
        }
      } catch (error) {
        if (!(error instanceof VmsealError)) throw error
        // It was removed, or replaced, meanwhile.
        if (error.code !== 'VMSEAL_NOT_FOUND' && unreadable.length < unreadableNamed) unreadable.push(file)
      }
    }
  const last = page.at(-1)
  return {
    found: [...found.values()],
    unreadable,
    ...(folders.length > page.length && last !== undefined ? { next: last } : {}),
  }
}

/** Descriptors and their second copies, not extents. */
function isRead(name: string): boolean {
  if (name.endsWith('.vmx')) return true
  return /\.vmdk(\.vmseal)?$/.test(name) && !/-(flat|[fs]\d{3})\.vmdk$/.test(name)
}

async function keysOfFile(path: string, label: string): Promise<CryptoKeyId[]> {
  const wraps = path.endsWith('.vmx') ? await wrapsOfVmx(path, label) : await wrapsOfDescriptor(path, label)
  return wraps.map((jwe) => {
    const { kid, vmseal } = JSON.parse(native.inspectDek(jwe)) as {
      kid?: unknown
      vmseal?: { prov?: unknown }
    }
    const key = { keyId: kid, providerId: vmseal?.prov }
    if (isKeyId(key)) return { keyId: key.keyId, providerId: key.providerId }
    throw new VmsealError('VMSEAL_ENVELOPE_INVALID', `${label} names no key id`)
  })
}

async function wrapsOfVmx(path: string, label: string): Promise<string[]> {
  const document = VmxDocument.parse(
    await readSmallFile(path, vmxByteLimit, label, 'VMSEAL_VMX_INVALID'),
    label,
  )
  return document.keys().flatMap((key) => {
    const value = /^vmseal\.dek\.\d+$/i.test(key) ? document.get(key) : undefined
    return value ? [value] : []
  })
}

/** By its lines: also of a descriptor that is broken elsewhere. A disk image of another kind names no key. */
async function wrapsOfDescriptor(path: string, label: string): Promise<string[]> {
  let text: string
  try {
    const bytes = await readSmallFile(path, descriptorByteLimit, label, 'VMSEAL_DESCRIPTOR_INVALID')
    text = bytes.toString('latin1')
  } catch (error) {
    // A descriptor is small: this is an image.
    if (error instanceof VmsealError && error.code === 'VMSEAL_DESCRIPTOR_INVALID') return []
    throw error
  }
  if (!text.startsWith(descriptorMark) && !path.endsWith('.vmseal')) return []
  return [...text.matchAll(/^\s*vmseal\.dek\.\d+\s*=\s*"?([^"\r\n]+)"?\s*$/gm)].map(([, jwe = '']) => jwe)
}

async function entriesOf(directory: string) {
  try {
    return await readdir(directory, { withFileTypes: true })
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return []
    throw ioError(error, directory)
  }
}
