/** A clone as the one transaction that makes its folder: copies or children of the disks, home files, and the .vmx. */
import { VmsealError } from '../errors.js'
import { native, type DiskHandle, type KeyHandle } from '../native/load.js'
import type { CloneSpec, Work } from '../rpc/host-api.js'
import { kekOfLink, openChain, type LinkState } from './disk-chain.js'
import { openDisk, type OpenableDisk } from './disks.js'
import type { FileTransaction } from './file-transaction.js'
import { copyDurably } from './guest-state.js'
import { newIdentity, writeDescription, type DiskEntry, type HomeFile } from './home-description.js'
import type { HostContext } from './host-context.js'
import { migrateEncryptionKey } from './migrate-encryption-setting.js'
import { foreignPlace, writeSnapshotTable, type ChainLink } from './snapshot-table.js'
import { FreeNames, type VirtualMachineFiles } from './virtual-machine-files.js'
import { keysRequired, type VirtualMachine } from './vm-config.js'
import { decryptHomeFile, encryptHomeFile, moveHomeFile, sealConfig, wrapHomeDek } from './vm-home.js'
import type { VmxDocument } from './vmx.js'
import type { WorkStep } from './work.js'

const firstGeneration = 1

/** What is cloned. */
export interface SourceState {
  readonly disks: readonly { readonly entry: DiskEntry; readonly links: readonly LinkState[] }[]
  readonly nvram: HomeFile | undefined
  readonly settings: VmxDocument
  readonly dek: KeyHandle | undefined
}

export class ClonePlan {
  readonly #context: HostContext
  readonly #state: SourceState
  readonly #vm: VirtualMachine
  readonly #spec: CloneSpec
  readonly #source: VirtualMachineFiles
  readonly #target: VirtualMachineFiles
  readonly #newDek: KeyHandle | undefined
  /** What was opened, for the caller to close. */
  readonly #handles: DiskHandle[]

  constructor(
    context: HostContext,
    state: SourceState,
    vm: VirtualMachine,
    spec: CloneSpec,
    source: VirtualMachineFiles,
    target: VirtualMachineFiles,
    newDek: KeyHandle | undefined,
    handles: DiskHandle[],
  ) {
    this.#context = context
    this.#state = state
    this.#vm = vm
    this.#spec = spec
    this.#source = source
    this.#target = target
    this.#newDek = newDek
    this.#handles = handles
  }

