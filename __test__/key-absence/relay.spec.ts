/** Requirement: vCenter relays keys and has none, neither while it pushes one to three hosts nor afterwards. */
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { fetchKek, openWrap, type KmsAccess } from '../../examples/main-job/independent-reader.js'
import { HostAgent, Kms, type SealedKey } from '../../src/index.js'
import { requirePeer } from '../peers.js'
import { gate } from '../rpc/network.js'
import { needlesOf, scanMemory, type Finding } from './scanner.js'

const program = fileURLToPath(new URL('relay.mjs', import.meta.url))

async function startSite(t: { teardown(end: () => Promise<void>): void }) {
  const directory = await mkdtemp(path.join(tmpdir(), 'vmseal-relay-'))
  const datastore = path.join(directory, 'ds1')
  await mkdir(datastore)
  const kms = await Kms.start({ directory: path.join(directory, 'kms') })
  const agents: HostAgent[] = []
  for (const name of ['esx-1', 'esx-2', 'esx-3'])
    agents.push(
      await HostAgent.start({ name, datastores: { ds1: datastore }, directory: path.join(directory, name) }),
    )
  t.teardown(async () => {
    for (const agent of agents) await agent.stop()
    await kms.stop()
    await rm(directory, { recursive: true, force: true })
  })
  const access: KmsAccess = { kms: kms.endpoint, credentials: await kms.enrol('vcenter') }
  return { directory, datastore, agents, access }
}

test.serial('A2, A4: no key in the memory of vCenter during and after a push to three hosts', async (t) => {
  if (!requirePeer(t, 'reading /proc/PID/mem of a child (Linux, same user)', existsSync('/proc/self/smaps')))
    return t.pass()
  const { directory, datastore, agents, access } = await startSite(t)
  const hosts = agents.map(({ address, joinToken }) => ({ address, token: joinToken?.token }))
  const request = { ...access, hosts, directory: path.join(directory, 'vcenter') }
  const child = spawn(process.execPath, [program, JSON.stringify(request)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  t.teardown(() => void child.kill('SIGKILL'))
  const pid = child.pid ?? 0

  // The third host has the seal in its hands and does not answer: vCenter is in the middle of its push.
  const arrived = gate()
  const answer = gate()
  const pushed: SealedKey[] = []
  for (const [index, { host }] of agents.entries()) {
    const install = host.installKey.bind(host)
    host.installKey = async (key) => {
      pushed.push(key)
      await install(key)
      if (index !== 2) return
      arrived.open()
      await answer.opened
    }
  }
  const needles = new Map<string, Buffer>()
  const search = (): { findings: Finding[]; bytes: number } => {
    child.kill('SIGSTOP')
    const found = scanMemory(pid, needles)
    child.kill('SIGCONT')
    t.true(found.bytes > 20 * 2 ** 20)
    return found
  }
  const during = (async () => {
    await arrived.opened
    const keys = new Set(pushed.map(({ keyId }) => keyId))
    for (const keyId of keys)
      for (const [name, value] of needlesOf(`KEK ${keyId}`, await fetchKek(access, keyId)))
        needles.set(name, value)
    for (const { host } of agents) {
      const { cryptoKeyId } = await host.identify()
      const hostKey = await fetchKek(access, cryptoKeyId?.keyId ?? '')
      for (const [name, value] of needlesOf(`host key of ${host.name}`, hostKey)) needles.set(name, value)
    }
    t.is(needles.size, 4 * 12)
    const { findings } = search()
    // The seal itself is in there: this is the memory of who pushes the key.
    const { findings: seals } = scanMemory(pid, new Map([['seal', Buffer.from(pushed[0]?.sealed ?? '')]]))
    answer.open()
    return { findings, seals }
  })()

  const names: string[] = []
  for await (const line of createInterface({ input: child.stdout })) {
    const { name } = JSON.parse(line) as { name: string }
    names.push(name)
    if (name === 'created') {
      const { findings, seals } = await during
      t.deepEqual(findings, [], 'while it pushed')
      t.true(seals.length > 0)
      const folder = path.join(datastore, 'db01')
      for (const file of ['db01.vmx', 'db01.vmdk']) {
        const text = await readFile(path.join(folder, file), 'utf8')
        const kek = await fetchKek(access, pushed[0]?.keyId ?? '')
        const { dek } = await openWrap(text, kek)
        for (const [needle, value] of needlesOf(`DEK of ${file}`, dek)) needles.set(needle, value)
      }
      t.deepEqual(search().findings, [], 'afterwards')
    }
    child.stdin.write('go on\n')
  }
  t.deepEqual(names, ['joined', 'created'])
  t.is(new Set(pushed.map(({ hostId }) => hostId)).size, 3)
})
