/**
 * What a .vmx says in clear text: who the VM is, its disks, its home files, and, when VM home is
 * encrypted, the wrapped DEK and the sealed settings. No key is needed here and nothing is proved.
 */
import { VmsealError, type CryptoKeyId } from '../errors.js'
import { parseBecoming, serialiseBecoming, type Becoming } from './disk-standing.js'
import type { VirtualMachineFiles } from './virtual-machine-files.js'
import { VmxDocument } from './vmx.js'

export interface DiskEntry {
  /** `scsi0:0` */
  readonly device: string
  readonly file: string
  readonly diskId: string
  /** Generation of the disk's DEK; absent: the disk is plain. */
  readonly sealedGeneration?: number
  /** Open for several writers. */
  readonly shared?: true
  /** An in-place conversion was begun, and whether it has ended, the descriptor tells. */
  readonly becomes?: Becoming
}

export interface HomeFile {
  /** See `VirtualMachineFiles.roleOf`. */
  readonly role: string
  readonly file: string
}

/** Wraps of one DEK that a .vmx may carry. */
export const wrapLimit = 16

export interface HomeWrap {
  /** The wrapped DEK, `vmseal.dek.0` first; more than one while a shallow recrypt is under way. Any that opens will do. */
  readonly jwes: readonly string[]
  /** Generation of the VM home DEK. */
  readonly generation: number
  /** The other lines, as a JWE under the DEK. */
  readonly config: string
}

export interface HomeDescription {
  readonly vmId: string
  readonly name: string
  /** +1 with every committed transaction. */
  readonly generation: number
  readonly disks: readonly DiskEntry[]
  readonly homeFiles: readonly HomeFile[]
  /** Absent: VM home is plain. */
  readonly wrap?: HomeWrap
}

/** The largest generation of a .vmx: 32 bits, the last of which is never reached. */
export const generationLimit = 0xfffffffe

export const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

const identityKeys = new Set([
  '.encoding',
  'config.version',
  'virtualhw.version',
  'displayname',
  'uuid.bios',
  'nvram',
])
const deviceKey =
  /^scsi[0-3](?:\.(?:present|virtualdev)|:(?:\d|1[0-5])\.(?:present|filename|vmsealid|vmsealgen|vmsealconversion|sharing))$/
/** The lines that a description governs: one that it no longer has is removed. */
const describedKey =
  /^(?:nvram|vmseal\.(?:gen|dekgen|config|dek\.\d+|file\d+\.(?:role|name))|scsi\d:\d+\.(?:present|filename|vmsealid|vmsealgen|vmsealconversion))$/i
const diskLimit = 60
const homeFileLimit = 200

/** True for the lines that stay in clear text when VM home is encrypted. */
export function isIdentityKey(key: string): boolean {
  const folded = key.toLowerCase()
  return identityKeys.has(folded) || folded.startsWith('vmseal.') || deviceKey.test(folded)
}

/** Reads and checks the identity lines. Anything that a VM of ours cannot have: VMSEAL_VMX_INVALID. */
export function describeHome(document: VmxDocument, files: VirtualMachineFiles): HomeDescription {
  const read = new Reader(document, files)
  const disks = read.disks()
  const homeFiles = read.homeFiles()
  const wrap = read.wrap()
  return {
    vmId: read.uuid('vmseal.id'),
    name: read.text('displayName'),
    generation: read.generation('vmseal.gen'),
    disks,
    homeFiles,
    ...(wrap === undefined ? {} : { wrap }),
  }
}

/** Puts the identity lines of `description` into `document`: changed where they stand, new ones at the end. */
export function writeDescription(document: VmxDocument, description: HomeDescription): void {
  const lines = linesOf(description)
  const wanted = new Set([...lines.keys()].map((key) => key.toLowerCase()))
  for (const key of document.keys())
    if ((describedKey.test(key) && !wanted.has(key.toLowerCase())) || isOfMissingDevice(key, wanted))
      document.delete(key)
  for (const [key, value] of lines) if (document.get(key) !== value) document.set(key, value)
}

