/**
 * A VM that is off as a folder outside the datastores: ciphertext alone, of a plain VM too, under a KEK that the place where it is
 * restored knows. The manifest comes last and makes it an export; what interrupts that leaves no folder, a crash one without it.
 */
import { createHash } from 'node:crypto'
import { mkdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { CryptoKeyId } from '../errors.js'
import { native, type DiskHandle } from '../native/load.js'
import type { ExportDescription, ExportSpec, Work } from '../rpc/host-api.js'
import { makeVirtualMachineFolder } from './create.js'
import { Datastore } from './datastore.js'
import { removeFile, replaceFile, syncDirectory } from './durable-file.js'
import { exportManifest, sealManifest, type ExportManifest } from './export-manifest.js'
import { sumStep, type FileSum } from './file-sum.js'
import { holdOpenVm } from './held-vm.js'
import { requireSpace, type HostContext } from './host-context.js'
import { ioError } from './io-error.js'
import type { PoweredOnVms } from './power.js'
import { planResealedCopy, type ResealPlan, type ResealSource } from './resealed-copy.js'
import { VirtualMachineFiles } from './virtual-machine-files.js'
import { logLine } from './vm-log.js'

/** The VM in an export has a folder and file names that do not depend on where the export is, or on what it is called. */
export function filesOfExport(folder: string): VirtualMachineFiles {
  return new VirtualMachineFiles('export', folder, 'vm')
}

/** The VM is powered off: the caller saw to that. It is only read. */
export function exportVirtualMachine(
  context: HostContext,
  powered: PoweredOnVms,
  source: VirtualMachineFiles,
  spec: ExportSpec,
  work: Work,
): Promise<ExportDescription> {
  return holdOpenVm(context, powered, source, async ({ vm, dek }) => {
    const newDek = native.KeyHandle.generate(32)
    const handles: DiskHandle[] = []
    const target = filesOfExport(spec.to)
    try {
      const from: ResealSource = { files: source, vm, dek }
      const plan = await planResealedCopy(context, from, target, identityOf(from, spec.key), newDek, handles)
      await makeFolder(spec.to)
      try {
        const sums = await write(context, spec, target, plan, vm.description.name, work)
        const description = describe(from, spec.key)
        const manifest = sealManifest({ ...description, files: sums }, newDek)
        await replaceFile(join(spec.to, exportManifest), manifest)
        await syncDirectory(dirname(spec.to))
        await logLine(source, context.name, `exported under key ${spec.key.keyId} of ${spec.key.providerId}`)
        return description
      } catch (error) {
        // It was made by this very call, so all that is in it is.
        await rm(spec.to, { recursive: true, force: true })
        throw error
      }
    } finally {
      for (const handle of handles) handle.close()
      newDek.dispose()
    }
  })
}

/** Writes everything but the manifest, and sums it as it reads back. */
async function write(
  context: HostContext,
  { to }: ExportSpec,
  target: VirtualMachineFiles,
  { transaction, files, neededBytes }: ResealPlan,
  name: string,
  work: Work,
): Promise<ExportManifest['files']> {
  const datastore = await Datastore.open('export', to)
  await requireSpace(context, datastore, neededBytes)
  const sums: (FileSum & { name: string })[] = []
  const summing = files.map((file) =>
    sumStep(`sum ${file.name}`, target.path(file.name), file.bytes, (sum) =>
      sums.push({ name: file.name, ...sum }),
    ),
  )
  const steps = [...transaction.steps, ...summing]
  await makeVirtualMachineFolder(context, datastore, target, { ...transaction, steps }, work, name)
  // Who did it when is no part of the VM.
  await removeFile(target.path(target.log))
  await syncDirectory(target.directory)
  const vmx = transaction.vmx.toString()
  sums.push({
    name: target.vmx,
    bytes: Buffer.byteLength(vmx),
    sha256: createHash('sha256').update(vmx).digest('hex'),
  })
  return sums
}

async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: 0o700 })
    await syncDirectory(dirname(path))
  } catch (error) {
    throw ioError(error, path)
  }
}

/** The export keeps the identity of the VM; whoever restores it says which one the new VM gets. */
function identityOf({ vm }: ResealSource, key: CryptoKeyId) {
  const { vmId, name } = vm.description
  const disks = vm.disks.map(({ diskId }) => ({ diskId, newDiskId: diskId, key }))
  return { vmId, name, homeKey: key, disks }
}

function describe({ vm }: ResealSource, key: CryptoKeyId): ExportDescription {
  const { vmId, name } = vm.description
  return {
    vmId,
    name,
    exportedAt: new Date().toISOString(),
    key: { keyId: key.keyId, providerId: key.providerId },
    disks: vm.disks.map(({ diskId, device, capacityBytes }) => ({ diskId, device, capacityBytes })),
  }
}
