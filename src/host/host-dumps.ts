/**
 * Dumps of the host itself, encrypted with the host key. A dump `NAME` is two files: `NAME.dump`, an authenticated
 * stream under a key of its own, and `NAME.dump.key`, that key wrapped with the host key (a JWE that names it). A change
 * of the host key rewrites only the second one.
 */
import { randomUUID } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { VmsealError, isVmsealError, type CryptoKeyId } from '../errors.js'
import { native, type KeyHandle } from '../native/load.js'
import type { HostKeyChange, Work } from '../rpc/host-api.js'
import { readSmallFile, removeFile, replaceFile } from './durable-file.js'
import type { HostKey } from './encryption-mode.js'
import { isKeyId, uuidPattern } from './home-description.js'
import { errnoOf, ioError, naming } from './io-error.js'
import { WorkMeter } from './work.js'

/** What a dump says about itself in clear text. Needs no key, proves nothing. */
export interface HostDumpDescription {
  readonly dumpId: string
  readonly hostId: string
  readonly hostName: string
  /** ISO 8601, UTC. */
  readonly writtenAt: string
  /** The host key that opens it. */
  readonly key: CryptoKeyId
}

const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$/
const envelopeLimit = 16 * 1024
const dekType = 'vmseal-dek'

/** VMSEAL_INVALID_STATE on a host that keeps no dumps. */
export function requireDumpDirectory(directory: string | undefined, hostName: string): string {
  if (directory !== undefined) return directory
  throw new VmsealError('VMSEAL_INVALID_STATE', `host ${hostName} was started without a dumpDirectory`)
}

/**
 * Encrypts `source`, a file or a pipe that a crash handler writes to, into the dump directory. No plaintext of it is
 * written there. Returns the path of the dump.
 */
export async function writeHostDump(
  directory: string,
  host: { readonly id: string; readonly name: string },
  hostKey: HostKey,
  dump: { readonly name: string; readonly source: string; readonly writtenAt: string },
  work: Work,
): Promise<string> {
  if (typeof dump.name !== 'string' || !namePattern.test(dump.name))
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      `${JSON.stringify(dump.name)} is no name of a dump: use 1 to 120 of A-Z a-z 0-9 . _ -`,
    )
  const file = join(directory, `${dump.name}.dump`)
  const dumpId = randomUUID()
  const dek = native.KeyHandle.generate(32)
  try {
    const vmseal = {
      v: 1,
      role: 'host-dump',
      id: dumpId,
      host: host.id,
      name: host.name,
      at: dump.writtenAt,
      prov: hostKey.id.providerId,
      cipher: 'A256GCM',
    }
    const header = { kid: hostKey.id.keyId, typ: dekType, cty: 'jwk+json', vmseal }
    const envelope = native.sealDek(hostKey.handle, dek, JSON.stringify(header))
    // The key first: a stream whose key is lost would be of no use, a key without its stream does no harm.
    await refuseExisting(directory, dump.name)
    await replaceFile(envelopeOf(file), envelope)
    const step = {
      label: `dump ${dump.name}`,
      bytes: 0,
      start: () => native.encryptFile(dek, streamContext(host.id, dumpId), dump.source, file),
    }
    try {
      await new WorkMeter(work, [step]).run(step)
    } catch (error) {
      await removeFile(envelopeOf(file))
      throw error
    }
    return file
  } finally {
    dek.dispose()
  }
}

export async function describeHostDump(file: string): Promise<HostDumpDescription> {
  const envelope = await readEnvelope(file)
  return describe(
    naming(file, () => native.inspectDek(envelope)),
    file,
  )
}

/**
 * Decrypts a dump into a new file, mode 0600. VMSEAL_ENCRYPTION_KEY_REQUIRED if it is of another host key than this one,
 * VMSEAL_ENVELOPE_AUTHENTICATION if the key is not what its id says.
 */
export async function extractHostDump(
  file: string,
  hostKey: HostKey,
  target: string,
  work: Work = {},
): Promise<HostDumpDescription> {
  const { key } = await describeHostDump(file)
  const { id } = hostKey
  if (id.keyId !== key.keyId || id.providerId !== key.providerId)
    throw new VmsealError(
      'VMSEAL_ENCRYPTION_KEY_REQUIRED',
      `${file} opens with host key ${key.keyId} of ${key.providerId}, not with ${id.keyId} of ${id.providerId}. Take the key from the KMS: vmseal host dump extract --help`,
      { details: { requiredKeys: [key], subject: file } },
    )
  const opened = await openEnvelope(file, hostKey.handle)
  try {
    const { hostId, dumpId } = opened.description
    const context = streamContext(hostId, dumpId)
    const step = {
      label: `extract ${basename(file)}`,
      bytes: 0,
      start: () => native.decryptFile(opened.dek, context, file, target),
    }
    await new WorkMeter(work, [step]).run(step)
    return opened.description
  } finally {
    opened.dek.dispose()
  }
}

