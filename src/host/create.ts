/** Making a VM: its folder appears whole, with the .vmx as the last file, or not at all. */
import { mkdir, rmdir } from 'node:fs/promises'
import { VmsealError } from '../errors.js'
import { native, type KeyHandle } from '../native/load.js'
import type { CreateSpec, Work } from '../rpc/host-api.js'
import type { Datastore } from './datastore.js'
import { newDiskStep, openDisk, type OpenableDisk } from './disks.js'
import { removeFile, replaceFile, syncDirectory, writeTemporary } from './durable-file.js'
import { commitTransaction, type FileTransaction } from './file-transaction.js'
import { newIdentity, nextDevice, writeDescription, type DiskEntry } from './home-description.js'
import { requireSpace, takeVirtualMachine, type HostContext } from './host-context.js'
import { errnoOf, ioError } from './io-error.js'
import { FreeNames, type VirtualMachineFiles } from './virtual-machine-files.js'
import { distinctKeys, keysRequired } from './vm-config.js'
import { encryptHomeFile, sealConfig, wrapHomeDek } from './vm-home.js'
import { logLine } from './vm-log.js'
import { VmxDocument } from './vmx.js'
import { WorkMeter, type WorkStep } from './work.js'

/** An erased flash chip. */
const newNvram = Buffer.alloc(64 * 1024, 0xff)
const firstGeneration = 1

export async function createVirtualMachine(
  context: HostContext,
  datastore: Datastore,
  files: VirtualMachineFiles,
  spec: CreateSpec,
  work: Work,
): Promise<void> {
  const keys = distinctKeys([spec.homeKey, ...spec.disks.map(({ key }) => key)])
  const missing = keys.filter((key) => context.keys.get(key) === undefined)
  if (missing.length > 0) throw keysRequired(files, missing)
  const dek = spec.homeKey && native.KeyHandle.generate(32)
  try {
    const { transaction, neededBytes } = planCreation(context, files, spec, dek)
    await requireSpace(context, datastore, neededBytes)
    await makeVirtualMachineFolder(context, datastore, files, transaction, work, spec.name)
  } finally {
    dek?.dispose()
  }
}

/** Makes the folder of a new VM by the first transaction on it. `entry` is what its log says of that. */
export async function makeVirtualMachineFolder(
  context: HostContext,
  datastore: Datastore,
  files: VirtualMachineFiles,
  transaction: FileTransaction,
  work: Work,
  name: string,
  entry = `VM ${name} created`,
): Promise<void> {
  await makeFolder(datastore, files)
  try {
    await createInFolder(context, files, transaction, new WorkMeter(work, transaction.steps), entry)
  } finally {
    await removeIfEmpty(files)
  }
}

async function createInFolder(
  context: HostContext,
  files: VirtualMachineFiles,
  transaction: FileTransaction,
  meter: WorkMeter,
  entry: string,
): Promise<void> {
  const lock = await takeVirtualMachine(context, files)
  let created = false
  try {
    await requireUnused(files)
    created = true
    await commitTransaction(files, lock, transaction, meter)
    await logLine(files, context.name, `${entry}; generation ${transaction.generation}`)
    meter.finish('committed')
  } catch (error) {
    if (created && (await files.readVmx()) === undefined) await removeFile(files.path(files.vmsd))
    throw error
  } finally {
    await lock.release()
  }
}

