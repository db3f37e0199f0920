/** Every public operation has a row, and is refused without each privilege of it, before anything happens. */
import { createHash } from 'node:crypto'
import { readFile, readdir } from 'node:fs/promises'
import path from 'node:path'
import test from 'ava'
import { VCenter, isVmsealError, type VCenterSession } from '../../../src/index.js'
import { operationTable } from '../../../src/vcenter/authorization/operation-table.js'
import { vcenterRules } from '../../../src/vcenter/authorization/operations.js'
import { allPrivileges, type Privilege } from '../../../src/vcenter/authorization/privileges.js'
import { encryption, openSite, type Site } from '../site.js'
import { userWith } from './users.js'

test('I2: every method of every class that a session leads to has a row in the table of operations', async (t) => {
  for (const [prototype, { name, rows }] of operationTable) {
    const methods = Object.getOwnPropertyNames(prototype).filter((method) => {
      const { value } = Object.getOwnPropertyDescriptor(prototype, method) ?? {}
      return method !== 'constructor' && typeof value === 'function'
    })
    t.deepEqual(
      methods.filter((method) => !Object.hasOwn(rows, method)),
      [],
      `${name} has methods without a row`,
    )
    t.deepEqual(
      Object.keys(rows).filter((row) => !methods.includes(row)),
      [],
      `${name} has rows without a method`,
    )
  }
  const { vcenter } = await openSite(t, { hosts: [] })
  const own = Object.getOwnPropertyNames(VCenter.prototype).filter((name) => name !== 'constructor')
  t.deepEqual(new Set(own), new Set(Object.keys(vcenterRules)), 'VCenter itself')
  const seen = new Set<object>()
  const walk = (value: unknown, where: string): void => {
    if (typeof value !== 'object' || value === null || seen.has(value)) return
    seen.add(value)
    const prototype: unknown = Object.getPrototypeOf(value)
    if (prototype !== Object.prototype)
      t.true(operationTable.has(prototype as object), `${where} is of a class that has no rules`)
    for (const name of Object.keys(value)) walk(Reflect.get(value, name), `${where}.${name}`)
  }
  walk({ ...vcenter.as('administrator') }, 'session')
})

test('I2: each operation with each of its privileges taken away is refused by name, and nothing happens', async (t) => {
  const site = await openSite(t, { hosts: ['esx-1'] })
  const { vcenter } = site
  const { file } = await site.image('db01')
  await vcenter.virtualMachines.import({
    name: 'db01',
    cluster: 'prod',
    datastore: 'ds1',
    policy: encryption,
    disks: [file],
  })
  const before = await stateOf(site)
  const candidates = [
    [{ cluster: 'prod', datastore: 'ds1', name: 'new', disks: [], on: { virtualMachine: 'db01' } }],
    [],
    ['db01'],
    ['prod'],
    ['esx-1'],
  ]
  let refusals = 0
  for (const { operation, kind, needs } of allRows()) {
    if (kind === 'internal') continue
    for (const missing of new Set(needs.map(({ privilege }) => privilege))) {
      // With the object in hand: without System.Read nobody would come by it.
      const session = await userWith(vcenter, allPrivileges)
      const instance = await instanceOf(operation, session)
      await vcenter.authorization.roles.update(
        `role of ${session.user}`,
        allPrivileges.filter((privilege) => privilege !== missing),
      )
      const error = await firstAnswer(instance, operation, candidates)
      t.is(error.code, 'VMSEAL_NO_PERMISSION', `${operation} without ${missing}: ${error.message}`)
      t.is(error.details.privilege, missing, operation)
      t.truthy(error.details.object)
      refusals += 1
    }
  }
  for (const { privilege } of vcenterRules.rekey.needs) {
    const session = await userWith(
      vcenter,
      allPrivileges.filter((other) => other !== privilege),
    )
    const error = await t.throwsAsync(session.rekey({ provider: 'kms-1' }).done, {
      code: 'VMSEAL_NO_PERMISSION',
    })
    t.is(isVmsealError(error) && error.details.privilege, privilege)
    refusals += 1
  }
  t.true(refusals > 60)
  t.deepEqual(await stateOf(site), before, 'no key was made and no byte changed')
  const recorded = site.events.filter(({ id }) => id === 'vmseal.authorization.Refused')
  t.is(recorded.length, refusals)
})

