/** The commands of the verbs. */
import { Option, type Command } from 'commander'
import type { TaskProgress, TaskStep } from '../../vcenter/task.js'
import { directoryName, positive } from '../arguments.js'
import { output } from '../output.js'
import { ProgressDisplay, type ProgressFacts } from '../progress.js'
import { printable } from '../printable.js'
import { cancelOnSignal } from '../signal.js'
import { version } from '../version.js'
import type { DetachedTask, VerbOrder } from './perform.js'
import { reach } from './reach.js'
import { given, type Verb } from './verb.js'

interface CommonOptions {
  readonly vcenter: string
  readonly as?: string
  readonly wait?: number
  readonly progress?: true
  readonly detach?: true
}

/** Of a task, or of a stream. */
type VerbEvent = { readonly progress?: TaskProgress; readonly step?: TaskStep }

/** A command below its group, with the options that every verb has. */
export function addVerb(group: Command, word: string, verb: Verb): void {
  const command = group.command(word).description(describe(verb))
  verb.declare?.(command)
  command
    .addOption(
      new Option('--vcenter <dir>', 'directory of the vCenter, running or not')
        .env('VMSEAL_VCENTER')
        .argParser(directoryName)
        .makeOptionMandatory(),
    )
    .option('--as <user>', 'act as this user, with his privileges; default: the administrator')
  if (verb.kind === 'task' || verb.drive)
    command.option('--progress', 'progress as lines, also without a terminal; with --json as events')
  if (verb.kind === 'task')
    command.option(
      '--detach',
      'do not wait for the end: `vmseal task list` tells of it; the vCenter must run',
    )
  if (verb.hosts)
    command.option(
      '--wait <seconds>',
      'when the vCenter does not run: how long to wait for hosts to connect',
      positive,
      15,
    )
  if (verb.help) command.addHelpText('after', `\n${verb.help.trim()}`)
  command.action(async (...words: unknown[]) => runVerb(verb, command, words.slice(0, -2)))
}

function describe({ summary, holds }: Verb): string {
  return holds ? `${summary} Status 1 if something is not as it should be.` : summary
}

function runVerb(verb: Verb, command: Command, words: readonly unknown[]): Promise<void> {
  const { vcenter, as, wait, progress, detach, ...options } = command.opts<CommonOptions>()
  const named = command.registeredArguments.map((argument, index) => [
    camelCase(argument.name()),
    words[index],
  ])
  const raw = { ...options, ...(Object.fromEntries(named) as object) }
  return performVerb(verb, verb.prepare?.(raw) ?? raw, { vcenter, ...given({ as, wait, progress, detach }) })
}

/** Has the vCenter do it, and prints what comes of it. */
export async function performVerb(verb: Verb, values: object, options: CommonOptions): Promise<void> {
  const { vcenter, as: user, wait = 0, progress, detach } = options
  const cancel = new AbortController()
  const display = new ProgressDisplay({ lines: progress === true, events: progress === true })
  const forget = cancelOnSignal(() => {
    display.end()
    if (verb.kind === 'task' || verb.drive) output.remark('cancelling; once more ends this command at once')
    cancel.abort()
  })
  try {
    const reached = {
      onEvent: (event: object) =>
        verb.kind === 'stream' ? tellLine(verb, event) : tellTask(display, event, progress),
      cancel: cancel.signal,
      needsHosts: verb.hosts === 'needed' && verb.withoutHosts?.(values) !== true,
      waitSeconds: wait,
      mustRun: detach === true,
    }
    const perform = (each: object): Promise<unknown> => {
      const order: VerbOrder = { verb: verb.name, version, values: each, ...given({ user, detach }) }
      return reach(vcenter, order, reached)
    }
    const show = (facts: ProgressFacts): void => display.show(facts, facts.doneBytes === facts.totalBytes)
    const result = verb.drive ? await verb.drive(perform, values, show, cancel.signal) : await perform(values)
    display.end()
    if (verb.kind !== 'stream') answer(verb, result, values)
  } finally {
    display.end()
    forget()
  }
}

function answer(verb: Verb, result: unknown, values: object): void {
  if (isDetached(result)) {
    output.answer(
      result,
      ({ task }) => `task ${task.id} is ${task.state}\nfollow it: vmseal task follow ${task.id}`,
    )
    return
  }
  if (verb.holds?.(result) === false) process.exitCode = 1
  if (verb.answersAside?.(values)) {
    output.remark(verb.show(result, values))
    return
  }
  output.answer(result, () => verb.show(result, values))
}

function isDetached(result: unknown): result is DetachedTask {
  return typeof result === 'object' && result !== null && Object.keys(result).join() === 'task'
}

function tellLine(verb: Verb, event: object): void {
  if (output.isJson) output.answer(event, () => '')
  else output.answer(event, () => verb.line?.(event as never) ?? JSON.stringify(event))
}

function tellTask(display: ProgressDisplay, { progress, step }: VerbEvent, lines: boolean | undefined): void {
  if (progress) display.show(progress, progress.doneBytes === progress.totalBytes)
  else if (step && lines) {
    if (output.isJson) output.event('step', step, '')
    else output.remark(stepLine(step))
  }
}

/** `vcenter: key created  kms-1/6f9e…` */
function stepLine({ actor, action, keyId, providerId, host, work, error }: TaskStep): string {
  const about = [
    ...(keyId === undefined ? [] : [`${providerId ?? ''}/${keyId}`]),
    ...(host === undefined ? [] : [`host ${host}`]),
    ...(work === undefined ? [] : [work]),
    ...(error === undefined ? [] : [error.message]),
  ]
  return printable([`${actor}: ${action}`, ...about].join('  '))
}

function camelCase(name: string): string {
  return name.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase())
}
