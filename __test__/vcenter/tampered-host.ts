/** A host as vCenter reaches it, with something in between. */
import type { Host } from '../../src/index.js'

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
