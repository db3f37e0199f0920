/** `vmseal vcenter rebuild`: the inventory from the files of the VMs, when the database of vCenter is lost. */
import { existsSync } from 'node:fs'
import { copyFile, mkdtemp, readdir, rm } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { InvalidArgumentError, Option, type Command } from 'commander'
import { VmsealError } from '../../errors.js'
import { Host } from '../../host/host.js'
import { DirectoryLock } from '../../store/directory-lock.js'
import type { RebuildReport, RebuiltVm } from '../../vcenter/rebuild.js'
import { VCenter } from '../../vcenter/vcenter.js'
import { address, collect, readText } from '../arguments.js'
import { output, table } from '../output.js'

interface RebuildOptions {
  readonly directory: string
  readonly datastore: readonly string[]
  readonly cluster: string
  readonly host: string
  readonly provider?: string
  readonly server?: readonly string[]
  readonly ca?: string
  readonly certificate?: string
  readonly key?: string
  readonly dryRun?: true
}

export function addRebuild(vcenter: Command): void {
  vcenter
    .command('rebuild')
    .description(
      'Make the inventory of a vCenter anew from the files of its VMs. Every VM that the datastores hold and the inventory does not is registered; status 1 if one could not be, or is locked.',
    )
    .requiredOption('--directory <dir>', 'directory of the vCenter; it is made when it is missing')
    .requiredOption(
      '--datastore <name=path>',
      'a datastore, by the name that it had (may be repeated)',
      datastore,
    )
    .option('--cluster <name>', 'cluster that takes the VMs', 'rebuilt')
    .addOption(
      new Option('--host <name>', 'name of the host that this machine is').default(
        hostname(),
        'the name of this machine',
      ),
    )
    .option('--provider <id>', 'key provider to register, by exactly the id that the VMs name')
    .option('--server <host:port>', 'a server of that provider (may be repeated)', collect)
    .option('--ca <file>', 'authority, or certificate, of its servers (PEM)')
    .option('--certificate <file>', 'certificate of the client (PEM)')
    .option('--key <file>', 'private key of the client')
    .option('--dry-run', 'look and change nothing')
    .addHelpText(
      'after',
      `
The files of a VM name its keys and their providers by id. A provider that is registered here under the same id serves
them; a VM of another one is registered locked, and unlocks when the provider is added.

Examples:
  vmseal vcenter rebuild --directory ./new --datastore ds1=/srv/ds1 --dry-run
  vmseal vcenter rebuild --directory ./new --datastore ds1=/srv/ds1 --provider kms-1 \\
    --server kms.example.com:5696 --ca ca.pem --certificate vcenter.pem --key vcenter.key`,
    )
    .action(rebuild)
}

async function rebuild(options: RebuildOptions): Promise<void> {
  const datastores = Object.fromEntries(options.datastore.map((text) => text.split(/=(.*)/s).slice(0, 2)))
  const report = await inVCenter(options, async (vcenter) => {
    if (options.provider !== undefined) await addProvider(vcenter, options.provider, options)
    const host = await Host.start({ name: options.host, datastores })
    try {
      const clusters = await vcenter.clusters.list()
      const known = clusters.find(({ name }) => name === options.cluster)
      await (known ?? (await vcenter.clusters.create(options.cluster))).addHost(host)
      return await vcenter.rebuild({
        cluster: options.cluster,
        datastores: Object.keys(datastores),
        dryRun: options.dryRun === true,
        onVirtualMachine: (vm) => output.event('vm', vm, lineOf(vm)),
      })
    } finally {
      await host.stop()
    }
  })
  if (report.virtualMachines.some(isBad)) process.exitCode = 1
  output.answer(report, describe)
}

/** A dry run works on a copy, which is thrown away. */
async function inVCenter(
  options: RebuildOptions,
  work: (vcenter: VCenter) => Promise<RebuildReport>,
): Promise<RebuildReport> {
  if (!options.dryRun) return inDirectory(resolve(options.directory), work)
  const copy = await mkdtemp(join(tmpdir(), 'vmseal-rebuild-'))
  try {
    await copyDatabase(resolve(options.directory), copy)
    return await inDirectory(copy, work)
  } finally {
    await rm(copy, { recursive: true, force: true })
  }
}