  /** Room for the copies: at most what the files of the source take. */
  async neededBytes(): Promise<number> {
    let bytes = 0
    if (this.#spec.linked) return bytes
    for (const { links } of this.#state.disks)
      for (const { files, name } of links)
        bytes += await files.allocatedBytes(files.filesOfDisk(name)[1] ?? name)
    return bytes
  }

  transaction(work: Work): FileTransaction {
    const { linked, vmId } = this.#spec
    const names = new FreeNames(this.#target, [])
    const created: string[] = []
    const steps: WorkStep[] = []
    const disks: DiskEntry[] = []
    const links: ChainLink[] = []
    const sealed: OpenableDisk[] = []
    for (const { entry, links: below } of this.#state.disks) {
      const { newDiskId, key, sectorSize } = wishOf(this.#spec, entry)
      const base = names.disk()
      const file = linked ? names.child(base) : base
      const parent = below.at(-1) as LinkState
      const kek = key && this.#context.keys.require(key, keysRequired(this.#target, [key]).message)
      const seal = key && {
        keyId: key.keyId,
        providerId: key.providerId,
        vmId,
        diskId: newDiskId,
        generation: firstGeneration,
        sectorSize: sectorSize ?? parent.sectorSize ?? 512,
      }
      created.push(...this.#target.filesOfDisk(file))
      const generation = seal && { sealedGeneration: firstGeneration }
      disks.push({ device: entry.device, diskId: newDiskId, file, ...generation })
      const path = this.#target.path(file)
      if (linked) {
        for (const link of below) kekOfLink(link, this.#context.keys)
        const hint = foreignName(parent)
        links.push(...below.map((link) => foreignLink(link, below)))
        links.push({
          file,
          vmId,
          diskId: newDiskId,
          parent: hint,
          ...(seal && { generation: firstGeneration }),
        })
        steps.push({
          label: `child of ${entry.device}`,
          bytes: 0,
          start: () =>
            native.createChildDisk(
              path,
              parent.files.path(parent.name),
              hint,
              newDiskId,
              kek ?? null,
              seal ?? null,
            ),
        })
      } else {
        const handle = openChain(below, this.#context.keys, false)
        this.#handles.push(handle)
        if (seal && handle.capacityBytes % seal.sectorSize !== 0)
          throw new VmsealError(
            'VMSEAL_SECTOR_ALIGNMENT',
            `${this.#source.label(entry.file)} is no whole number of ${seal.sectorSize}-byte sectors`,
          )
        if (key) sealed.push({ diskId: newDiskId, file, keys: [key] })
        steps.push({
          label: `copy ${entry.device}`,
          bytes: handle.capacityBytes,
          start: () => handle.flatten(path, newDiskId, kek ?? null, seal ?? null),
        })
      }
    }
    const nvram = this.#nvram(names, created, steps, work)
    return {
      generation: firstGeneration,
      created,
      superseded: [],
      prepare: async () => {
        await nvram?.prepare?.()
      },
      steps,
      verify: () => {
        for (const disk of sealed) openDisk(disk, vmId, this.#context.keys, this.#target).close()
      },
      vmx: this.#vmx(disks, links, nvram?.file),
    }
  }

  /** Memory and suspended state stay with the source: a clone is off. */
  #nvram(names: FreeNames, created: string[], steps: WorkStep[], work: Work) {
    const { nvram, dek } = this.#state
    if (nvram === undefined) return undefined
    const { role } = nvram
    const file = names.home(role)
    created.push(file)
    const paths = [this.#source.path(nvram.file), this.#target.path(file)] as const
    const newDek = this.#newDek
    const oldId = this.#vm.description.vmId
    const { vmId } = this.#spec
    const step = (start: WorkStep['start']): void =>
      void steps.push({ label: `copy ${role}`, bytes: 0, start })
    if (dek && newDek) step(() => moveHomeFile(dek, newDek, oldId, vmId, role, ...paths))
    else if (dek) step(() => decryptHomeFile(dek, oldId, role, ...paths))
    else if (newDek) step(() => encryptHomeFile(newDek, vmId, role, ...paths))
    else return { file: { role, file }, prepare: () => copyDurably(...paths, work) }
    return { file: { role, file } }
  }

  #vmx(disks: readonly DiskEntry[], links: readonly ChainLink[], nvram: HomeFile | undefined): VmxDocument {
    const { vmId, name, homeKey } = this.#spec
    const document = newIdentity(name, vmId)
    const homeFiles = nvram ? [nvram] : []
    const description = { vmId, name, generation: firstGeneration, disks, homeFiles }
    const dek = this.#newDek
    if (dek && homeKey) {
      const kek = this.#context.keys.require(homeKey, keysRequired(this.#target, [homeKey]).message)
      const jwes = [wrapHomeDek(kek, dek, vmId, homeKey, firstGeneration)]
      const config = sealConfig(dek, this.#state.settings, vmId, firstGeneration)
      writeDescription(document, { ...description, wrap: { jwes, generation: firstGeneration, config } })
    } else writeDescription(document, description)
    const distinct = [...new Map(links.map((link) => [link.file, link])).values()]
    writeSnapshotTable(document, { links: distinct, snapshots: [], clones: [] })
    if (dek === undefined) {
      document.append(this.#state.settings, this.#target.label(this.#target.vmx))
      // A decryption, as of the VM itself.
      if (this.#vm.homeKeys.length > 0) document.set(migrateEncryptionKey, 'required')
    }
    return document
  }
}

/** What is asked for a disk of the source. */
export function wishOf(spec: CloneSpec, { diskId }: DiskEntry): CloneSpec['disks'][number] {
  const wish = spec.disks.find((disk) => disk.diskId === diskId)
  if (wish === undefined) throw new VmsealError('VMSEAL_INTERNAL', `no wish for disk ${diskId}`)
  return wish
}

/** A link of the source as the clone names it. */
function foreignName({ files, name }: LinkState): string {
  return `../${files.base}/${name}`
}

function foreignLink(link: LinkState, chain: readonly LinkState[]): ChainLink {
  const { vmId, diskId, generation, parent } = link
  const below = chain.find(({ file }) => file === parent)
  return {
    file: foreignPlace(link.file) ? link.file : foreignName(link),
    vmId,
    diskId,
    ...(generation !== undefined && { generation }),
    ...(below && { parent: foreignName(below) }),
  }
}
