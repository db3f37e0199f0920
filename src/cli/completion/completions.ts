/** What may follow on a command line, from the commands themselves. */
import type { Argument, Command, Option } from 'commander'
import { isVmsealError } from '../../errors.js'
import { printable } from '../printable.js'
import { orderVCenter } from '../vcenter/control.js'

/** What the last of `words` may become; it may be empty. Nothing where the shell knows better: files. */
export async function completionsOf(program: Command, words: readonly string[]): Promise<readonly string[]> {
  const typed = words.at(-1) ?? ''
  const place = placeOf(program, words.slice(0, -1))
  const candidates = await candidatesAt(place, typed)
  return candidates.filter((word) => word.startsWith(typed) && word === printable(word)).toSorted()
}

interface Place {
  readonly command: Command
  /** Whose value comes next. */
  readonly option?: Option
  /** Arguments so far. */
  readonly given: number
  readonly vcenter?: string
}

function placeOf(program: Command, words: readonly string[]): Place {
  let command = program
  let option: Option | undefined
  let given = 0
  let vcenter = process.env['VMSEAL_VCENTER']
  for (const word of words) {
    if (option) {
      if (option.long === '--vcenter') vcenter = word
      option = undefined
    } else if (word.startsWith('-')) {
      const found = optionsOf(command).find(({ long, short }) => word === long || word === short)
      if (found && (found.required || found.optional)) option = found
    } else {
      const below = command.commands.find((other) => other.name() === word)
      if (below) command = below
      else given += 1
    }
  }
  return { command, given, ...(option ? { option } : {}), ...(vcenter ? { vcenter } : {}) }
}

async function candidatesAt(place: Place, typed: string): Promise<readonly string[]> {
  const { command, option, given } = place
  if (option) return option.argChoices ?? names(kindOf(option.flags), place)
  if (typed.startsWith('-'))
    return optionsOf(command).flatMap(({ long, hidden }) => (long && !hidden ? [long] : []))
  if (command.commands.length > 0) return visible(command)
  const { registeredArguments: all } = command
  const argument = all[given] ?? (all.at(-1)?.variadic ? all.at(-1) : undefined)
  if (!argument) return optionsOf(command).flatMap(({ long, hidden }) => (long && !hidden ? [long] : []))
  return argument.argChoices ?? names(nameOf(argument), place)
}

function visible(command: Command): string[] {
  return command.commands.map((below) => below.name()).filter((name) => !name.startsWith('_'))
}

/** Also those of the commands above, and the help. */
function optionsOf(command: Command): readonly Option[] {
  return command
    .createHelp()
    .visibleOptions(command)
    .concat(command.parent ? optionsOf(command.parent) : [])
}

/** `--provider <provider>`, `--as <user>`: named by what it takes. */
function kindOf(flags: string): string {
  return /[<[]([a-z-]+)/.exec(flags)?.[1] ?? ''
}

function nameOf(argument: Argument): string {
  return argument.name()
}

/** A shell waits: whatever is wrong, there is nothing to offer. */
async function names(kind: string, { vcenter }: Place): Promise<readonly string[]> {
  if (vcenter === undefined) return []
  try {
    return (await orderVCenter(vcenter, { action: 'names', values: { kind } })) as readonly string[]
  } catch (error) {
    if (isVmsealError(error)) return []
    throw error
  }
}
