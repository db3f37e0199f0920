/**
 * A verb: one thing that an administrator does to a vCenter. Its words are read where he types them, `run` happens where
 * the vCenter is, and what it returns travels back as JSON. A verb is one file, and a line in `verbs.ts`.
 */
import type { Command } from 'commander'
import type { ProgressFacts } from '../progress.js'
import type { VCenterSession } from '../../vcenter/vcenter.js'

/** Where a verb runs, and for whom. */
export interface VerbCall {
  /** As the acting user sees it. */
  readonly vcenter: Omit<VCenterSession, 'user'>
  readonly user: string
  /** Of a stream: ends it. Nobody listens any more, or somebody has had enough. */
  readonly ended: AbortSignal
  /** Of a stream: one line. Resolves when the reader takes more. */
  tell(event: object): Promise<void>
}

export interface VerbSpec<Values extends object, Result> {
  /** Its words, for instance `vm encrypt`. */
  readonly name: string
  /** One sentence. */
  readonly summary: string
  /** What a reader of the help should know besides, and examples. */
  readonly help?: string
  /** The same in PowerCLI. */
  readonly cmdlets?: readonly string[]
  /** Arguments and options. One that is named `<vm>`, `<host>` and so on is completed by the shell with such names. */
  readonly declare?: (command: Command) => Command
  /** Values as they come from the command line, by name, made into those of `run`: files are read here. Default: as they are. */
  prepare?(values: Values): Values
  run(call: VerbCall, values: Values): Promise<Result>
  /**
   * Where the command is typed: has the verb done as often as it takes, for data that one order does not hold. Default: once.
   * `progress` shows how far it is.
   */
  drive?(
    order: (values: Values) => Promise<unknown>,
    values: Values,
    progress: (facts: ProgressFacts) => void,
    cancelled: AbortSignal,
  ): Promise<Result>
  /** The answer goes to the error stream: the output is data. */
  answersAside?(values: Values): boolean
  /** The answer for people. */
  show(result: Result, values: Values): string
  /** A line for people of what a stream tells. */
  line?(event: never): string
  /** False if the answer is that a check did not hold. */
  holds?(result: Result): boolean
  /** `task`: long work, with progress, cancelled by Ctrl-C. `stream`: tells until it is ended. Default: a short call. */
  readonly kind?: 'task' | 'stream'
  /** Hosts have to be there; a vCenter that is opened for this call alone waits for them. */
  readonly hosts?: 'needed'
  /** Unless these values make do without. */
  withoutHosts?(values: Values): boolean
  /** The command is made elsewhere; it is this verb in part of its uses. */
  readonly command?: 'elsewhere'
}

/** A verb of any values. */
export type Verb = VerbSpec<object, unknown>

export function verb<Values extends object, Result>(spec: VerbSpec<Values, Result>): Verb {
  // Values and result go together; from here on nobody looks into them.
  return spec
}

/** The values that are there: for options that may be left out and must not be undefined. */
export function given<Values extends object>(
  values: Values,
): { [Name in keyof Values]?: Exclude<Values[Name], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never
}
