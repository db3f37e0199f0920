/** Links drop and come back: every change acts once, and its answer arrives. */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { VmsealError } from '../../src/errors.js'
import type { HostApi, VmConfig, Work, WorkProgress } from '../../src/rpc/host-api.js'
import { startLinkProxy } from './link-proxy.js'
import { gate, partialHost, serveHost } from './network.js'

const key = { keyId: 'k', providerId: 'p' }
const vm = { datastore: 'ds1', vmx: 'a/a.vmx' }
const config: VmConfig = {
  ...vm,
  vmId: randomUUID(),
  name: 'a',
  disks: [],
  cryptoState: 'unlocked',
  missingKeys: [],
  powerState: 'poweredOff',
}

/** Counts what it does; `during` runs in the middle of each act. */
function countingHost(during: (work?: Work) => Promise<void> = async () => {}): {
  api: HostApi
  acts: string[]
} {
  const acts: string[] = []
  const api = partialHost({
    listKeys: async () => [],
    removeKey: async ({ keyId }) => {
      acts.push(keyId)
      await during()
    },
    reconfigureVirtualMachine: async (_vm, _spec, work) => {
      acts.push('reconfigure')
      work?.onProgress?.({ step: 'encrypt', doneBytes: 1, totalBytes: 2 })
      await during(work)
      if (work?.signal?.aborted) throw new VmsealError('VMSEAL_CANCELLED')
      return config
    },
  })
  return { api, acts }
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await sleep(2)
}

test('an answer is lost: the change is not done twice, and its outcome arrives', async (t) => {
  const { opened, open } = gate()
  const { api, acts } = countingHost(() => opened)
  const served = await serveHost(t, api)
  const proxy = await startLinkProxy(t, served.address)
  const client = served.connect({ address: proxy.address })
  t.deepEqual(await client.api.listKeys(), [])
  const removing = client.api.removeKey(key)
  await until(() => acts.length === 1)
  proxy.silent = true
  open()
  await sleep(20)
  proxy.silent = false
  proxy.cut()
  await removing
  t.deepEqual(acts, ['k'])
})

test('the link is cut again and again: a long request reports, ends once and is right', async (t) => {
  const { opened, open } = gate()
  const { api, acts } = countingHost(() => opened)
  const served = await serveHost(t, api)
  const proxy = await startLinkProxy(t, served.address)
  const progress: WorkProgress[] = []
  const changing = served
    .connect({ address: proxy.address })
    .api.reconfigureVirtualMachine(vm, {}, { onProgress: (one) => progress.push(one) })
  await until(() => acts.length === 1)
  for (let cuts = 0; cuts < 8; cuts += 1) {
    const { connections } = proxy
    proxy.cut()
    await until(() => proxy.connections > connections)
  }
  proxy.down = true
  // Longer than all attempts at a request that did not arrive.
  await sleep(400)
  proxy.down = false
  open()
  t.deepEqual(await changing, config)
  t.deepEqual(acts, ['reconfigure'])
  t.true(progress.length > 0)
})

test('a dropped link cancels nothing; a cancelled request is cancelled on the host, also after an outage', async (t) => {
  let aborted = false
  const { api, acts } = countingHost(async (work) => {
    const { opened, open } = gate()
    work?.signal?.addEventListener('abort', open)
    await opened
    aborted = true
  })
  const served = await serveHost(t, api)
  const proxy = await startLinkProxy(t, served.address)
  const controller = new AbortController()
  const work = { signal: controller.signal }
  const changing = served.connect({ address: proxy.address }).api.reconfigureVirtualMachine(vm, {}, work)
  await until(() => acts.length === 1)
  proxy.down = true
  await sleep(100)
  t.false(aborted)
  controller.abort()
  // Longer than all attempts to say so at once.
  await sleep(300)
  t.false(aborted)
  proxy.down = false
  await t.throwsAsync(changing, { code: 'VMSEAL_CANCELLED' })
  t.true(aborted)
  t.deepEqual(acts, ['reconfigure'])
})

test('a request that is cancelled before it is sent does not reach the host', async (t) => {
  const { api, acts } = countingHost()
  const served = await serveHost(t, api)
  const work = { signal: AbortSignal.abort() }
  await t.throwsAsync(served.connect().api.reconfigureVirtualMachine(vm, {}, work), {
    code: 'VMSEAL_CANCELLED',
  })
  t.deepEqual(acts, [])
})