function planCreation(
  context: HostContext,
  files: VirtualMachineFiles,
  spec: CreateSpec,
  dek: KeyHandle | undefined,
) {
  const names = new FreeNames(files, [])
  const created: string[] = []
  const steps: WorkStep[] = []
  const disks: DiskEntry[] = []
  const sealed: OpenableDisk[] = []
  let neededBytes = newNvram.length
  for (const disk of spec.disks) {
    const { diskId, key } = disk
    const device = nextDevice(disks)
    const file = names.disk()
    const seal = key && {
      kek: context.keys.require(key, keysRequired(files, [key]).message),
      spec: {
        keyId: key.keyId,
        providerId: key.providerId,
        vmId: spec.vmId,
        diskId,
        generation: firstGeneration,
        sectorSize: disk.sectorSize ?? 512,
      },
    }
    const planned = newDiskStep(disk, device, files.path(file), seal)
    neededBytes += planned.neededBytes
    steps.push(planned.step)
    created.push(...files.filesOfDisk(file))
    disks.push({ device, diskId, file, ...(seal && { sealedGeneration: firstGeneration }) })
    if (key) sealed.push({ diskId, file, keys: [key] })
  }
  const nvram = names.home('nvram')
  created.push(nvram)
  let flash = files.path(nvram)
  if (dek)
    steps.push({
      label: 'encrypt nvram',
      bytes: newNvram.length,
      start: () => encryptHomeFile(dek, spec.vmId, 'nvram', flash, files.path(nvram)),
    })
  const transaction: FileTransaction = {
    generation: firstGeneration,
    created,
    superseded: [],
    prepare: async () => {
      if (dek) flash = await writeTemporary(flash, newNvram)
      else await replaceFile(flash, newNvram)
      await replaceFile(files.path(files.vmsd), '.encoding = "UTF-8"\n')
    },
    steps,
    verify: () => {
      for (const disk of sealed) openDisk(disk, spec.vmId, context.keys, files).close()
    },
    vmx: composeVmx(context, files, spec, disks, nvram, dek),
  }
  return { transaction, neededBytes }
}

function composeVmx(
  context: HostContext,
  files: VirtualMachineFiles,
  spec: CreateSpec,
  disks: readonly DiskEntry[],
  nvram: string,
  dek: KeyHandle | undefined,
): VmxDocument {
  const { vmId, name, homeKey } = spec
  const document = newIdentity(name, vmId)
  const settings = VmxDocument.empty()
  for (const [key, value] of Object.entries(spec.settings ?? {})) settings.set(key, value)
  const description = {
    vmId,
    name,
    generation: firstGeneration,
    disks,
    homeFiles: [{ role: 'nvram', file: nvram }],
  }
  if (dek === undefined || homeKey === undefined) {
    writeDescription(document, description)
    document.append(settings, files.label(files.vmx))
    return document
  }
  const kek = context.keys.require(homeKey, keysRequired(files, [homeKey]).message)
  const jwe = wrapHomeDek(kek, dek, vmId, homeKey, firstGeneration)
  const config = sealConfig(dek, settings, vmId, firstGeneration)
  writeDescription(document, { ...description, wrap: { jwes: [jwe], generation: firstGeneration, config } })
  return document
}

/** A folder without a .vmx may be what a crashed creation left; that is decided under its lock. */
async function makeFolder(datastore: Datastore, files: VirtualMachineFiles): Promise<void> {
  try {
    await mkdir(files.directory, { mode: 0o700 })
    await syncDirectory(datastore.directory)
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw ioError(error, files.label(''))
    if ((await files.list()).includes(files.vmx)) throw alreadyExists(files)
    await requireUnused(files, [files.manifest])
  }
}

/** Refuses a folder that holds more than what creation itself leaves behind after a crash. */
async function requireUnused(files: VirtualMachineFiles, also: readonly string[] = []): Promise<void> {
  const names = await files.list()
  if (also.some((name) => names.includes(name))) return
  const own = new Set([files.lock, files.log, files.vmsd])
  if (names.some((name) => !own.has(name) && files.kindOf(name) !== 'temporary')) throw alreadyExists(files)
}

/** Removes the folder if the VM in it did not come to be. */
async function removeIfEmpty(files: VirtualMachineFiles): Promise<void> {
  const names = await files.list()
  if (names.some((name) => name !== files.log)) return
  await removeFile(files.path(files.log))
  try {
    await rmdir(files.directory)
  } catch (error) {
    if (errnoOf(error) !== 'ENOTEMPTY' && errnoOf(error) !== 'ENOENT') throw ioError(error, files.label(''))
  }
}

export function alreadyExists(files: VirtualMachineFiles): VmsealError {
  const subject = files.label('')
  return new VmsealError('VMSEAL_ALREADY_EXISTS', `the folder ${subject} exists; choose another name`, {
    details: { subject },
  })
}
