/**
 * What a hypervisor writes of a running guest beside its disks: suspended memory, the memory of a snapshot, a dump of a
 * crashed VM. It becomes a file of VM home, encrypted with the VM's key when VM home is; no plaintext of it reaches the
 * datastore.
 */
import { createReadStream, createWriteStream } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import { pipeline } from 'node:stream/promises'
import { VmsealError } from '../errors.js'
import type { KeyHandle } from '../native/load.js'
import type { Work } from '../rpc/host-api.js'
import { commitTransaction, type FileTransaction } from './file-transaction.js'
import { generationLimit, writeDescription, type HomeFile } from './home-description.js'
import type { HostContext } from './host-context.js'
import { ioError } from './io-error.js'
import type { VirtualMachineLock } from './lock.js'
import type { PoweredOnVms } from './power.js'
import { FreeNames, type VirtualMachineFiles } from './virtual-machine-files.js'
import { openHomeOf, readVirtualMachine, type VirtualMachine } from './vm-config.js'
import { decryptHomeFile, encryptHomeFile, openSecrets, sealConfig } from './vm-home.js'
import { logLine } from './vm-log.js'
import { WorkMeter, type WorkStep } from './work.js'

/** `vmss`: suspended state; `vmem`: memory; `vmsn`: state of a snapshot; `core`: a dump of the VM. */
type GuestStateKind = 'vmss' | 'vmem' | 'vmsn' | 'core'

export interface GuestState {
  readonly kind: GuestStateKind
  /** Tells several of a kind apart, for instance `-Snapshot1`: up to 40 of A-Z a-z 0-9 . _ - */
  readonly label?: string
}

/** A VM whose lock is held; `dek` is there when VM home is encrypted. */
interface HeldVm {
  readonly lock: VirtualMachineLock
  readonly dek?: KeyHandle
}

/** The files of guests on one start of a host. */
export class GuestStates {
  readonly #context: HostContext
  readonly #powered: PoweredOnVms

  constructor(context: HostContext, powered: PoweredOnVms) {
    this.#context = context
    this.#powered = powered
  }

  /** Keeps `source`, a file or a pipe, as the VM's file of this kind; an earlier one is replaced. Whole or not at all. */
  save(files: VirtualMachineFiles, state: GuestState, source: string, work: Work): Promise<void> {
    const role = roleOf(state)
    return this.#open(files, async (held, vm) => {
      const target = new FreeNames(files, await files.list()).home(role)
      const bytes = await sizeOf(source)
      const { vmId, homeFiles } = vm.description
      const { dek } = held
      const step: WorkStep | undefined = dek && {
        label: `save ${role}`,
        bytes,
        start: () => encryptHomeFile(dek, vmId, role, source, files.path(target)),
      }
      const rest = homeFiles.filter((file) => file.role !== role)
      await commit(files, held, work, {
        ...change(vm, held, files, [...rest, { role, file: target }]),
        created: [target],
        superseded: homeFiles.filter((file) => file.role === role).map(({ file }) => file),
        steps: step ? [step] : [],
        ...(step ? {} : { prepare: () => copyDurably(source, files.path(target), work) }),
      })
      await logLine(files, this.#context.name, `saved ${role}`)
    })
  }

  /** Decrypts a file of the VM into the new file `target`, for a hypervisor that resumes the VM. */
  read(files: VirtualMachineFiles, state: GuestState, target: string, work: Work): Promise<void> {
    return this.#open(files, async ({ dek }, { description }) => {
      const { file, role } = requireState(description.homeFiles, state, files)
      if (dek === undefined) return copyDurably(files.path(file), target, work)
      const step = {
        label: `read ${role}`,
        bytes: await files.byteLength(file),
        start: () => decryptHomeFile(dek, description.vmId, role, files.path(file), target),
      }
      await new WorkMeter(work, [step]).run(step)
    })
  }

  /** Removes a file of the VM, for instance when it was resumed. */
  drop(files: VirtualMachineFiles, state: GuestState): Promise<void> {
    return this.#open(files, async (held, vm) => {
      const { homeFiles } = vm.description
      const { file, role } = requireState(homeFiles, state, files)
      const rest = homeFiles.filter((other) => other.role !== role)
      await commit(
        files,
        held,
        {},
        {
          ...change(vm, held, files, rest),
          created: [],
          superseded: [file],
          steps: [],
        },
      )
      await logLine(files, this.#context.name, `removed ${role}`)
    })
  }

  /** Holds the VM with its DEK: that of the running VM, else opened for the time of `act`. */
  #open(files: VirtualMachineFiles, act: (held: HeldVm, vm: VirtualMachine) => Promise<void>): Promise<void> {
    return this.#powered.hold(files, async (lock, running) => {
      const vm = await readVirtualMachine(files)
      const opened = running ? undefined : openHomeOf(vm, this.#context.keys, files)
      const dek = running ?? opened?.dek
      try {
        await act({ lock, ...(dek && { dek }) }, vm)
      } finally {
        opened?.dek.dispose()
      }
    })
  }
}

