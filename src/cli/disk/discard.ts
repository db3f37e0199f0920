/** A source whose overwriting was interrupted: what is left of it, and its end. */
import { resolve } from 'node:path'
import { native } from '../../native/load.js'
import { output, table } from '../output.js'
import { sizeText } from '../progress.js'
import { follow } from './progress.js'

/** What the record beside a source that is no disk any more tells. */
export interface DiscardState {
  /** Files that are still there, in part overwritten. */
  readonly files: readonly string[]
  readonly bytes: number
}

/** What an interrupted `--discard-source overwrite` left; undefined: nothing, or the source is whole. */
export function unfinishedDiscard(source: string): DiscardState | undefined {
  const text = native.discardInfo(resolve(source))
  return text === null ? undefined : (JSON.parse(text) as DiscardState)
}

/** Overwrites and removes the rest. Needs no key. */
export async function finishDiscard(source: string, { files, bytes }: DiscardState): Promise<void> {
  const disk = resolve(source)
  await follow('overwriting', native.finishDiscard(disk))
  output.answer(
    { disk, mode: 'discard', files, bytes, source: 'overwritten' },
    () => `${disk}: what was left of it, ${sizeText(bytes)}, was overwritten and removed`,
  )
}

export function describeDiscard(path: string, { files, bytes }: DiscardState): string {
  const rows: [string, string][] = [
    ['state', 'being overwritten'],
    ['left', sizeText(bytes)],
    ...files.map((file): [string, string] => ['file', file]),
  ]
  const what = 'Its copy was proven and it is to go: a part of it may be overwritten already.'
  return `${table(['disk', path], rows)}\n\n${what}\ngo on with: ${resumeOf(path)}`
}

/** The command that goes on. */
export function resumeOf(source: string): string {
  return `vmseal disk resume ${source}`
}