for (const [privilege, act] of Object.entries({
  'Cryptographer.EncryptNew': (session) =>
    session.virtualMachines.create({
      name: 'new',
      cluster: 'prod',
      datastore: 'ds1',
      policy: encryption,
      disks: [],
    }),
  'Cryptographer.Encrypt': async (session) =>
    (await session.virtualMachines.get('plain')).applyPolicy({ home: encryption }).done,
  'Cryptographer.Decrypt': async (session) =>
    (await session.virtualMachines.get('sealed')).applyPolicy({
      home: 'Datastore Default',
      disks: 'Datastore Default',
    }).done,
  'Cryptographer.Access': async (session) => (await session.virtualMachines.get('sealed')).digest('scsi0:0'),
  'Cryptographer.ManageEncryptionPolicy': (session) =>
    session.storagePolicies.create({ name: 'mine', encryption: true }),
} satisfies Partial<Record<Privilege, (session: VCenterSession) => Promise<unknown>>>))
  test(`I2: ${privilege} is asked for when the operation turns out to need it`, async (t) => {
    const site = await openSite(t, { hosts: ['esx-1'] })
    const { vcenter } = site
    const { file } = await site.image('db01')
    const place = { cluster: 'prod', datastore: 'ds1', disks: [file] }
    await vcenter.virtualMachines.import({ ...place, name: 'sealed', policy: encryption })
    await vcenter.virtualMachines.import({ ...place, name: 'plain' })
    const before = await stateOf(site)
    const without = await userWith(
      vcenter,
      allPrivileges.filter((other) => other !== privilege),
    )
    const error = await t.throwsAsync(Promise.resolve(act(without)), { code: 'VMSEAL_NO_PERMISSION' })
    t.is(isVmsealError(error) && error.details.privilege, privilege)
    t.deepEqual(await stateOf(site), before)
    await t.notThrowsAsync(Promise.resolve(act(await userWith(vcenter, allPrivileges))))
  })

function allRows() {
  return [...operationTable.values()].flatMap(({ name, rows: ofClass }) =>
    Object.entries(ofClass).map(([method, rule]) => ({ operation: `${name}.${method}`, ...rule })),
  )
}

/** The object of a session that has the operation. */
async function instanceOf(operation: string, session: VCenterSession): Promise<object> {
  const [type = ''] = operation.split('.')
  const { keyProviders, authorization } = session
  const found: Record<string, () => unknown> = {
    VirtualMachine: () => session.virtualMachines.get('db01'),
    Cluster: () => session.clusters.get('prod'),
    EventLog: () => session.events,
    ClientCertificates: () => keyProviders.clientCertificates,
    ServerTrust: () => keyProviders.serverTrust,
    ProviderKeys: () => keyProviders.keys,
    Users: () => authorization.users,
    Roles: () => authorization.roles,
    Permissions: () => authorization.permissions,
  }
  const room = type.charAt(0).toLowerCase() + type.slice(1)
  return (await (found[type]?.() ?? Reflect.get(session, room))) as object
}

async function firstAnswer(instance: object, operation: string, candidates: readonly unknown[][]) {
  const method = Reflect.get(instance, operation.split('.')[1] ?? '') as (...values: unknown[]) => unknown
  for (const values of candidates) {
    const outcome = method(...values)
    const done = answerOf(outcome)
    const error: unknown = await done.then(
      () => new Error(`${operation} was allowed`),
      (reason: unknown) => reason,
    )
    if (!isVmsealError(error)) throw error
    if (error.code !== 'VMSEAL_NOT_FOUND' && error.code !== 'VMSEAL_INVALID_ARGUMENT') return error
  }
  throw new Error(`no arguments of the test fit ${operation}`)
}

/** Of a call, a task, or a stream, which answers with its first item. */
function answerOf(outcome: unknown): Promise<unknown> {
  if (outcome instanceof Promise) return outcome
  if (Symbol.asyncIterator in (outcome as object))
    return (outcome as AsyncIterable<unknown>)[Symbol.asyncIterator]().next()
  return (outcome as { done: Promise<unknown> }).done
}

/** All that an operation could change: the keys of the KMS, the bytes of the datastore. */
async function stateOf(site: Site): Promise<unknown> {
  const files = await readdir(site.datastore, { recursive: true, withFileTypes: true })
  const digests = files
    .filter((entry) => entry.isFile() && !entry.name.endsWith('.log'))
    .map(async ({ parentPath, name }) => {
      const file = path.join(parentPath, name)
      return [
        file,
        createHash('sha256')
          .update(await readFile(file))
          .digest('hex'),
      ]
    })
  return {
    keys: site.operations.filter((operation) => operation === 'Create').length,
    files: Object.fromEntries(await Promise.all(digests)) as Record<string, string>,
    providers: await site.vcenter.keyProviders.list(),
    policies: await site.vcenter.storagePolicies.list(),
  }
}
