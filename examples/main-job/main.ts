/**
 * npm start [-- IMAGE]: the whole of vmseal on one disk. A KMS, a vCenter and three hosts encrypt a VM, use it on two
 * hosts, lose its keys in a restart, unlock it and decrypt it again; every claim is checked as it is made.
 * Status 0: all checks held. 1: one did not. 2: the image cannot be used.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, mkdtemp, readFile, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Host, Kms, VCenter, isVmsealError } from 'vmseal'
import type { Task, TaskStep, VirtualMachine } from 'vmseal'
import { audit } from './audit.js'
import { marker } from './fat16.js'
import { BadImage, chooseImage } from './image.js'
import { check, checks, mebibytes, progressBar, step, table } from './screen.js'

const encryption = 'VM Encryption Policy'
const plain = 'Datastore Default'
const imageCodes: ReadonlySet<string> = new Set([
  'VMSEAL_IMAGE_INVALID',
  'VMSEAL_QEMU_IMG_REQUIRED',
  'VMSEAL_QEMU_IMG_FAILED',
  'VMSEAL_DESCRIPTOR_INVALID',
  'VMSEAL_DESCRIPTOR_UNSUPPORTED',
  'VMSEAL_EXTENT_INVALID',
])

const directory = await mkdtemp(join(process.env['VMSEAL_DEMO_DIRECTORY'] ?? tmpdir(), 'vmseal-'))
/** What was started, to be stopped in the opposite order, also after a failure. */
const running: { stop: () => Promise<void> }[] = []

try {
  await mainJob(process.argv[2])
  const { passed, failed } = checks()
  process.stdout.write(`${passed} checks held, ${failed} failed\n`)
  process.exitCode = failed === 0 ? 0 : 1
} catch (error) {
  const badImage = error instanceof BadImage || (isVmsealError(error) && imageCodes.has(error.code))
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
  if (!badImage && error instanceof Error && !isVmsealError(error)) process.stderr.write(`${error.stack}\n`)
  process.exitCode = badImage ? 2 : 1
} finally {
  for (const party of running.toReversed()) await party.stop()
  await rm(directory, { recursive: true, force: true })
}

async function mainJob(named: string | undefined): Promise<void> {
  const image = await chooseImage(named, directory)
  const datastore = join(directory, 'datastore')
  const labDatastore = join(directory, 'lab-datastore')
  await Promise.all([mkdir(datastore), mkdir(labDatastore)])

  // The parties: a KMS, a vCenter that trusts it, two hosts that share a datastore, one outside.
  const kms = await Kms.start({ directory: join(directory, 'kms') })
  running.push(kms)
  const kmip = { create: 0, get: 0 }
  kms.on('operation', ({ operation }) => {
    if (operation === 'Create') kmip.create += 1
    if (operation === 'Get') kmip.get += 1
  })
  step('KMS', `serves KMIP on ${kms.endpoint.host}:${kms.endpoint.port}, mutual TLS, own CA`)
  const credentials = await kms.enrol('vcenter')
  const vcenter = await VCenter.open({ directory: join(directory, 'vcenter') })
  running.push({ stop: () => vcenter.close() })
  await vcenter.keyProviders.add({ id: 'kms-1', servers: [kms.endpoint], credentials })
  step('vCenter', 'trusts the KMS as key provider kms-1, its default')
  const [esx1, esx2, esx9] = await Promise.all([
    Host.start({ name: 'esx-1', datastores: { ds1: datastore } }),
    Host.start({ name: 'esx-2', datastores: { ds1: datastore } }),
    Host.start({ name: 'esx-9', datastores: { lab: labDatastore } }),
  ])
  running.push(esx1, esx2, esx9)
  const cluster = await vcenter.clusters.create('prod')
  const lab = await vcenter.clusters.create('lab')
  await cluster.addHost(esx1)
  await cluster.addHost(esx2)
  await lab.addHost(esx9)
  step('vCenter', 'manages cluster prod (esx-1, esx-2) and cluster lab (esx-9)')
  for (const name of ['esx-1', 'esx-2']) await vcenter.hosts.configureCryptoKey(name)
  const safe = (await cluster.hosts()).every((host) => host.cryptoState === 'safe')
  check('esx-1 and esx-2 are safe, each with a host key of its own', safe && kmip.create === 2)
  kmip.create = 0

  // A plain VM, as anybody has it.
  const vm = await vcenter.virtualMachines.import({ name: 'db01', cluster, datastore: 'ds1', disks: [image] })
  const disk = (await vm.info()).disks[0]
  if (!disk) throw new Error('the import made no disk')
  step(
    'esx-1',
    `imported ${named ?? 'a generated disk'} (${mebibytes(disk.capacityBytes)}) as VM db01, plain`,
  )
  const source = await vm.digest(disk.device)
  if (named === undefined) {
    check('the plain disk equals the generated image', source.sha256 === (await sha256(image)))
    check('its text can be read on the datastore', await holds(join(datastore, 'db01'), marker))
  }

  // Encrypt: one task, one new key.
  const encrypted = await runTask(vm.applyPolicy({ home: encryption, disks: encryption }), 'encrypting db01')
  check('the task made exactly one key at the KMS', kmip.create === 1)
  const info = await vm.info()
  const keyId = info.homeKey?.keyId ?? ''
  check(
    'VM home and disk name that key and its provider',
    keyId !== '' && info.disks.every((one) => one.key?.keyId === keyId),
  )
  check(
    'both hosts of the cluster hold the key, the host outside does not',
    (await keyHolders([esx1, esx2, esx9], keyId)) === 'esx-1 esx-2',
  )
  if (named === undefined)
    check('its text is nowhere on the datastore any more', !(await holds(join(datastore, 'db01'), marker)))
  const descriptor = join(datastore, 'db01', info.disks[0]?.file ?? '')
  const answer = await audit({
    kms: kms.endpoint,
    credentials,
    keyId,
    descriptors: [descriptor],
    directories: [join(directory, 'vcenter'), datastore, join(directory, 'kms')],
  })
  check(
    'an independent reader (stock JOSE, OpenSSL) decrypts the extent to the same bytes',
    answer.sha256[0] === source.sha256,
  )
  check(
    `the key is in none of the ${answer.filesSearched} files of vCenter, KMS and datastore`,
    answer.filesWithKek.length === 0,
  )

  // Any host with the key can work on it.
  check(
    'esx-2 reads the same disk',
    (await vm.digest(disk.device, { host: 'esx-2' })).sha256 === source.sha256,
  )

  // A restart loses the keys.
  const gets = kmip.get
  await esx1.restart()
  step('esx-1', 'restarted: its key cache is empty')
  const locked = await vm.info()
  check(
    `db01 is locked: key ${keyId} is not in the key cache of esx-1`,
    locked.cryptoState === 'locked' &&
      locked.missing.some(({ key, hop }) => key.keyId === keyId && hop === 'hostCache'),
  )
  await vcenter.hosts.reconnect('esx-1')
  step('vCenter', `fetched key ${keyId} again by its id and sealed it to esx-1`)
  check('no new key was made', kmip.create === 1 && kmip.get > gets)
  await vm.powerOn({ host: 'esx-1' })
  check('db01 opens again and reads the same', (await vm.digest(disk.device)).sha256 === source.sha256)
  await vm.powerOff()

  // A VM that is encrypted from its first byte stays for the closing table.
  await vcenter.virtualMachines.create({
    name: 'vault01',
    cluster,
    datastore: 'ds1',
    policy: encryption,
    disks: [{ capacityBytes: 64 * 2 ** 20 }, { capacityBytes: 16 * 2 ** 20 }],
  })
  step('esx-1', 'created VM vault01 with two disks, encrypted from the first byte')

  // Decrypt: change the policy back.
  const decrypted = await runTask(vm.applyPolicy({ home: plain, disks: plain }), 'decrypting db01')
  check('the decrypted disk equals the original', (await vm.digest(disk.device)).sha256 === source.sha256)
  check(
    'no key id or wrapped key is left in its files',
    !(await holds(join(datastore, 'db01'), keyId, 'vmseal.dek')),
  )
  step(
    'vCenter',
    `encrypted at ${encrypted} MiB/s and decrypted at ${decrypted} MiB/s, copies durable before each commit`,
  )

  table(['VM', 'disk', 'state', 'provider', 'key id'], await rows(await vcenter.virtualMachines.list()))
}

