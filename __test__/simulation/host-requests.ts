/** Counts what hosts act on, and the faults that are planted to see that the simulation finds them. */
import type { Host } from '../../src/host/host.js'
import type { SealedKey } from '../../src/rpc/host-api.js'
import { LoggedRequest, RequestLog, type RequestSpec } from '../../src/rpc/request-log.js'
import { parties, type Party, type Simulation } from './scheduler.js'

/** `lost push`: a host says that it took a key and did not. `double task`: it acts again on a request that it knows. */
export const plantedFaults = ['lost push', 'double task'] as const
export type PlantedFault = (typeof plantedFaults)[number]

const planted = new WeakMap<Simulation, PlantedFault>()
/** Called when a host begins to act on a request that changes something. */
export const onAct = new WeakMap<Simulation, (host: Party, id: string) => void>()

export function plant(simulation: Simulation, fault: PlantedFault): void {
  planted.set(simulation, fault)
}

const { begin } = RequestLog.prototype
RequestLog.prototype.begin = function (spec: RequestSpec): LoggedRequest {
  const party = parties.getStore()
  if (!party || spec.kind !== 'change') return begin.call(this, spec)
  const { simulation } = party
  const run: RequestSpec['run'] = (work) => {
    onAct.get(simulation)?.(party, spec.id)
    return spec.run(work)
  }
  return planted.get(simulation) === 'double task'
    ? new LoggedRequest(spec.digest, spec.method, run)
    : begin.call(this, { ...spec, run })
}

/** The host as its server reaches it. */
export function reached(host: Host, simulation: Simulation): Host {
  if (planted.get(simulation) !== 'lost push') return host
  return new Proxy(host, {
    get: (target, name) => {
      if (name === 'installKey')
        return (key: SealedKey) =>
          simulation.random.chance(0.6) ? Promise.resolve() : target.installKey(key)
      const value: unknown = Reflect.get(target, name)
      return typeof value === 'function' ? (value.bind(target) as unknown) : value
    },
  })
}
