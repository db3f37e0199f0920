/** `vmseal task list`, `follow` and `cancel`. */
import type { TaskRecord } from '../../store/store.js'
import type { TaskUpdate } from '../../vcenter/task-updates.js'
import { wholeNumber } from '../arguments.js'
import { tableOr } from '../output.js'
import { printable } from '../printable.js'
import { progressLine } from '../progress.js'
import { given, verb } from '../verb/verb.js'

interface ListValues {
  readonly limit: number
  readonly running?: true
}

export const taskList = verb<ListValues, readonly TaskRecord[]>({
  name: 'task list',
  summary: 'List the tasks, newest first, those of earlier runs included.',
  cmdlets: ['Get-Task'],
  declare: (command) =>
    command
      .option('--limit <n>', 'how many', wholeNumber, 50)
      .option('--running', 'only those that are queued or running'),
  run: async ({ vcenter }, { limit, running }) => {
    const tasks = await vcenter.tasks.list({ limit })
    return running ? tasks.filter(({ state }) => state === 'queued' || state === 'running') : tasks
  },
  show: (tasks) =>
    tableOr(
      'no tasks',
      ['ID', 'TASK', 'OF', 'STATE', 'BEGAN', 'ENDED', 'ERROR'],
      tasks.map(({ id, name, entity, state, startedAt, createdAt, endedAt, errorCode, errorMessage }) => [
        id,
        name,
        entity,
        state,
        startedAt ?? createdAt,
        endedAt ?? '',
        errorCode === null ? '' : `${errorMessage ?? ''} (${errorCode})`,
      ]),
    ),
})

export const taskFollow = verb<{ readonly task?: string }, null>({
  name: 'task follow',
  summary: 'Print what becomes of a task until it ends, or of all tasks until Ctrl-C.',
  cmdlets: ['Wait-Task'],
  declare: (command) => command.argument('[task]', 'id of the task (default: all)'),
  kind: 'stream',
  run: async ({ vcenter, ended, tell }, { task }) => {
    for await (const update of vcenter.tasks.subscribe({ signal: ended, ...given({ id: task }) }))
      await tell(update)
    return null
  },
  show: () => '',
  line: ({ task: { id, name, entity, state, errorMessage }, progress }: TaskUpdate) =>
    printable(
      [
        id,
        name,
        entity,
        state,
        ...(errorMessage === null ? [] : [errorMessage]),
        ...(progress && state === 'running' ? [progressLine(progress)] : []),
      ].join('  '),
    ),
})

export const taskCancel = verb<{ readonly task: string }, { readonly task: string }>({
  name: 'task cancel',
  summary: 'Ask a task to stop and undo what it began. It may still succeed: the task list tells.',
  cmdlets: ['Stop-Task'],
  declare: (command) => command.argument('<task>', 'id of the task'),
  run: async ({ vcenter }, { task }) => {
    await vcenter.tasks.cancel(task)
    return { task }
  },
  show: ({ task }) => `task ${task} is asked to stop`,
})
