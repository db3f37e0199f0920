/** `vmseal rekey`: new keys for everything that is under the keys of one provider. */
import { setTimeout as delay } from 'node:timers/promises'
import { InvalidArgumentError, type Command } from 'commander'
import type { RekeyOutcome, RekeyResult } from '../vcenter/provider-rekey.js'
import type { Task, TaskProgress } from '../vcenter/task.js'
import type { VCenter } from '../vcenter/vcenter.js'
import { output, table } from './output.js'
import { withVCenter } from './vcenter-directory.js'

interface RekeyCommandOptions {
  readonly vcenter: string
  readonly provider: string
  readonly newProvider?: string
  readonly dryRun?: true
  readonly rateLimit?: number
  readonly wait: number
}

const signals = ['SIGINT', 'SIGTERM'] as const
const lookAgainMs = 100

export function addRekeyCommand(program: Command): void {
  program
    .command('rekey')
    .description(
      'Give every VM of a key provider a new key (shallow recrypt): no data is touched and VMs may be on. Status 1 if one could not be done.',
    )
    .requiredOption('--vcenter <dir>', 'directory of a vCenter that is not running')
    .requiredOption('--provider <id>', 'the provider whose keys are replaced')
    .option('--new-provider <id>', 'where the new keys are made; default: the same provider')
    .option('--dry-run', 'say what would be done, and do nothing')
    .option('--rate-limit <n>', 'VMs a minute at most', positive)
    .option('--wait <seconds>', 'how long to wait for hosts to connect', positive, 15)
    .addHelpText(
      'after',
      `
It may be stopped at any time, also by a power cut: every VM opens, and the same command goes on where it stood.

Examples:
  vmseal rekey --vcenter ./vcenter --provider kms-1 --dry-run
  vmseal rekey --vcenter ./vcenter --provider kms-1 --rate-limit 60
  vmseal rekey --vcenter ./vcenter --provider kms-1 --new-provider kms-2   away from a KMS; host keys go along`,
    )
    .action((options: RekeyCommandOptions) =>
      withVCenter(options.vcenter, (vcenter) => rekey(vcenter, options)),
    )
}

async function rekey(vcenter: VCenter, options: RekeyCommandOptions): Promise<void> {
  const { provider, newProvider, dryRun, rateLimit, wait } = options
  if (!dryRun) await hostsConnected(vcenter, wait)
  const task = vcenter.rekey({
    provider,
    ...(newProvider === undefined ? {} : { newProvider }),
    ...(dryRun ? { dryRun } : {}),
    ...(rateLimit === undefined ? {} : { rateLimit }),
  })
  const result = await followed(task)
  if ([...result.virtualMachines, ...result.hosts].some(({ state }) => state === 'failed'))
    process.exitCode = 1
  output.answer(result, describe)
}

/** A host that stays away fails its VMs, by name, and the others are done. */
async function hostsConnected(vcenter: VCenter, seconds: number): Promise<void> {
  const end = performance.now() + seconds * 1000
  while (performance.now() < end) {
    const hosts = await vcenter.hosts.list()
    if (hosts.every(({ connectionState }) => connectionState === 'connected')) return
    await delay(lookAgainMs)
  }
}

/** The first SIGINT or SIGTERM lets what is begun end and stops there. */
async function followed(task: Task<RekeyResult>): Promise<RekeyResult> {
  const cancel = (): void => {
    for (const signal of signals) process.removeListener(signal, cancel)
    task.cancel()
  }
  for (const signal of signals) process.once(signal, cancel)
  task.on('progress', (progress) => output.event('progress', progress, progressLine(progress)))
  try {
    return await task.done
  } finally {
    for (const signal of signals) process.removeListener(signal, cancel)
  }
}

function progressLine({ step, doneBytes, totalBytes, bytesPerSecond, secondsLeft }: TaskProgress): string {
  const rate = `${(bytesPerSecond * 60).toFixed(0)} a minute`
  const left = secondsLeft === undefined ? [] : [`${Math.ceil(secondsLeft)} s left`]
  return [`${doneBytes} of ${totalBytes}`, step, rate, ...left].join('  ')
}

function describe({ provider, newProvider, dryRun, resumed, virtualMachines, hosts }: RekeyResult): string {
  const rows = (kind: string, outcomes: readonly RekeyOutcome[]): string[][] =>
    outcomes.map(({ name, state, key, error }) => [
      kind,
      name,
      dryRun ? 'would be recrypted' : state,
      key?.keyId ?? '',
      error ? `${error.message} (${error.code})` : '',
    ])
  const all = [...rows('VM', virtualMachines), ...rows('host', hosts)]
  const target = newProvider === provider ? '' : ` to ${newProvider}`
  const head = `${resumed ? 'An earlier rekey goes on: ' : ''}${provider}${target}, ${virtualMachines.length} VMs`
  if (all.length === 0) return `${head}: nothing to do`
  return `${head}\n${table(['', 'name', 'state', 'new key', ''], all)}`
}

function positive(text: string): number {
  const value = Number(text)
  if (!/^\d+(\.\d+)?$/.test(text) || value <= 0) throw new InvalidArgumentError('Write a number above 0.')
  return value
}
