/** Calls listeners. One that throws is its owner's bug: it must not stop the work, and must not pass unseen. */
export function tellListeners(emit: () => void): void {
  try {
    emit()
  } catch (error) {
    queueMicrotask(() => {
      throw error
    })
  }
}