async function inDirectory(
  directory: string,
  work: (vcenter: VCenter) => Promise<RebuildReport>,
): Promise<RebuildReport> {
  const vcenter = await VCenter.open({ directory })
  try {
    return await work(vcenter)
  } finally {
    await vcenter.close()
  }
}

async function copyDatabase(from: string, to: string): Promise<void> {
  if (!existsSync(join(from, 'vcenter.db'))) return
  const lock = DirectoryLock.acquire(from)
  try {
    for (const name of await readdir(from))
      if (name.startsWith('vcenter.db')) await copyFile(join(from, name), join(to, name))
  } finally {
    lock.release()
  }
}

async function addProvider(vcenter: VCenter, id: string, options: RebuildOptions): Promise<void> {
  const { server = [], ca, certificate, key } = options
  if ((await vcenter.keyProviders.list()).some((known) => known.id === id)) return
  if (server.length === 0 || ca === undefined || certificate === undefined || key === undefined)
    throw new VmsealError(
      'VMSEAL_INVALID_ARGUMENT',
      `--provider ${id} needs --server, --ca, --certificate and --key, unless it is registered here already`,
    )
  const credentials = {
    caCertificate: readText(ca),
    certificate: readText(certificate),
    privateKeyFile: resolve(key),
  }
  await vcenter.keyProviders.add({ id, servers: server.map(address), credentials })
}

/** `NAME=PATH`, checked; several of them are collected. */
function datastore(text: string, earlier: readonly string[] = []): readonly string[] {
  if (!/^[^=]+=./.test(text)) throw new InvalidArgumentError('Write NAME=PATH, for instance ds1=/srv/ds1.')
  return collect(text, earlier)
}

function isBad({ outcome, cryptoState, missing }: RebuiltVm): boolean {
  return outcome === 'failed' || cryptoState === 'locked' || missing.length > 0
}

function lineOf(vm: RebuiltVm): string {
  return `${stateOf(vm).padEnd(20)} [${vm.datastore}] ${vm.vmx}`
}

function stateOf({ outcome, cryptoState }: RebuiltVm): string {
  return cryptoState === undefined ? outcome : `${outcome}, ${cryptoState}`
}

function describe({ dryRun, virtualMachines }: RebuildReport): string {
  const rows = virtualMachines.map((vm) => [
    vm.name ?? '',
    `[${vm.datastore}] ${vm.vmx}`,
    stateOf(vm),
    remark(vm),
  ])
  const count = (outcome: RebuiltVm['outcome']): number =>
    virtualMachines.filter((vm) => vm.outcome === outcome).length
  const locked = virtualMachines.filter(({ cryptoState }) => cryptoState === 'locked').length
  const sum = dryRun
    ? `${count('found')} would be registered, ${count('known')} are known, ${count('failed')} cannot be`
    : `${count('registered')} registered (${locked} locked), ${count('known')} known before, ${count('failed')} failed`
  return [...(rows.length > 0 ? [table(['NAME', 'FILE', 'OUTCOME', 'REMARK'], rows), ''] : []), sum].join(
    '\n',
  )
}

function remark({ name, error, missing, unknownProviders, inConversion }: RebuiltVm): string {
  if (error) return error.message
  const [first] = missing
  const disks = inConversion.map(({ device, mode }) => `${device} (${mode})`).join(', ')
  return [
    ...(first ? [`${first.message}. ${first.action}`] : []),
    ...(!first && unknownProviders.length > 0
      ? [`names key provider ${unknownProviders.join(', ')}, not registered`]
      : []),
    ...(disks === '' ? [] : [`${disks} in conversion. Go on: vmseal vm resume-conversion ${name}`]),
  ].join('; ')
}
