/** The end of a command that serves until it is told to stop. */
import { once } from 'node:events'

/** SIGINT or SIGTERM. A second signal ends the process as it would without us. */
export async function firstSignal(): Promise<NodeJS.Signals> {
  const signals = ['SIGINT', 'SIGTERM'] as const
  const heard = new AbortController()
  const waiting = signals.map(async (signal) => {
    await once(process, signal, { signal: heard.signal })
    return signal
  })
  const signal = await Promise.race(waiting)
  for (const other of waiting) other.catch(() => {})
  heard.abort()
  return signal
}

/** The first SIGINT or SIGTERM cancels, the next one ends the process as it would without us. Returns how to stop that. */
export function cancelOnSignal(cancel: () => void): () => void {
  const signals = ['SIGINT', 'SIGTERM'] as const
  const forget = (): void => {
    for (const signal of signals) process.removeListener(signal, heard)
  }
  const heard = (): void => {
    forget()
    cancel()
  }
  for (const signal of signals) process.once(signal, heard)
  return forget
}
