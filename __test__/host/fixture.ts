/** Real hosts on a scratch datastore, keys sealed to them, and VMs with recognisable contents. */
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { mkdir, mkdtemp, open, readFile, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ExecutionContext } from 'ava'
import type { HostOptions } from '../../src/host/host-options.js'
import { Host } from '../../src/host/host.js'
import { native, type KeyHandle } from '../../src/native/load.js'
import {
  sealContext,
  type CreateSpec,
  type CryptoSpec,
  type HostApi,
  type SealedKey,
  type VmConfig,
} from '../../src/rpc/host-api.js'

export const marker = 'The quick brown fox keeps its plaintext off the datastore. '
export const secretSetting = 'guestinfo.password'

export interface Kek {
  readonly keyId: string
  readonly providerId: string
  readonly handle: KeyHandle
}

export interface Lab {
  /** Where images lie, outside the datastore. */
  readonly images: string
  readonly datastore: string
  readonly host: Host
  start(name: string, options?: Partial<HostOptions>): Promise<Host>
}

export async function makeLab(t: ExecutionContext, options: Partial<HostOptions> = {}): Promise<Lab> {
  const directory = await mkdtemp(join(tmpdir(), 'vmseal-host-'))
  const images = join(directory, 'images')
  const datastore = join(directory, 'ds1')
  await mkdir(images)
  await mkdir(datastore)
  const hosts: Host[] = []
  t.teardown(async () => {
    for (const host of hosts) await host.stop()
    await rm(directory, { recursive: true, force: true })
  })
  const start = async (name: string, more: Partial<HostOptions> = {}) => {
    const host = await Host.start({ name, datastores: { ds1: datastore }, ...more })
    hosts.push(host)
    await makeSafe(host)
    return host
  }
  return { images, datastore, host: await start('esx-1', options), start }
}

export function makeKek(keyId: string = randomUUID(), providerId = 'kms-1'): Kek {
  return { keyId, providerId, handle: native.KeyHandle.generate(32) }
}

export function idOf({ keyId, providerId }: Kek) {
  return { keyId, providerId }
}

export function encryptWith(kek: Kek): CryptoSpec {
  return { type: 'encrypt', key: idOf(kek) }
}

export const decrypt: CryptoSpec = { type: 'decrypt' }

/** A KEK as vCenter sends it to the host's present start. */
export async function sealFor(host: HostApi, kek: Kek, change: Partial<SealedKey> = {}): Promise<SealedKey> {
  const { hostId, publicKey } = await host.identify()
  const context = {
    hostId,
    ...idOf(kek),
    nonce: randomBytes(16).toString('base64'),
    expiresAt: new Date(Date.now() + 60_000).toISOString(),
    ...change,
  }
  const sealed = native.sealForHost(Buffer.from(publicKey, 'base64'), sealContext(context), kek.handle)
  return { ...context, sealed: sealed.toString('base64') }
}

/** Brings a host of any start into the encryption mode in which it takes keys. */
export async function makeSafe(host: HostApi): Promise<void> {
  const hostKey = makeKek()
  await host.prepareCrypto()
  await host.enableCrypto(await sealFor(host, hostKey))
  hostKey.handle.dispose()
}

/** Also after a restart, which leaves a host incapable. */
export async function install(host: HostApi, ...keks: Kek[]): Promise<void> {
  if ((await host.identify()).cryptoState !== 'safe') await makeSafe(host)
  for (const kek of keks) await host.installKey(await sealFor(host, kek))
}

/** A raw image: marker text at the start, then random bytes, then a hole if `holes`. */
export async function makeImage(lab: Lab, name: string, bytes = 256 * 1024, holes = false): Promise<string> {
  const path = join(lab.images, name)
  const file = await open(path, 'wx')
  try {
    const content = randomBytes(holes ? bytes / 2 : bytes)
    content.write(`${name}: ${marker.repeat(20)}`)
    await file.write(content, 0, content.length, 0)
    await file.truncate(bytes)
  } finally {
    await file.close()
  }
  return path
}

export async function sha256Of(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex')
}

/** Name and SHA-256 of every file in the VM's folder. */
export async function folderOf(lab: Lab, name = 'db01'): Promise<Record<string, string>> {
  const folder = join(lab.datastore, name)
  const entries: [string, string][] = []
  for (const file of (await readdir(folder)).toSorted())
    entries.push([file, await sha256Of(join(folder, file))])
  return Object.fromEntries(entries)
}

/** The files of the VM's folder in which `text` stands. */
export async function filesWith(lab: Lab, text: string, name = 'db01'): Promise<string[]> {
  const folder = join(lab.datastore, name)
  const found: string[] = []
  for (const file of (await readdir(folder)).toSorted())
    if ((await readFile(join(folder, file))).includes(text)) found.push(file)
  return found
}

export interface MadeVm {
  readonly config: VmConfig
  readonly reference: { readonly datastore: string; readonly vmx: string }
  /** SHA-256 of the disks' contents, in their order. */
  readonly digests: readonly string[]
}

/** A VM with one disk for each image; with `homeKey` and `diskKey` it is encrypted from the first byte. */
export async function makeVm(
  lab: Lab,
  options: {
    name?: string
    images?: number
    bytes?: number
    homeKey?: Kek
    diskKey?: Kek
    host?: HostApi
  } = {},
): Promise<MadeVm> {
  const { name = 'db01', images = 2, homeKey, diskKey } = options
  const sources: string[] = []
  for (let index = 0; index < images; index += 1)
    sources.push(await makeImage(lab, `${name}-${index}-${randomUUID()}.raw`, options.bytes, index % 2 === 1))
  const spec: CreateSpec = {
    vmId: randomUUID(),
    name,
    datastore: 'ds1',
    disks: sources.map((source) => ({
      diskId: randomUUID(),
      source,
      ...(diskKey && { key: idOf(diskKey) }),
    })),
    settings: { memsize: '1024', [secretSetting]: `hunter2 ${marker}` },
    ...(homeKey && { homeKey: idOf(homeKey) }),
  }
  const config = await (options.host ?? lab.host).createVirtualMachine(spec)
  const { datastore, vmx } = config
  return { config, reference: { datastore, vmx }, digests: await Promise.all(sources.map(sha256Of)) }
}

/** The SHA-256 of every disk as a guest reads it. */
export async function guestDigests(host: HostApi, vm: MadeVm): Promise<string[]> {
  const { disks } = await host.readVirtualMachine(vm.reference)
  const digests: string[] = []
  for (const { diskId } of disks) digests.push((await host.digestDisk(vm.reference, diskId)).sha256)
  return digests
}
