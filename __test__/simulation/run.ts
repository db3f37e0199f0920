/** One seed, one run. */
import { isVmsealError } from '../../src/index.js'
import { Administrator, describe } from './administrator.js'
import { diskFaults } from './disk.js'
import { Invariants, type Seen } from './invariants.js'
import { plant, type PlantedFault } from './host-requests.js'
import { goodManners, networkOf, type NetworkManners } from './network.js'
import type { Template } from './template.js'
import { World } from './world.js'

export interface RunResult {
  readonly seed: number
  /** What did not hold; nothing in a good run. */
  readonly violations: readonly string[]
  /** SHA-256 of everything that happened, in its order. */
  readonly trace: string
  readonly events: number
  readonly simulatedMs: number
  readonly operations: { readonly done: number; readonly refused: number }
  readonly lines?: readonly string[]
}

interface RunOptions {
  readonly keepTrace?: boolean
  readonly plant?: PlantedFault
}

/** A network while nothing in particular is wrong with it. */
const usualManners: NetworkManners = { duplicate: 0.03, straggle: 0.01, lose: 0.01, delay: 0.01 }
/** What must hold in the end holds so many milliseconds after everything is up, at the latest. */
const patienceMs = 20 * 60_000
const parties = ['kms', 'vcenter', 'esx-1', 'esx-2', 'esx-9']

let rejected: unknown[] = []
process.on('unhandledRejection', (reason) => rejected.push(reason))
process.on('uncaughtException', (error) => rejected.push(error))

export async function run(template: Template, seed: number, options: RunOptions = {}): Promise<RunResult> {
  const world = new World(template, seed, options)
  rejected = []
  const { simulation } = world
  if (options.plant) plant(simulation, options.plant)
  const administrator = new Administrator(world)
  const invariants = new Invariants(world, administrator)
  try {
    world.network.manners = usualManners
    world.startAll()
    planOperations(world, administrator, invariants)
    const trouble = planFaults(world, administrator)
    await simulation.run(() => false, Math.max(trouble, 6000))
    heal(world, administrator)
    const seen = await settle(world, administrator, invariants)
    if (seen) {
      await invariants.finally(seen)
      await invariants.always()
    }
  } catch (error) {
    invariants.violate(`the run itself failed: ${describe(error)}`)
  }
  for (const reason of rejected) invariants.violate(`nobody caught: ${describe(reason)}`)
  const result: RunResult = {
    seed,
    violations: [...administrator.violations, ...invariants.violations],
    trace: simulation.traceHash(),
    events: simulation.events,
    simulatedMs: Math.round(simulation.now),
    operations: { done: administrator.done, refused: administrator.refused },
    ...(simulation.lines ? { lines: simulation.lines } : {}),
  }
  world.end()
  return result
}

function planOperations(world: World, administrator: Administrator, invariants: Invariants): void {
  const { simulation } = world
  const count = 2 + simulation.random.below(5)
  let at = 100
  for (let index = 0; index < count; index += 1) {
    at += simulation.random.chance(0.3) ? 1 : simulation.random.between(50, 1200)
    simulation.schedule(at, 'operation', () => administrator.begin())
    if (index % 2 === 1) simulation.schedule(at + 40, 'look', () => invariants.always())
  }
}

/** Returns when the last fault is over. */
function planFaults(world: World, administrator: Administrator): number {
  const { simulation, network } = world
  const { random } = simulation
  const faults = diskFaults(simulation)
  let last = 0
  for (let count = 1 + random.below(3); count > 0; count -= 1) {
    const at = random.between(50, 5000)
    const end = at + (random.chance(0.3) ? random.between(5000, 40_000) : random.between(10, 2500))
    last = Math.max(last, end)
    const party = random.pick(parties)
    const other = random.pick(parties.filter((name) => name !== 'vcenter'))
    const share = random.pick([0.01, 0.1, 0.5])
    const manners = {
      duplicate: random.pick([0, 0.1, 0.4]),
      straggle: random.pick([0, 0.1, 0.3]),
      lose: random.pick([0, 0.05, 0.3]),
      delay: random.pick([0, 0.05, 0.2]),
    }
    const [begin, finish] = random.pick<[() => void, () => void]>([
      [() => kill(world, administrator, party), () => world.start(party)],
      [() => kill(world, administrator, party), () => world.start(party)],
      [() => network.cut('vcenter', other), () => network.heal('vcenter', other)],
      [() => (network.manners = manners), () => (network.manners = usualManners)],
      [() => faults.spoil(party, share), () => faults.mend(party)],
    ])
    simulation.schedule(at, 'fault', begin)
    simulation.schedule(end, 'fault over', finish)
  }
  return last + 1
}

function kill(world: World, administrator: Administrator, party: string): void {
  world.kill(party)
  if (party === 'vcenter') administrator.lose()
}

/** Everything is mended, and what cannot go on without a restart has one. */
function heal(world: World, administrator: Administrator): void {
  const network = networkOf(world.simulation)
  network.manners = goodManners
  for (const party of parties) {
    network.heal('vcenter', party)
    diskFaults(world.simulation).mend(party)
  }
  // Of a disk that failed under its audit log a KMS trusts nothing until it is started again.
  world.kill('kms')
  if (world.vcenter?.failure !== undefined) kill(world, administrator, 'vcenter')
  world.startAll()
}

/** Waits until all is as it must be; undefined if it never is. */
async function settle(
  world: World,
  administrator: Administrator,
  invariants: Invariants,
): Promise<Seen | undefined> {
  const { simulation } = world
  const limit = simulation.now + patienceMs
  let pauseMs = 1000
  for (;;) {
    await simulation.run(() => false, simulation.now + pauseMs)
    pauseMs = Math.min(pauseMs * 1.5, 60_000)
    const seen = await look(world)
    const open = seen ? await invariants.eventually(seen) : ['vCenter does not answer']
    await invariants.always()
    if (seen && open.length === 0) return seen
    if (simulation.now > limit) {
      for (const what of open) invariants.violate(`in the end: ${what}`)
      if (world.vcenter?.failure !== undefined)
        invariants.violate(`vCenter did not start: ${describe(world.vcenter.failure)}`)
      return undefined
    }
    if (world.vcenter?.failure !== undefined) {
      kill(world, administrator, 'vcenter')
      world.startVCenter()
    }
  }
}

/** Asks vCenter, as a user would. */
async function look(world: World): Promise<Seen | undefined> {
  const { vcenter, simulation } = world
  const what = vcenter?.what
  if (!what) return undefined
  let seen: Seen | undefined
  let failure: unknown
  vcenter.party
    .run(async () => ({
      tasks: await what.tasks.list(),
      hosts: await what.hosts.list(),
      vms: await Promise.all((await what.virtualMachines.list()).map((vm) => vm.info())),
    }))
    .then(
      (found) => (seen = found),
      (error: unknown) => (failure = error),
    )
  await simulation.run(() => seen !== undefined || failure !== undefined, simulation.now + 5 * 60_000)
  if (failure !== undefined && !isVmsealError(failure)) throw failure
  return seen
}
