/** A host as vCenter reaches it, with something in between. */
import type { ExecutionContext } from 'ava'
import { Host } from '../../src/index.js'
import type { Site } from './site.js'

/** Sees each call of a method, and does it by `act` or not; `host` is the name of the host. */
export type Tamper = (method: string, act: () => Promise<unknown>, host: string) => Promise<unknown>

export function through(host: Host, tamper: Tamper): Host {
  return new Proxy(host, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name)
      if (typeof value !== 'function') return value
      const act = value as (...all: unknown[]) => unknown
      return (...values: unknown[]) =>
        tamper(String(name), async () => act.apply(target, values), target.name)
    },
  })
}

/** Starts a host on the datastore of the site and adds it to the cluster with `tamper` in between; stopped when the test ends. */
export async function addThrough(
  t: ExecutionContext,
  site: Site,
  name: string,
  tamper: Tamper,
): Promise<Host> {
  const host = await Host.start({ name, datastores: { ds1: site.datastore } })
  t.teardown(() => host.stop())
  await site.cluster.addHost(through(host, tamper))
  return host
}
