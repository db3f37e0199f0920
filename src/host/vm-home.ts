/**
 * The encryption of VM home: the wrapped DEK and the sealed settings in the .vmx, and the home files
 * (nvram and its like) as authenticated streams.
 */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import { native, type KeyHandle, type NativeTask } from '../native/load.js'
import { isIdentityKey, isKeyId, type HomeDescription, type HomeWrap } from './home-description.js'
import { naming } from './io-error.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { VmxDocument } from './vmx.js'

/** An open VM home: its DEK, and the lines that the .vmx keeps sealed. */
export interface OpenHome {
  readonly dek: KeyHandle
  readonly secrets: VmxDocument
}

/** The KEK that each wrap names, in their order. Needs no key, proves nothing. */
export function keysOfWrap(wrap: HomeWrap, files: VirtualMachineFiles): CryptoKeyId[] {
  return wrap.jwes.map((jwe) => {
    const header = parseHeader(
      naming(files.label(files.vmx), () => native.inspectDek(jwe)),
      files,
    )
    const key = { keyId: header.kid, providerId: header.vmseal['prov'] }
    if (!isKeyId(key)) throw invalidEnvelope(files, 'it names no key id and provider')
    return key
  })
}

/**
 * Opens one of the wraps, and the settings, and compares everything that is bound to them with the file they
 * stand in. The caller disposes of the DEK.
 */
export function openHome(
  description: HomeDescription,
  wrap: HomeWrap,
  jwe: string,
  kek: KeyHandle,
  files: VirtualMachineFiles,
): OpenHome {
  const opened = naming(files.label(files.vmx), () => native.openDek(kek, jwe))
  try {
    const { typ, vmseal } = parseHeader(opened.header, files)
    const { vmId } = description
    const expected = { v: 1, role: 'vm', id: vmId, vm: vmId, gen: wrap.generation, cipher: 'A256GCM' }
    requireBound(files, 'the wrapped DEK', { typ, ...vmseal }, { typ: dekType, ...expected })
    return { dek: opened.key, secrets: openSecrets(opened.key, description, wrap, files) }
  } catch (error) {
    opened.key.dispose()
    throw error
  }
}

/** Wraps a VM home DEK. `generation` is that of the transaction that began to use it. */
export function wrapHomeDek(
  kek: KeyHandle,
  dek: KeyHandle,
  vmId: string,
  key: CryptoKeyId,
  generation: number,
): string {
  const vmseal = {
    v: 1,
    role: 'vm',
    id: vmId,
    vm: vmId,
    prov: key.providerId,
    gen: generation,
    cipher: 'A256GCM',
  }
  return native.sealDek(kek, dek, JSON.stringify({ kid: key.keyId, typ: dekType, cty: 'jwk+json', vmseal }))
}

/** Seals the secret lines for the .vmx of the given generation. */
export function sealConfig(dek: KeyHandle, secrets: VmxDocument, vmId: string, generation: number): string {
  const header = { typ: configType, vmseal: { v: 1, vm: vmId, gen: generation } }
  return native.sealText(dek, JSON.stringify(header), secrets.toString())
}

export function encryptHomeFile(
  dek: KeyHandle,
  vmId: string,
  role: string,
  source: string,
  target: string,
): NativeTask {
  return native.encryptFile(dek, streamContext(vmId, role), source, target)
}

export function decryptHomeFile(
  dek: KeyHandle,
  vmId: string,
  role: string,
  source: string,
  target: string,
): NativeTask {
  return native.decryptFile(dek, streamContext(vmId, role), source, target)
}

export function recryptHomeFile(
  dek: KeyHandle,
  newDek: KeyHandle,
  vmId: string,
  role: string,
  source: string,
  target: string,
): NativeTask {
  return native.recryptFile(dek, newDek, streamContext(vmId, role), source, target)
}

/** A home file of one VM as that of another, without plaintext outside memory. */
export function moveHomeFile(
  dek: KeyHandle,
  newDek: KeyHandle,
  vmId: string,
  newVmId: string,
  role: string,
  source: string,
  target: string,
): NativeTask {
  const [from, to] = [streamContext(vmId, role), streamContext(newVmId, role)]
  return native.recryptFile(dek, newDek, from, source, target, to)
}

const dekType = 'vmseal-dek'
const configType = 'vmseal-config'

/** Associated data of a home file: a stream of another VM or in another part is refused. */
function streamContext(vmId: string, role: string): Buffer {
  return Buffer.concat([
    Buffer.from('vmseal file 1'),
    Buffer.from(vmId.replaceAll('-', ''), 'hex'),
    Buffer.from(role),
  ])
}

/** The lines that the .vmx keeps sealed, compared with the file they stand in. */
export function openSecrets(
  dek: KeyHandle,
  description: HomeDescription,
  wrap: HomeWrap,
  files: VirtualMachineFiles,
): VmxDocument {
  return openConfig(dek, wrap.config, description.vmId, description.generation, files)
}

/** The settings that a snapshot keeps. */
export function openSnapshotConfig(
  dek: KeyHandle,
  { vmId }: HomeDescription,
  { config, generation }: { readonly config: string; readonly generation: number },
  files: VirtualMachineFiles,
): VmxDocument {
  return openConfig(dek, config, vmId, generation, files)
}

function openConfig(
  dek: KeyHandle,
  config: string,
  vmId: string,
  generation: number,
  files: VirtualMachineFiles,
): VmxDocument {
  const { text, header } = naming(files.label(files.vmx), () => native.openText(dek, config))
  const { typ, vmseal } = parseHeader(header, files)
  const expected = { typ: configType, v: 1, vm: vmId, gen: generation }
  requireBound(files, 'vmseal.config', { typ, ...vmseal }, expected)
  const secrets = VmxDocument.parse(text, `vmseal.config of ${files.label(files.vmx)}`)
  if (secrets.keys().some(isIdentityKey)) throw invalidEnvelope(files, 'its settings hold identity lines')
  return secrets
}

function requireBound(
  files: VirtualMachineFiles,
  what: string,
  found: Readonly<Record<string, unknown>>,
  expected: Readonly<Record<string, unknown>>,
): void {
  for (const [name, value] of Object.entries(expected))
    if (found[name] !== value)
      throw new VmsealError(
        'VMSEAL_ENVELOPE_MISMATCH',
        `${what} of ${files.label(files.vmx)} is sound but its "${name}" is not that of this VM`,
        { details: { subject: files.label(files.vmx) } },
      )
}

interface Header {
  readonly kid: unknown
  readonly typ: unknown
  readonly vmseal: Readonly<Record<string, unknown>>
}

function parseHeader(text: string, files: VirtualMachineFiles): Header {
  let header: unknown
  try {
    header = JSON.parse(text)
  } catch {
    throw invalidEnvelope(files, 'its header is no JSON')
  }
  const { kid, typ, vmseal } = (header ?? {}) as Partial<Record<string, unknown>>
  if (typeof vmseal !== 'object' || vmseal === null || Array.isArray(vmseal))
    throw invalidEnvelope(files, 'its header has no vmseal object')
  return { kid, typ, vmseal: vmseal as Record<string, unknown> }
}

function invalidEnvelope(files: VirtualMachineFiles, reason: string): VmsealError {
  const subject = files.label(files.vmx)
  return new VmsealError(
    'VMSEAL_ENVELOPE_INVALID',
    `the wrapped DEK of ${subject} cannot be used: ${reason}`,
    {
      details: { subject },
    },
  )
}
