/**
 * The disks of the parties: real files, asked one at a time in the order of the simulation, that fail when they are told
 * to. Import this before anything of the product.
 */
import { createRequire, syncBuiltinESMExports } from 'node:module'
import type * as Fs from 'node:fs'
import type { Party, Simulation } from './scheduler.js'
import { parties } from './scheduler.js'

const require = createRequire(import.meta.url)
const fs = require('node:fs') as typeof Fs
const promises = require('node:fs/promises') as Record<string, (...values: never[]) => unknown>

type Change = 'EIO' | 'ENOSPC'

/** Which parties have a bad disk now: the part of their requests that fails. */
class DiskFaults {
  readonly #bad = new Map<string, number>()

  spoil(party: string, share: number): void {
    this.#bad.set(party, share)
  }

  mend(party: string): void {
    this.#bad.delete(party)
  }

  /** What the next request of the party fails with, if it fails. */
  next(party: Party, changes: boolean): Change | undefined {
    const share = this.#bad.get(party.name)
    if (share === undefined || !party.simulation.random.chance(share)) return undefined
    return changes && party.simulation.random.chance(0.4) ? 'ENOSPC' : 'EIO'
  }
}

const faultsOf = new WeakMap<Simulation, DiskFaults>()

export function diskFaults(simulation: Simulation): DiskFaults {
  const known = faultsOf.get(simulation) ?? new DiskFaults()
  faultsOf.set(simulation, known)
  return known
}

/** Names that change the disk may have done so when they fail. */
const changing = new Set([
  'open', 'rename', 'unlink', 'link', 'mkdir', 'rmdir', 'writeFile', 'rm', 'chmod', 'copyFile', 'write', 'sync',
]) // prettier-ignore

function ask<T>(party: Party, name: string, work: () => T): Promise<T> {
  if (party.observes)
    return new Promise((resolve) => {
      resolve(work())
    })
  const { simulation } = party
  return simulation.later(party, simulation.random.between(0.01, 0.6), name, () => failing(party, name, work))
}

export function failing<T>(party: Party, name: string, work: () => T): T {
  const code = diskFaults(party.simulation).next(party, changing.has(name))
  if (code === undefined) return work()
  // A disk that says no may have done it nevertheless.
  const does = changing.has(name) && name !== 'open' && party.simulation.random.chance(0.3)
  const done = does ? work() : undefined
  party.simulation.note(party.name, `${name} ${code}`)
  const fail = (): never => {
    throw Object.assign(new Error(`${code}: simulated, ${name}`), { code, syscall: name, errno: -5 })
  }
  // Nothing else happens meanwhile, and nobody is told what else went wrong with it.
  return done instanceof Promise ? (done.then(fail, fail) as T) : fail()
}

class SimulatedFile {
  readonly fd: number
  readonly #party: Party

  constructor(party: Party, fd: number) {
    this.#party = party
    this.fd = fd
  }

  writeFile(content: string | Uint8Array): Promise<void> {
    return ask(this.#party, 'write', () => fs.writeFileSync(this.fd, content))
  }

  write(content: string): Promise<{ bytesWritten: number }> {
    return ask(this.#party, 'write', () => ({ bytesWritten: fs.writeSync(this.fd, content) }))
  }

  read(buffer: Buffer, offset: number, length: number, position: number): Promise<{ bytesRead: number }> {
    return ask(this.#party, 'read', () => ({
      bytesRead: fs.readSync(this.fd, buffer, offset, length, position),
    }))
  }

  stat(): Promise<Fs.Stats> {
    return ask(this.#party, 'stat', () => fs.fstatSync(this.fd))
  }

  sync(): Promise<void> {
    return ask(this.#party, 'sync', () => fs.fsyncSync(this.fd))
  }

  async close(): Promise<void> {
    fs.closeSync(this.fd)
  }
}

for (const name of [
  'rename',
  'unlink',
  'link',
  'lstat',
  'readdir',
  'mkdir',
  'rmdir',
  'realpath',
  'statfs',
  'chmod',
  'copyFile',
  'readFile',
  'rm',
  'writeFile',
  'stat',
] as const)
  // prettier-ignore
  replace(name, (party, values) => {
    const work = fs[`${name}Sync`] as (...all: unknown[]) => unknown
    return ask(party, name, () => work(...values))
  })
replace('open', (party, values) => {
  const [path, flags = 'r', mode] = values as [string, string?, number?]
  return ask(party, 'open', () => new SimulatedFile(party, fs.openSync(path, flags, mode)))
})

function replace(name: string, simulated: (party: Party, values: unknown[]) => unknown): void {
  const otherwise = promises[name] as (...values: unknown[]) => unknown
  promises[name] = (...values: unknown[]) => {
    const party = parties.getStore()
    return party ? simulated(party, values) : otherwise(...values)
  }
}

/** Files that a party has open by number, given back when it is killed. */
const numbered = new Map<number, Party>()
const { openSync, closeSync } = fs
Object.assign(fs, {
  openSync: (...values: Parameters<typeof openSync>): number => {
    const fd = openSync(...values)
    const party = parties.getStore()
    if (party) {
      numbered.set(fd, party)
      party.atDeath.push(() => {
        if (numbered.get(fd) === party) fs.closeSync(fd)
      })
    }
    return fd
  },
  closeSync: (fd: number): void => {
    numbered.delete(fd)
    closeSync(fd)
  },
})

type Done = (error: Error | null) => void

const { fdatasync } = fs
Object.assign(fs, {
  fdatasync: (fd: number, done: Done): void => {
    const party = parties.getStore()
    if (!party) return fdatasync(fd, done)
    void tell(
      ask(party, 'sync', () => fs.fdatasyncSync(fd)),
      done,
    )
  },
})

async function tell(asked: Promise<void>, done: Done): Promise<void> {
  let failure: Error | null = null
  try {
    await asked
  } catch (error) {
    failure = error as Error
  }
  done(failure)
}

for (const name of ['writeSync', 'fdatasyncSync'] as const) {
  const otherwise = fs[name] as (...values: unknown[]) => unknown
  Object.assign(fs, {
    [name]: (...values: unknown[]): unknown => {
      const party = parties.getStore()
      if (party?.name !== 'kms') return otherwise(...values)
      return failing(party, name === 'writeSync' ? 'write' : 'sync', () => otherwise(...values))
    },
  })
}
syncBuiltinESMExports()