/** Who may write a disk is not ours to say, but goes with its device. */
function isOfMissingDevice(key: string, wanted: ReadonlySet<string>): boolean {
  const device = /^(scsi\d:\d+)\.sharing$/i.exec(key)?.[1]?.toLowerCase()
  return device !== undefined && !wanted.has(`${device}.filename`)
}

function linesOf(description: HomeDescription): Map<string, string> {
  const lines = new Map([['vmseal.gen', String(description.generation)]])
  const others = description.homeFiles.filter(({ role }) => role !== 'nvram')
  const nvram = description.homeFiles.find(({ role }) => role === 'nvram')
  if (nvram !== undefined) lines.set('nvram', nvram.file)
  for (const [index, { role, file }] of others.entries()) {
    lines.set(`vmseal.file${index}.role`, role)
    lines.set(`vmseal.file${index}.name`, file)
  }
  for (const { device, file, diskId, sealedGeneration, becomes } of description.disks) {
    lines.set(`${device.split(':')[0]}.present`, 'TRUE')
    lines.set(`${device.split(':')[0]}.virtualDev`, 'lsilogic')
    lines.set(`${device}.present`, 'TRUE')
    lines.set(`${device}.fileName`, file)
    lines.set(`${device}.vmsealId`, diskId)
    if (sealedGeneration !== undefined) lines.set(`${device}.vmsealGen`, String(sealedGeneration))
    if (becomes) lines.set(`${device}.vmsealConversion`, serialiseBecoming(becomes))
  }
  if (description.wrap !== undefined) {
    lines.set('vmseal.dekGen', String(description.wrap.generation))
    for (const [index, jwe] of description.wrap.jwes.entries()) lines.set(`vmseal.dek.${index}`, jwe)
    lines.set('vmseal.config', description.wrap.config)
  }
  return lines
}

/** The .vmx of a new VM before its first description is written. */
export function newIdentity(name: string, vmId: string): VmxDocument {
  const document = VmxDocument.empty()
  document.set('.encoding', 'UTF-8')
  document.set('config.version', '8')
  document.set('virtualHW.version', '14')
  document.set('displayName', name)
  document.set('uuid.bios', biosUuid(vmId))
  document.set('vmseal.id', vmId)
  return document
}

/** The device that the next disk gets. Unit 7 of a SCSI controller is the controller itself. */
export function nextDevice(disks: readonly Pick<DiskEntry, 'device'>[]): string {
  const used = new Set(disks.map(({ device }) => device))
  for (let controller = 0; controller < 4; controller += 1)
    for (let unit = 0; unit < 16; unit += 1)
      if (unit !== 7 && !used.has(`scsi${controller}:${unit}`)) return `scsi${controller}:${unit}`
  throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `a VM has at most ${diskLimit} disks`)
}

/** Key ids as files and messages may hold them. */
export function isKeyId(value: unknown): value is CryptoKeyId {
  if (typeof value !== 'object' || value === null) return false
  const { keyId, providerId } = value as Partial<Record<keyof CryptoKeyId, unknown>>
  return isIdText(keyId) && isIdText(providerId)
}

function isIdText(value: unknown): boolean {
  // eslint-disable-next-line no-control-regex
  return typeof value === 'string' && value.length > 0 && value.length <= 512 && !/[\0-\x1f\x7f]/.test(value)
}

/** uuid.bios in VMware's spelling: `56 4d a1 ... - ...`. */
function biosUuid(uuid: string): string {
  const bytes = uuid.replaceAll('-', '').match(/../g) ?? []
  return `${bytes.slice(0, 8).join(' ')}-${bytes.slice(8).join(' ')}`
}

class Reader {
  readonly #document: VmxDocument
  readonly #files: VirtualMachineFiles

  constructor(document: VmxDocument, files: VirtualMachineFiles) {
    this.#document = document
    this.#files = files
  }

  text(key: string): string {
    const value = this.#document.get(key)
    if (value === undefined || value === '') throw this.#invalid(`it has no ${key}`)
    return value
  }

  uuid(key: string): string {
    const value = this.text(key)
    if (!uuidPattern.test(value)) throw this.#invalid(`${key} is no UUID`)
    return value
  }

  generation(key: string): number {
    const value = this.text(key)
    const number = Number(value)
    if (!/^[1-9]\d{0,9}$/.test(value) || number > generationLimit)
      throw this.#invalid(`${key} is no generation`)
    return number
  }

