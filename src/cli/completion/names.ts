/** Names of what a vCenter has, for the completion of a shell. */
import type { VCenter } from '../../vcenter/vcenter.js'

/** More would not be read. */
const most = 500

type View = Pick<
  VCenter,
  'authorization' | 'clusters' | 'hosts' | 'keyProviders' | 'storagePolicies' | 'tasks' | 'virtualMachines'
>

const sources: Readonly<Record<string, (vcenter: View) => Promise<readonly string[]>>> = {
  vm: async ({ virtualMachines }) => (await virtualMachines.search()).map(({ name }) => name),
  host: async ({ hosts }) => (await hosts.list()).map(({ name }) => name),
  cluster: async ({ clusters }) => (await clusters.list()).map(({ name }) => name),
  provider: async ({ keyProviders }) => (await keyProviders.list()).map(({ id }) => id),
  policy: async ({ storagePolicies }) => (await storagePolicies.list()).map(({ name }) => name),
  datastore: async ({ hosts }) => [...new Set((await hosts.list()).flatMap(({ datastores }) => datastores))],
  user: async ({ authorization }) => (await authorization.users.list()).map(({ name }) => name),
  role: async ({ authorization }) => (await authorization.roles.list()).map(({ name }) => name),
  privilege: async ({ authorization }) => authorization.roles.privileges(),
  task: async ({ tasks }) =>
    (await tasks.list({ limit: most }))
      .filter(({ state }) => state === 'queued' || state === 'running')
      .map(({ id }) => id),
}

/** The kind is the name of an argument or of an option's value, for instance `vm`. None for what is no such name. */
export async function namesOf(vcenter: View, kind: string): Promise<readonly string[]> {
  if (!Object.hasOwn(sources, kind)) return []
  return (await sources[kind]?.(vcenter))?.slice(0, most) ?? []
}
