/** The words of PowerCLI: each cmdlet of the table stands for a verb, in any case of its letters. */
import { verbs } from './verbs.js'

export interface Cmdlet {
  readonly name: string
  /** The words of the verb. */
  readonly verb: string
}

export const cmdlets: readonly Cmdlet[] = verbs
  .flatMap(({ name, cmdlets: names = [] }) => names.map((cmdlet) => ({ name: cmdlet, verb: name })))
  .toSorted((a, b) => a.name.localeCompare(b.name, 'en'))

/** The command line with a cmdlet replaced by the words of its verb; options before it stay. */
export function withoutCmdlet(argv: readonly string[]): readonly string[] {
  const at = argv.findIndex((word) => !word.startsWith('-'))
  const found = cmdlets.find(({ name }) => name.toLowerCase() === argv[at]?.toLowerCase())
  return found ? [...argv.slice(0, at), ...found.verb.split(' '), ...argv.slice(at + 1)] : argv
}