/** Wraps the keys of all dumps of a directory anew. A dump that cannot be goes on to need the key that it names. */
export async function rewrapHostDumps(
  directory: string | undefined,
  from: HostKey,
  to: HostKey,
): Promise<HostKeyChange> {
  const rewrapped: string[] = []
  const failed: { dump: string; message: string }[] = []
  for (const name of directory === undefined ? [] : await dumpsIn(directory)) {
    try {
      await rewrap(join(directory as string, `${name}.dump`), from, to)
      rewrapped.push(name)
    } catch (error) {
      if (!isVmsealError(error)) throw error
      failed.push({ dump: name, message: error.message })
    }
  }
  return { rewrapped, failed }
}

async function rewrap(file: string, from: HostKey, to: HostKey): Promise<void> {
  const { dek, description, header } = await openEnvelope(file, from.handle)
  try {
    if (description.key.keyId === to.id.keyId && description.key.providerId === to.id.providerId) return
    const vmseal = { ...header.vmseal, prov: to.id.providerId }
    const next = { kid: to.id.keyId, typ: dekType, cty: 'jwk+json', vmseal }
    await replaceFile(envelopeOf(file), native.sealDek(to.handle, dek, JSON.stringify(next)))
  } finally {
    dek.dispose()
  }
}

interface Header {
  readonly kid: unknown
  readonly typ: unknown
  readonly vmseal: Readonly<Record<string, unknown>>
}

async function openEnvelope(file: string, hostKey: KeyHandle) {
  const envelope = await readEnvelope(file)
  const { key: dek, header } = naming(file, () => native.openDek(hostKey, envelope))
  try {
    return { dek, header: JSON.parse(header) as Header, description: describe(header, file) }
  } catch (error) {
    dek.dispose()
    throw error
  }
}

function describe(text: string, file: string): HostDumpDescription {
  const { kid, typ, vmseal } = JSON.parse(text) as Partial<Header>
  const { v, role, id, host, name, at, prov } = vmseal ?? {}
  const key = { keyId: kid, providerId: prov }
  const ids = [id, host].every((value) => typeof value === 'string' && uuidPattern.test(value))
  const texts = [name, at].every((value) => typeof value === 'string' && value.length <= 200)
  if (typ !== dekType || v !== 1 || role !== 'host-dump' || !ids || !texts || !isKeyId(key))
    throw new VmsealError('VMSEAL_ENVELOPE_INVALID', `${envelopeOf(file)} is not the key of a host dump`, {
      details: { subject: file },
    })
  const [dumpId, hostId, hostName, writtenAt] = [id, host, name, at] as [string, string, string, string]
  return { dumpId, hostId, hostName, writtenAt, key }
}

async function dumpsIn(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory))
      .filter((name) => name.endsWith('.dump.key'))
      .map((name) => name.slice(0, -'.dump.key'.length))
      .filter((name) => namePattern.test(name))
      .toSorted()
  } catch (error) {
    throw ioError(error, directory)
  }
}

async function refuseExisting(directory: string, name: string): Promise<void> {
  const names = await readdir(directory).catch((error: unknown) => {
    throw errnoOf(error) === 'ENOENT' ? notThere(directory) : ioError(error, directory)
  })
  if (!names.includes(`${name}.dump`) && !names.includes(`${name}.dump.key`)) return
  throw new VmsealError('VMSEAL_ALREADY_EXISTS', `there is a dump ${name} in ${directory}`, {
    details: { subject: name },
  })
}

function notThere(directory: string): VmsealError {
  return new VmsealError('VMSEAL_NOT_FOUND', `there is no dump directory ${directory}`, {
    details: { subject: directory },
  })
}

async function readEnvelope(file: string): Promise<string> {
  if (!file.endsWith('.dump'))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${file} is no host dump: its name ends in .dump`, {
      details: { subject: file },
    })
  const path = envelopeOf(file)
  return (await readSmallFile(path, envelopeLimit, path, 'VMSEAL_ENVELOPE_INVALID')).toString('latin1')
}

function envelopeOf(file: string): string {
  return join(dirname(file), `${basename(file)}.key`)
}

/** Associated data of a dump: the stream of another dump or host is refused. */
function streamContext(hostId: string, dumpId: string): Buffer {
  const ids = [hostId, dumpId].map((id) => Buffer.from(id.replaceAll('-', ''), 'hex'))
  return Buffer.concat([Buffer.from('vmseal host dump 1'), ...ids])
}
