/** The `vmseal` command: its verbs, and what its exit status means. */
import { Command, CommanderError } from 'commander'
import { addCompletion } from './completion/command.js'
import { addDiskCommands } from './disk/commands.js'
import { addKmsCommands } from './kms/commands.js'
import { addHostCommands } from './host/commands.js'
import { exitStatusOf, exitStatuses } from './exit-status.js'
import { output } from './output.js'
import { withoutCmdlet } from './powercli.js'
import { addProviderCommands } from './provider/commands.js'
import { addVCenterCommands } from './vcenter/commands.js'
import { addVerbs } from './verbs.js'
import { version } from './version.js'

/** Runs one command line without the program's name. Never rejects. */
export async function run(argv: readonly string[]): Promise<number> {
  const program = buildProgram(wantsJson(argv))
  output.use(wantsJson(argv))
  try {
    await program.parseAsync(withoutCmdlet(argv), { from: 'user' })
    return Number(process.exitCode ?? 0)
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return 0
      if (wantsJson(argv)) output.wrongCall(messageOf(error))
      return 2
    }
    output.failure(error)
    return exitStatusOf(error)
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

/** Every command, with its help. */
export function buildProgram(json: boolean): Command {
  const program = new Command('vmseal')
    .description('Virtual machine encryption: a KMS, a vCenter, hosts, disks.')
    .version(version)
    .option('--json', 'print JSON for machines: one document for each answer, one line for each event')
    .showSuggestionAfterError()
    .showHelpAfterError('(--help says more)')
    .configureHelp({ showGlobalOptions: true })
    .exitOverride()
    .configureOutput(json ? { writeErr: () => {} } : {})
    .addHelpText(
      'after',
      `
Exit status:
${exitStatuses.map(({ status, meaning }) => `  ${status}  ${meaning}`).join('\n')}

Begin with:
  vmseal kms start --directory ./kms                            a KMS on this machine
  vmseal kms enrol vcenter --directory ./kms --output ./issued  a certificate for a client of it
  vmseal vcenter start ./vcenter                                a vCenter; then, in another terminal:
  export VMSEAL_VCENTER=./vcenter
  vmseal provider add kms-1 --server 127.0.0.1:5696 --credentials ./issued
  vmseal provider doctor kms-1                                  the way to a key, hop by hop
  vmseal cluster create prod
  vmseal host add --help                                        a host, and then VMs: vmseal vm --help
  vmseal disk encrypt --help                                    a disk, with a KMS and nothing else
The cmdlets of PowerCLI are understood as well: vmseal Enable-VMEncryption db01.`,
    )
  addKmsCommands(program)
  addVCenterCommands(program)
  addHostCommands(program)
  addProviderCommands(program)
  addDiskCommands(program)
  addVerbs(program)
  addCompletion(program)
  return program
}
