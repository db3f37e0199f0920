/** The `vmseal` command: its verbs, and what its exit status means. */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { isVmsealError } from '../errors.js'
import { addDiskCommands } from './disk/commands.js'
import { addKmsCommands } from './kms/commands.js'
import { addHostCommands } from './host/commands.js'
import { output } from './output.js'
import { addProviderCommands } from './provider/commands.js'
import { addRekeyCommand } from './rekey.js'
import { addVCenterCommands } from './vcenter/commands.js'

/** Done; failed, or a check did not hold; the call itself, or a file it names, is wrong. */
const exitStatus = { done: 0, failed: 1, wrongCall: 2 } as const

/** Runs one command line without the program's name. Never rejects. */
export async function run(argv: readonly string[]): Promise<number> {
  const program = buildProgram(wantsJson(argv))
  output.use(wantsJson(argv))
  try {
    await program.parseAsync(argv, { from: 'user' })
    return Number(process.exitCode ?? exitStatus.done)
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return exitStatus.done
      if (wantsJson(argv)) output.wrongCall(messageOf(error))
      return exitStatus.wrongCall
    }
    output.failure(error)
    const isTheirs = isVmsealError(error) && (error.fault === 'caller' || error.fault === 'data')
    return isTheirs ? exitStatus.wrongCall : exitStatus.failed
  }
}

function messageOf({ code, message }: CommanderError): string {
  return code === 'commander.help' ? 'name a command; --help lists them' : message.replace(/^error: /, '')
}

/** Known before the line is read, so that what is wrong with the line is told in the same form. */
function wantsJson(argv: readonly string[]): boolean {
  const end = argv.indexOf('--')
  return argv.slice(0, end < 0 ? argv.length : end).includes('--json')
}

function buildProgram(json: boolean): Command {
  const program = new Command('vmseal')
    .description('Virtual machine encryption: a KMS, key providers, disks.')
    .version(version())
    .option('--json', 'print JSON for machines: one document for each answer, one line for each event')
    .showSuggestionAfterError()
    .configureHelp({ showGlobalOptions: true })
    .exitOverride()
    .configureOutput(json ? { writeErr: () => {} } : {})
    .addHelpText(
      'after',
      `
Exit status: 0 done; 1 failed, or a check did not hold; 2 the call, or a file that it names, is wrong.

Begin with:
  vmseal kms start --directory ./kms          a KMS on this machine
  vmseal kms enrol vcenter --directory ./kms  a certificate for a client of it
  vmseal provider doctor --help               the way from a client to a key, hop by hop
  vmseal disk encrypt --help                  a disk, with a KMS and nothing else`,
    )
  addKmsCommands(program)
  addHostCommands(program)
  addProviderCommands(program)
  addDiskCommands(program)
  addRekeyCommand(program)
  addVCenterCommands(program)
  return program
}

function version(): string {
  const file = new URL('../../package.json', import.meta.url)
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
}