test('the host was started anew in the middle: a change is not sent again and its outcome is open', async (t) => {
  const { opened, open } = gate()
  const { api, acts } = countingHost(() => opened)
  const served = await serveHost(t, api)
  const client = served.connect()
  const removing = t.throwsAsync(client.api.removeKey(key), { code: 'VMSEAL_TASK_INTERRUPTED' })
  await until(() => acts.length === 1)
  served.restart()
  await removing
  open()
  t.deepEqual(acts, ['k'])
})

test('the host was started anew between two requests: the next one simply goes to it', async (t) => {
  const { api, acts } = countingHost()
  const served = await serveHost(t, api)
  const client = served.connect()
  await client.api.removeKey(key)
  served.restart()
  // The end of the idle connection has to be noticed: over it the request would be lost with an unknown outcome.
  await sleep(200)
  await client.api.removeKey({ ...key, keyId: 'k2' })
  t.deepEqual(acts, ['k', 'k2'])
})

test('a host that is not there is told so after some attempts, and answers when it is back', async (t) => {
  const { api } = countingHost()
  const served = await serveHost(t, api)
  const proxy = await startLinkProxy(t, served.address)
  const client = served.connect({ address: proxy.address })
  proxy.down = true
  await t.throwsAsync(client.api.removeKey(key), { code: 'VMSEAL_HOST_UNREACHABLE' })
  await t.throwsAsync(client.api.listKeys(), { code: 'VMSEAL_HOST_UNREACHABLE' })
  await t.throwsAsync(client.strangers(), { code: 'VMSEAL_HOST_UNREACHABLE' })
  await t.throwsAsync(client.ended(randomUUID()), { code: 'VMSEAL_HOST_UNREACHABLE' })
  proxy.down = false
  t.deepEqual(await client.api.listKeys(), [])
})

test('a link on which nothing comes any more counts as lost', async (t) => {
  const { api } = countingHost()
  const served = await serveHost(t, api)
  const proxy = await startLinkProxy(t, served.address)
  const client = served.connect({ address: proxy.address, timing: { silenceMs: 1000 } })
  t.deepEqual(await client.api.listKeys(), [])
  proxy.silent = true
  await t.throwsAsync(client.api.listKeys(), { code: 'VMSEAL_HOST_UNREACHABLE' })
  const { connections } = proxy
  proxy.silent = false
  t.deepEqual(await client.api.listKeys(), [])
  t.true(proxy.connections > connections, 'not over the connection that failed')
})

test('a request has a deadline, even while the host shows that it lives', async (t) => {
  const { opened, open } = gate()
  const { api, acts } = countingHost(() => opened)
  const served = await serveHost(t, api)
  const client = served.connect({ timing: { requestMs: 1500 } })
  await t.throwsAsync(client.api.removeKey(key), { code: 'VMSEAL_HOST_UNREACHABLE' })
  t.deepEqual(acts, ['k'])
  open()
})

test('the outcome of a long request is not waited for without end', async (t) => {
  const { opened, open } = gate()
  const { api, acts } = countingHost(() => opened)
  const served = await serveHost(t, api)
  const proxy = await startLinkProxy(t, served.address)
  const client = served.connect({ address: proxy.address, timing: { outageMs: 300 } })
  const changing = t.throwsAsync(client.api.reconfigureVirtualMachine(vm, {}), {
    code: 'VMSEAL_HOST_UNREACHABLE',
  })
  await until(() => acts.length === 1)
  proxy.down = true
  await changing
  open()
})

test('what another vCenter process began is listed and waited for', async (t) => {
  const { opened, open } = gate()
  const { api, acts } = countingHost(() => opened)
  const served = await serveHost(t, api)
  const first = served.connect()
  const changing = t.throwsAsync(first.api.reconfigureVirtualMachine(vm, {}))
  await until(() => acts.length === 1)
  t.deepEqual(await first.strangers(), [], 'it knows its own')
  first.close()
  await changing
  const second = served.connect()
  const strangers = await second.strangers()
  t.deepEqual(strangers.map(({ method }) => method), ['reconfigureVirtualMachine']) // prettier-ignore
  let ended = false
  const waiting = Promise.all(strangers.map(({ id }) => second.ended(id))).then(() => (ended = true))
  await sleep(30)
  t.false(ended)
  open()
  await waiting
  t.deepEqual(await second.strangers(), [])
})

test('many requests at once are all answered', async (t) => {
  const { api, acts } = countingHost(() => sleep(1))
  const served = await serveHost(t, api)
  const { api: remote } = served.connect()
  await Promise.all(Array.from({ length: 200 }, (_, n) => remote.removeKey({ ...key, keyId: String(n) })))
  t.is(new Set(acts).size, 200)
})
