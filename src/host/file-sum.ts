/** SHA-256 of files as steps of long work. */
import { native, type NativeTask } from '../native/load.js'
import type { WorkStep } from './work.js'

export interface FileSum {
  readonly bytes: number
  /** Hex, as `sha256sum` tells it. */
  readonly sha256: string
}

/** Sums the file at `path` when its turn comes. What `use` throws is what the step fails with. */
export function sumStep(label: string, path: string, bytes: number, use: (sum: FileSum) => void): WorkStep {
  return { label, bytes, start: () => observed(native.sumFile(path), use) }
}

function observed(task: NativeTask, use: (sum: FileSum) => void): NativeTask {
  return {
    get doneBytes() {
      return task.doneBytes
    },
    get totalBytes() {
      return task.totalBytes
    },
    cancel: () => task.cancel(),
    limit: (bytesPerSecond) => task.limit(bytesPerSecond),
    done: async () => {
      const outcome = await task.done()
      use(JSON.parse(outcome) as FileSum)
      return outcome
    },
  }
}
