/** docs/commands.md: the help of every command, the exit statuses, and the words of PowerCLI. */
import type { Command } from 'commander'
import { exitStatuses } from './exit-status.js'
import { cmdlets } from './powercli.js'
import { buildProgram } from './program.js'

/** Markdown. The same for every machine: nothing of its environment is in it. */
export function commandPage(): string {
  const program = buildProgram(false)
  const commands = commandsBelow(program)
  return [
    '# The vmseal command',
    '',
    'Made from `vmseal --help` and the help of each command by `npm run docs`.',
    '',
    'A verb on a vCenter talks to the one that runs in `--vcenter DIR` (or `VMSEAL_VCENTER`) through its control socket; when',
    'none runs it opens the directory itself, for that one call. It acts as the built-in administrator, or with `--as USER` with',
    "that user's privileges. `--json` prints one JSON document; streams (`event follow`, `task follow`) print one a line, and",
    '`--progress` adds lines with `event`. Errors are JSON on the error stream then.',
    '',
    '## Exit status',
    '',
    '| status | meaning |',
    '| --- | --- |',
    ...exitStatuses.map(({ status, meaning }) => `| ${status} | ${meaning} |`),
    '',
    '## Words of PowerCLI',
    '',
    'The cmdlet stands for the verb, in any case of its letters; arguments and options are those of the verb. Cmdlets of the',
    'module VMware.VMEncryption that are not here need what vmseal does not have (`Add-Vtpm`).',
    '',
    '| cmdlet | verb |',
    '| --- | --- |',
    ...cmdlets.map(({ name, verb }) => `| \`${name}\` | [\`vmseal ${verb}\`](#${anchorOf(verb)}) |`),
    '',
    '## Commands',
    '',
    ...commands.map(
      ({ name, command }) => `- [\`${name}\`](#${anchorOf(wordsOf(name))}): ${firstSentence(command)}`,
    ),
    '',
    ...commands.flatMap(({ name, command }) => [
      `## ${wordsOf(name)}`,
      '',
      '```text',
      helpOf(command),
      '```',
      '',
    ]),
  ].join('\n')
}

interface Named {
  readonly name: string
  readonly command: Command
}

/** Those that do something, groups left out. */
function commandsBelow(parent: Command, path = parent.name()): Named[] {
  return parent
    .createHelp()
    .visibleCommands(parent)
    .filter((command) => command.name() !== 'help')
    .flatMap((command) => {
      const name = `${path} ${command.name()}`
      return command.commands.length > 0 ? commandsBelow(command, name) : [{ name, command }]
    })
}

function helpOf(command: Command): string {
  let text = ''
  command.configureHelp({ showGlobalOptions: false })
  command.configureOutput({ writeOut: (piece) => (text += piece), getOutHelpWidth: () => 110 })
  command.outputHelp()
  return text.trimEnd()
}

function firstSentence(command: Command): string {
  return /^[^]*?[.:](?=\s|$)/.exec(command.description())?.[0].replace(/:$/, '.') ?? command.description()
}

function wordsOf(name: string): string {
  return name.replace(/^vmseal /, '')
}

function anchorOf(words: string): string {
  return words.toLowerCase().replaceAll(' ', '-')
}
