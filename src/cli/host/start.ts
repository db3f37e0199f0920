/** `vmseal host start`: serves one vCenter until it is told to end. */
import { mkdir } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { InvalidArgumentError, Option, type Command } from 'commander'
import { HostAgent } from '../../agent/host-agent.js'
import { VmsealError } from '../../errors.js'
import { addressOr, type Address } from '../arguments.js'
import { addCoreDumps, leavesCoreDumps, settleCoreDumps, type CoreDumpOption } from '../core-dumps.js'
import { output } from '../output.js'
import { firstSignal } from '../signal.js'
import { openHostControl } from './control.js'

interface StartOptions extends CoreDumpOption {
  readonly name: string
  readonly datastore: Readonly<Record<string, string>>
  readonly listen: Address
  readonly directory: string
  readonly tokenMinutes: number
}

const usualPort = 7443

export function addStart(host: Command): void {
  const start = host
    .command('start')
    .description('Start a host agent. The first start shows a token with which a vCenter takes the host in.')
    .requiredOption('--name <name>', 'name of the host, unique in its vCenter')
    .requiredOption(
      '--datastore <name=dir>',
      'a datastore and its directory, which exists; may be given several times',
      addDatastore,
    )
    .requiredOption(
      '-d, --directory <dir>',
      'holds identity and certificates of this host; made when missing',
    )
    .addOption(
      new Option('--listen <host:port>', 'where vCenter reaches the host; port 0: the system chooses')
        .argParser(addressOr(usualPort))
        .default({ host: '127.0.0.1', port: usualPort }, `127.0.0.1:${usualPort}`),
    )
    .option('--token-minutes <minutes>', 'how long the join token is good for', minutes, 60)
  addCoreDumps(start)
    .addHelpText(
      'after',
      `
Example:
  vmseal host start --name esx-1 --datastore ds1=/srv/ds1 --directory /var/lib/vmseal/host --listen 192.0.2.11
Give the token and the address to vCenter, over a way that nobody else reads:
  vmseal host add 192.0.2.11:${usualPort} --cluster prod --token-file -
The token is good once. Afterwards the host answers that vCenter and nobody else; after a restart its keys come from there.
It ends at SIGINT or SIGTERM: work is cancelled, virtual machines are off, keys are wiped.`,
    )
    .action(serve)
}

async function serve(options: StartOptions): Promise<void> {
  const { name, datastore, listen, tokenMinutes } = options
  const directory = resolve(options.directory)
  settleCoreDumps(options)
  // From here on: a signal during the start ends it as soon as it serves.
  const signal = firstSignal()
  // Encrypted ones: the host key opens them.
  const dumpDirectory = join(directory, 'dumps')
  await mkdir(dumpDirectory, { recursive: true, mode: 0o700 })
  const agent = await HostAgent.start({
    name,
    datastores: datastore,
    directory,
    dumpDirectory,
    listen,
    joinTokenLifetimeMs: tokenMinutes * 60_000,
  })
  try {
    const control = await openHostControl(directory, agent)
    try {
      announce(agent, directory)
      tellEvents(agent)
      output.event('stopping', { signal: await signal }, 'stopping')
    } finally {
      // Orders under way end when the host stops.
      await Promise.all([control.close(), agent.stop()])
    }
  } finally {
    await agent.stop()
  }
}

function tellEvents(agent: HostAgent): void {
  agent.on('joined', () => output.event('joined', {}, 'joined; this vCenter is the only one it answers now'))
  agent.on('certificateRenewed', (expires) =>
    output.event('certificateRenewed', { expires }, `certificate renewed, until ${expires.toISOString()}`),
  )
  agent.on('turnedAway', ({ remoteAddress, reason }) =>
    output.event('turnedAway', { remoteAddress, reason }, `turned away ${remoteAddress}: ${reason}`),
  )
}

function announce(agent: HostAgent, directory: string): void {
  const { address, joinToken } = agent
  const coreDumps = leavesCoreDumps()
  const facts = { name: agent.host.name, hostId: agent.host.id, address, directory, coreDumps }
  const where = `host ${agent.host.name} (${agent.host.id}) at ${address.host}:${address.port}`
  if (!joinToken) return output.event('serving', facts, `${where}, joined`)
  const { token, expiresAt } = joinToken
  output.event(
    'waiting',
    { ...facts, token, expiresAt: expiresAt.toISOString() },
    [
      `${where} waits for a vCenter`,
      `join token, good once, until ${expiresAt.toISOString()}:`,
      `  ${token}`,
    ].join('\n'),
  )
}

function addDatastore(text: string, earlier: Readonly<Record<string, string>> = {}): Record<string, string> {
  const [, name, directory] = /^([^=]{1,80})=(.+)$/.exec(text) ?? []
  if (name === undefined || directory === undefined)
    throw new InvalidArgumentError('Write name=directory, for instance ds1=/srv/ds1.')
  if (Object.hasOwn(earlier, name))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', `datastore ${name} is given twice`)
  return { ...earlier, [name]: resolve(directory) }
}

function minutes(text: string): number {
  const value = Number(text)
  if (!/^\d+$/.test(text) || value < 1 || value > 1440)
    throw new InvalidArgumentError('Write a whole number of minutes, 1 to 1440.')
  return value
}
