/**
 * `vmseal-export.json`, which makes a folder an export: what is in it, file by file with its sum, and which KEK opens it. A seal under
 * the DEK of its VM home, which only that KEK opens, authenticates every byte of it, and so every byte of the export.
 */
import { createHash } from 'node:crypto'
import { VmsealError } from '../errors.js'
import { native, type KeyHandle } from '../native/load.js'
import type { ExportDescription } from '../rpc/host-api.js'
import { readSmallFile } from './durable-file.js'
import type { FileSum } from './file-sum.js'
import { isKeyId, uuidPattern } from './home-description.js'

export const exportManifest = 'vmseal-export.json'
const manifestByteLimit = 256 * 1024
const fileLimit = 500
const diskLimit = 60
const sealType = 'vmseal-export'

export interface ExportManifest extends ExportDescription {
  readonly files: readonly (FileSum & { readonly name: string })[]
}

/** The text of the file. */
export function sealManifest(manifest: ExportManifest, dek: KeyHandle): string {
  const body = JSON.stringify(bodyOf(manifest))
  const header = { typ: sealType, vmseal: { v: 1, vm: manifest.vmId } }
  return textOf(manifest, native.sealText(dek, JSON.stringify(header), sumOf(body)))
}

/** What the file says, authenticated by nothing yet, and its seal. VMSEAL_NOT_FOUND when `folder` holds no whole export. */
export async function readManifestOf(
  folder: string,
): Promise<{ readonly manifest: ExportManifest; readonly seal: string }> {
  const path = `${folder}/${exportManifest}`
  const text = (await readSmallFile(path, manifestByteLimit, path, 'VMSEAL_EXPORT_INVALID')).toString()
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw exportInvalid(folder, 'its manifest is no JSON')
  }
  const { version, body, seal } = (value ?? {}) as Partial<Record<string, unknown>>
  if (version !== 1) throw exportInvalid(folder, 'the version of its manifest is unknown')
  if (typeof seal !== 'string') throw exportInvalid(folder, 'its manifest has no seal')
  const manifest = checkBody(body, folder)
  if (text !== textOf(manifest, seal))
    throw exportInvalid(folder, 'its manifest was written by somebody else')
  return { manifest, seal }
}

/** VMSEAL_EXPORT_INVALID unless the manifest was sealed with this DEK, and nothing of it was changed since. */
export function verifySeal(folder: string, manifest: ExportManifest, seal: string, dek: KeyHandle): void {
  let opened: { readonly text: string; readonly header: string }
  try {
    opened = native.openText(dek, seal)
  } catch {
    throw exportInvalid(folder, 'its manifest is not sealed with the key of its VM')
  }
  const { typ, vmseal } = JSON.parse(opened.header) as {
    typ?: unknown
    vmseal?: { v?: unknown; vm?: unknown }
  }
  const sound = typ === sealType && vmseal?.v === 1 && vmseal.vm === manifest.vmId
  if (!sound || opened.text !== sumOf(JSON.stringify(bodyOf(manifest))))
    throw exportInvalid(folder, 'its manifest was changed after it was sealed')
}

export function exportInvalid(folder: string, reason: string): VmsealError {
  return new VmsealError('VMSEAL_EXPORT_INVALID', `the export ${folder} cannot be used: ${reason}`, {
    details: { subject: folder },
  })
}

function textOf(manifest: ExportManifest, seal: string): string {
  return `${JSON.stringify({ version: 1, body: bodyOf(manifest), seal }, undefined, 1)}\n`
}

/** The fields in one order: what is sealed is this text. */
function bodyOf({ vmId, name, exportedAt, key, disks, files }: ExportManifest): ExportManifest {
  return {
    vmId,
    name,
    exportedAt,
    key: { keyId: key.keyId, providerId: key.providerId },
    disks: disks.map(({ diskId, device, capacityBytes }) => ({ diskId, device, capacityBytes })),
    files: files.map((file) => ({ name: file.name, bytes: file.bytes, sha256: file.sha256 })),
  }
}

function checkBody(body: unknown, folder: string): ExportManifest {
  const { vmId, name, exportedAt, key, disks, files } = (body ?? {}) as Partial<Record<string, unknown>>
  const sound =
    isUuid(vmId) &&
    isText(name) &&
    isText(exportedAt) &&
    isKeyId(key) &&
    isList(
      disks,
      diskLimit,
      (disk) => isUuid(disk.diskId) && isText(disk.device) && isCount(disk.capacityBytes),
    ) &&
    isList(files, fileLimit, (file) => isText(file.name) && isCount(file.bytes) && isSum(file.sha256))
  if (!sound) throw exportInvalid(folder, 'its manifest lacks what every export has')
  return bodyOf({ vmId, name, exportedAt, key, disks, files } as ExportManifest)
}

function isUuid(value: unknown): boolean {
  return typeof value === 'string' && uuidPattern.test(value)
}

function isText(value: unknown): boolean {
  // eslint-disable-next-line no-control-regex
  return typeof value === 'string' && value.length > 0 && value.length <= 255 && !/[\0-\x1f\x7f]/.test(value)
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function isSum(value: unknown): boolean {
  return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value)
}

function isList(
  value: unknown,
  limit: number,
  sound: (entry: Readonly<Record<string, unknown>>) => boolean,
): boolean {
  return (
    Array.isArray(value) &&
    value.length <= limit &&
    value.every((entry: unknown) => typeof entry === 'object' && entry !== null && sound(entry as never))
  )
}

function sumOf(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