/** The file that keeps a guest's memory in a snapshot, and what makes it from `source`. */
export async function memoryStep(
  files: VirtualMachineFiles,
  vm: VirtualMachine,
  dek: KeyHandle | undefined,
  snapshotId: string,
  source: string,
  names: FreeNames,
  work: Work,
): Promise<{ file: HomeFile; steps: WorkStep[]; prepare?: () => Promise<void> }> {
  const role = roleOf({ kind: 'vmem', label: `-${snapshotId}` })
  const target = names.home(role)
  const file = { role, file: target }
  const bytes = await sizeOf(source)
  if (dek === undefined)
    return { file, steps: [], prepare: () => copyDurably(source, files.path(target), work) }
  const start = () => encryptHomeFile(dek, vm.description.vmId, role, source, files.path(target))
  return { file, steps: [{ label: `save ${role}`, bytes, start }] }
}

function change(
  vm: VirtualMachine,
  { dek }: HeldVm,
  files: VirtualMachineFiles,
  homeFiles: readonly HomeFile[],
): Pick<FileTransaction, 'generation' | 'vmx'> {
  const { description } = vm
  const generation = description.generation + 1
  if (generation > generationLimit)
    throw new VmsealError('VMSEAL_VMX_INVALID', `vmseal.gen of ${files.label(files.vmx)} has no successor`)
  const vmx = vm.document.copy()
  const { wrap } = description
  if ((wrap === undefined) !== (dek === undefined))
    throw new VmsealError('VMSEAL_INTERNAL', 'VM home is encrypted and its DEK is not at hand')
  const config =
    wrap && dek && sealConfig(dek, openSecrets(dek, description, wrap, files), description.vmId, generation)
  const { vmId, name, disks } = description
  writeDescription(vmx, {
    vmId,
    name,
    generation,
    disks,
    homeFiles,
    ...(wrap && config && { wrap: { ...wrap, config } }),
  })
  return { generation, vmx }
}

async function commit(
  files: VirtualMachineFiles,
  { lock }: HeldVm,
  work: Work,
  transaction: FileTransaction,
): Promise<void> {
  const meter = new WorkMeter(work, transaction.steps)
  await commitTransaction(files, lock, transaction, meter)
  meter.finish('committed')
}

function roleOf({ kind, label = '' }: GuestState): string {
  const kinds: readonly unknown[] = ['vmss', 'vmem', 'vmsn', 'core']
  if (!kinds.includes(kind))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'kind must be vmss, vmem, vmsn or core')
  if (typeof label !== 'string' || !/^[A-Za-z0-9._-]{0,40}$/.test(label))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'label must be up to 40 of A-Z a-z 0-9 . _ -')
  return label === '' ? kind : `${kind} ${label}`
}

function requireState(
  homeFiles: readonly HomeFile[],
  state: GuestState,
  files: VirtualMachineFiles,
): HomeFile {
  const role = roleOf(state)
  const found = homeFiles.find((file) => file.role === role)
  if (found) return found
  const subject = files.label(files.vmx)
  throw new VmsealError('VMSEAL_NOT_FOUND', `${subject} has no ${role}`, { details: { subject } })
}

/** 0 for a pipe, whose length nobody knows. */
async function sizeOf(source: string): Promise<number> {
  try {
    const status = await stat(source)
    if (status.isDirectory()) throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `${source} is a folder`)
    return status.isFile() ? status.size : 0
  } catch (error) {
    throw ioError(error, source)
  }
}

/** For a VM that is plain. */
export async function copyDurably(source: string, target: string, { signal }: Work): Promise<void> {
  try {
    const streams = [
      createReadStream(source),
      createWriteStream(target, { flags: 'wx', mode: 0o600 }),
    ] as const
    await pipeline(...streams, signal ? { signal } : {})
    const file = await open(target, 'r')
    try {
      await file.sync()
    } finally {
      await file.close()
    }
  } catch (error) {
    if (signal?.aborted) throw new VmsealError('VMSEAL_CANCELLED')
    throw ioError(error, source)
  }
}
