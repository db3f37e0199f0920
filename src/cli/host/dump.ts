/**
 * `vmseal host dump`: dumps of a host, encrypted with its host key, and of its VMs, encrypted with theirs. What is decrypted
 * goes to the one new file that is named, for its owner only.
 */
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { VmsealError } from '../../errors.js'
import { describeHostDump, extractHostDump, type HostDumpDescription } from '../../host/host-dumps.js'
import type { VmReference } from '../../rpc/host-api.js'
import { directoryName } from '../arguments.js'
import { addKeyOptions, keyHelp, withKeys, type KeyOptions } from '../disk/key-source.js'
import { facts, output } from '../output.js'
import { cancelOnSignal } from '../signal.js'
import { keyText } from '../vm/describe.js'
import { order } from './control.js'

interface Running {
  readonly directory: string
}

interface Target {
  readonly output: string
}

const running = ['-d, --directory <dir>', 'directory of the host agent, which runs', directoryName] as const
const target = ['-o, --output <file>', 'new file for the plaintext; mode 0600'] as const
const vmLabel = ['--label <text>', 'tells dumps of one VM apart, for instance -1'] as const

export function addDumpCommands(host: Command): void {
  const dump = host
    .command('dump')
    .description('Dumps of a host and its VMs: encrypted when they are written, decrypted on order only.')
  dump
    .command('write')
    .description('Keep a dump of the host, encrypted with its host key: in dumps/ of its directory.')
    .argument('<name>', 'name of the dump')
    .argument('<source>', 'a file, or a named pipe that a crash handler writes to')
    .requiredOption(...running)
    .action(write)
  dump
    .command('info')
    .description(
      'Say what a dump of a host says about itself: host, time, and the key that opens it. Needs no key.',
    )
    .argument('<file>', 'NAME.dump; NAME.dump.key lies beside it')
    .action(async (file: string) => output.answer(await describeHostDump(resolve(file)), describe))
  addKeyOptions(
    dump
      .command('extract')
      .description(
        'Decrypt a dump of a host, with the host key of a host that runs or with the key from a KMS.',
      )
      .argument('<file>', 'NAME.dump; NAME.dump.key lies beside it')
      .requiredOption(...target)
      .option('-d, --directory <dir>', 'directory of a host agent that runs and has the key', directoryName),
  )
    .addHelpText(
      'after',
      `${keyHelp}
With --directory the host agent does it, with its own host key, and its log says so.

Example:
  vmseal host dump info /var/lib/vmseal/host/dumps/vmkernel-1.dump
  vmseal host dump extract /var/lib/vmseal/host/dumps/vmkernel-1.dump --output core --directory /var/lib/vmseal/host`,
    )
    .action(extract)
  dump
    .command('write-vm')
    .description(
      'Keep a dump of a VM among its files, encrypted with the key of the VM when it is encrypted.',
    )
    .argument('<datastore>', 'datastore of the VM')
    .argument('<vmx>', 'folder and file on the datastore, for instance db01/db01.vmx')
    .argument('<source>', 'a file, or a named pipe that the hypervisor writes to')
    .requiredOption(...running)
    .option(...vmLabel)
    .action(writeOfVm)
  dump
    .command('extract-vm')
    .description('Decrypt a dump of a VM. The host needs the key of the VM: an unlocked VM of its vCenter.')
    .argument('<datastore>', 'datastore of the VM')
    .argument('<vmx>', 'folder and file on the datastore')
    .requiredOption(...target)
    .requiredOption(...running)
    .option(...vmLabel)
    .action(extractOfVm)
}

async function write(name: string, source: string, { directory }: Running): Promise<void> {
  const values = { name, source: resolve(source) }
  const written = await cancellable((cancel) => order(directory, 'writeDump', values, cancel))
  output.answer(written, ({ file, key }) => facts({ dump: file, 'opens with host key': keyText(key) }))
}

async function extract(file: string, options: KeyOptions & Target & Partial<Running>): Promise<void> {
  const { directory } = options
  const values = { file: resolve(file), target: resolve(options.output) }
  const done = await cancellable((cancel) => {
    if (directory === undefined) return extractHere(values, options, cancel)
    if (options.server !== undefined || options.kms !== undefined || options.vcenter !== undefined)
      throw new VmsealError(
        'VMSEAL_INVALID_ARGUMENT',
        'name one: --directory, a host that runs, or where the key comes from',
      )
    return order(directory, 'extractDump', values, cancel)
  })
  output.answer(done, ({ target: made, dump }) => `${describe(dump)}\n${facts({ plaintext: made })}`)
}

async function extractHere(
  { file, target: made }: { readonly file: string; readonly target: string },
  options: KeyOptions,
  signal: AbortSignal,
): Promise<{ target: string; dump: HostDumpDescription }> {
  const { key } = await describeHostDump(file)
  const dump = await withKeys(options, async (keys) =>
    extractHostDump(file, { id: key, handle: await keys.fetch(key) }, made, { signal }),
  )
  return { target: made, dump }
}

async function writeOfVm(
  datastore: string,
  vmx: string,
  source: string,
  { directory, label }: Running & { readonly label?: string },
): Promise<void> {
  const values = {
    vm: { datastore, vmx },
    source: resolve(source),
    ...(label === undefined ? {} : { label }),
  }
  const written = await cancellable((cancel) => order(directory, 'writeVmDump', values, cancel))
  output.answer(written, vmText)
}

async function extractOfVm(
  datastore: string,
  vmx: string,
  options: Running & Target & { readonly label?: string },
): Promise<void> {
  const { directory, label } = options
  const vm = { datastore, vmx }
  const values = { vm, target: resolve(options.output), ...(label === undefined ? {} : { label }) }
  const done = await cancellable((cancel) => order(directory, 'extractVmDump', values, cancel))
  output.answer(done, ({ target: made }) => `${vmText(vm)}\n${facts({ plaintext: made })}`)
}

/** The first signal cancels; what was written of the target is removed. */
async function cancellable<Result>(work: (signal: AbortSignal) => Promise<Result>): Promise<Result> {
  const cancel = new AbortController()
  const forget = cancelOnSignal(() => cancel.abort())
  try {
    return await work(cancel.signal)
  } finally {
    forget()
  }
}

function vmText({ datastore, vmx }: VmReference): string {
  return facts({ 'dump of': `[${datastore}] ${vmx}` })
}

function describe({ hostName, hostId, writtenAt, key }: HostDumpDescription): string {
  return facts({ host: `${hostName} (${hostId})`, written: writtenAt, 'opens with host key': keyText(key) })
}
