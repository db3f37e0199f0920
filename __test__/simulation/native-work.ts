/**
 * Work that the addon does on threads of its own, brought into the order of the simulation: it is done alone, at its
 * time, and its outcome is told later. A party that is killed in between has done it and does not know.
 */
import { VmsealError } from '../../src/errors.js'
import { native, type NativeTask } from '../../src/native/load.js'
import { failing } from './disk.js'
import { parties, type Party } from './scheduler.js'

type AnyFunction = (this: unknown, ...values: never[]) => unknown

class SimulatedTask {
  readonly doneBytes = 0
  readonly totalBytes = 0
  readonly #party: Party
  readonly #name: string
  readonly #start: () => NativeTask
  #cancelled = false

  constructor(party: Party, name: string, start: () => NativeTask) {
    this.#party = party
    this.#name = name
    this.#start = start
  }

  cancel(): void {
    this.#cancelled = true
  }

  /** How long work takes is the simulation's. */
  limit(): void {}

  done(): Promise<string> {
    return work(this.#party, this.#name, () => {
      if (this.#cancelled) throw new VmsealError('VMSEAL_CANCELLED')
      return this.#start().done()
    })
  }
}

async function work<T>(party: Party, name: string, act: () => Promise<T>): Promise<T> {
  if (party.observes) return act()
  const { simulation } = party
  const outcome = await simulation.later(party, simulation.random.between(0.5, 120), name, async () => {
    try {
      return { value: await failing(party, 'sync', act) }
    } catch (error) {
      return { error: asNative(error) }
    }
  })
  await simulation.later(party, simulation.random.between(0.1, 30), `${name} done`, () => {})
  if ('error' in outcome) throw outcome.error
  return outcome.value
}

function asNative(error: unknown): unknown {
  const { code } = error as { code?: string }
  if (code === 'ENOSPC') return new VmsealError('VMSEAL_NO_SPACE', 'no space (simulated)')
  if (code === 'EIO') return new VmsealError('VMSEAL_IO', 'I/O error (simulated)')
  return error
}

/** Functions of the addon that give a `NativeTask`, and those that give a promise. None that a party may call is missing. */
export const simulatedTasks = [
  'copyFile',
  'createChildDisk',
  'createPlainDisk',
  'createSealedDisk',
  'decryptDisk',
  'decryptDiskInPlace',
  'decryptFile',
  'discardSource',
  'encryptDisk',
  'encryptDiskInPlace',
  'encryptFile',
  'finishDiscard',
  'importDisk',
  'importLuksVolume',
  'recryptDisk',
  'recryptDiskInPlace',
  'recryptFile',
  'resealCopy',
  'resumeConversion',
  'resumeCopy',
  'sumFile',
  'verifyCopy',
] as const
export const simulatedPromises = [
  'overwriteFile',
  'repairConversion',
  'rewrapDisk',
  'verifyConversion',
  'viewDisk',
] as const

for (const name of simulatedTasks)
  // prettier-ignore
  replace(native, name, (party, original) => new SimulatedTask(party, name, original as () => NativeTask))
for (const name of simulatedPromises)
  replace(native, name, (party, original) => work(party, name, original as () => Promise<unknown>))
const { prototype } = native.DiskHandle
for (const name of ['read', 'write', 'flush'] as const)
  replace(prototype, name, (party, original) => work(party, name, original as () => Promise<unknown>))
for (const name of ['write', 'drain'] as const)
  // prettier-ignore
  replace(native.GuestStateWriter.prototype, name, (party, original) => work(party, name, original as () => Promise<unknown>))
// prettier-ignore
replace(native.GuestStateReader.prototype, 'read', (party, original) => work(party, 'read', original as () => Promise<unknown>))
for (const name of ['digest', 'merge', 'flatten'] as const)
  // prettier-ignore
  replace(prototype, name, (party, original) => new SimulatedTask(party, name, original as () => NativeTask))

function replace<T extends object>(
  owner: T,
  name: keyof T & string,
  simulated: (party: Party, original: () => unknown) => unknown,
): void {
  const otherwise = owner[name] as AnyFunction
  Object.defineProperty(owner, name, {
    configurable: true,
    writable: true,
    value(this: unknown, ...values: never[]): unknown {
      const party = parties.getStore()
      const original = (): unknown => otherwise.apply(this, values)
      return party ? simulated(party, original) : original()
    },
  })
}