  disks(): DiskEntry[] {
    const disks = this.#document
      .keys()
      .map((key) => /^(scsi[0-3]:(?:\d|1[0-5]))\.fileName$/i.exec(key)?.[1]?.toLowerCase())
      .filter((device) => device !== undefined)
      .map((device) => this.#disk(device))
    if (disks.length > diskLimit) throw this.#invalid(`it has more than ${diskLimit} disks`)
    this.#distinct(disks.map(({ file }) => file))
    this.#distinct(disks.map(({ diskId }) => diskId))
    return disks
  }

  homeFiles(): HomeFile[] {
    const found: HomeFile[] = []
    if (this.#document.get('nvram') !== undefined) found.push(this.#homeFile('nvram', 'nvram'))
    for (let index = 0; this.#document.get(`vmseal.file${index}.role`) !== undefined; index += 1) {
      if (index >= homeFileLimit) throw this.#invalid(`it has more than ${homeFileLimit} files`)
      found.push(this.#homeFile(this.text(`vmseal.file${index}.role`), `vmseal.file${index}.name`))
    }
    this.#distinct(found.map(({ file }) => file))
    this.#distinct(found.map(({ role }) => role))
    return found
  }

  wrap(): HomeWrap | undefined {
    const jwes: string[] = []
    for (let jwe; (jwe = this.#document.get(`vmseal.dek.${jwes.length}`)) !== undefined; jwes.push(jwe))
      if (jwes.length === wrapLimit) throw this.#invalid(`it has more than ${wrapLimit} wrapped DEKs`)
    const sealed =
      this.#document.get('vmseal.dekGen') !== undefined || this.#document.get('vmseal.config') !== undefined
    if (jwes.length === 0 && !sealed) return undefined
    if (jwes.length === 0 || jwes.includes(''))
      throw new VmsealError(
        'VMSEAL_ENVELOPE_INVALID',
        `${this.#subject} says that VM home is encrypted, but its wrapped DEK (vmseal.dek.0) is missing`,
        { details: { subject: this.#subject } },
      )
    return { jwes, generation: this.generation('vmseal.dekGen'), config: this.text('vmseal.config') }
  }

  #disk(device: string): DiskEntry {
    if (this.#document.get(`${device}.present`)?.toUpperCase() !== 'TRUE')
      throw this.#invalid(`${device} is not present but has a file`)
    const file = this.text(`${device}.fileName`)
    if (!this.#files.isDescriptor(file)) throw this.#invalid(`${device}.fileName is no disk of this VM`)
    const shared = this.#document.get(`${device}.sharing`)?.toLowerCase() === 'multi-writer'
    const sealed = this.#document.get(`${device}.vmsealGen`) !== undefined
    const becomes = this.#becoming(`${device}.vmsealConversion`)
    return {
      device,
      file,
      diskId: this.uuid(`${device}.vmsealId`),
      ...(sealed && { sealedGeneration: this.generation(`${device}.vmsealGen`) }),
      ...(becomes && { becomes }),
      ...(shared && { shared }),
    }
  }

  #becoming(key: string): Becoming | undefined {
    const text = this.#document.get(key)
    if (text === undefined) return undefined
    const becomes = parseBecoming(text)
    if (becomes === undefined || (becomes.generation ?? 0) > generationLimit)
      throw this.#invalid(`${key} is no conversion`)
    return becomes
  }

  #homeFile(role: string, key: string): HomeFile {
    const file = this.text(key)
    const kind = role.split(' ')[0] ?? ''
    if (this.#files.kindOf(file) !== 'home' || !file.endsWith(`.${kind}`))
      throw this.#invalid(`${key} is no ${kind} file of this VM`)
    return { role, file }
  }

  #distinct(values: readonly string[]): void {
    if (new Set(values).size !== values.length)
      throw this.#invalid('two of its lines name the same file or id')
  }

  get #subject(): string {
    return this.#files.label(this.#files.vmx)
  }

  #invalid(reason: string): VmsealError {
    return new VmsealError('VMSEAL_VMX_INVALID', `${this.#subject} cannot be used: ${reason}`, {
      details: { subject: this.#subject },
    })
  }
}
