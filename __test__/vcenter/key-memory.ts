/** How many keys are in locked memory in this process. */
import { native } from '../../src/native/load.js'

export function keyMemoryAllocations(): number {
  return native.keyMemoryStatus().allocations
}