/** Shows a task to its end; gives its rate over all in MiB/s. */
async function runTask(task: Task, title: string): Promise<string> {
  const begin = performance.now()
  let bytes = 0
  const bar = progressBar(title)
  task.on('step', (happened) => step(...describe(happened)))
  task.on('progress', (progress) => {
    bytes = progress.totalBytes
    bar(progress)
  })
  await task.done
  return (bytes / 2 ** 20 / ((performance.now() - begin) / 1000)).toFixed(0)
}

/** Who did what, and which key id moved. */
function describe({
  actor,
  action,
  keyId,
  providerId,
  host,
  work,
}: TaskStep): [actor: string, action: string] {
  const key = `key ${keyId}`
  switch (action) {
    case 'key created':
      return ['KMS', `made ${key} for vCenter, which records {${providerId}, id} and nothing else`]
    case 'key fetched':
      return ['vCenter', `fetched ${key} by its id`]
    case 'key pushed':
      return ['vCenter', `sealed ${key} to the public key of ${host}`]
    case 'work started':
      return [host ?? actor, `begins to ${work}`]
    case 'work committed':
      return [host ?? actor, 'made the new files durable and switched to them']
    default:
      return [actor, action]
  }
}

async function keyHolders(hosts: readonly Host[], keyId: string): Promise<string> {
  const holders = await Promise.all(
    hosts.map(async (host) =>
      (await host.listKeys()).some((key) => key.keyId === keyId) ? [host.name] : [],
    ),
  )
  return holders.flat().join(' ')
}

async function rows(machines: readonly VirtualMachine[]): Promise<string[][]> {
  const lines = await Promise.all(
    machines.map(async (vm) => {
      const { homeKey, disks } = await vm.info()
      const parts = [{ device: 'VM home', key: homeKey }, ...disks]
      return parts.map(({ device, key }) => [
        vm.name,
        device,
        key ? 'encrypted' : 'plain',
        key?.providerId ?? '-',
        key?.keyId ?? '-',
      ])
    }),
  )
  return lines.flat()
}

/** True if a file of the directory holds one of the texts. */
async function holds(folder: string, ...texts: readonly string[]): Promise<boolean> {
  for (const entry of await readdir(folder)) {
    const bytes = await readFile(join(folder, entry))
    if (texts.some((text) => bytes.includes(text))) return true
  }
  return false
}

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}
