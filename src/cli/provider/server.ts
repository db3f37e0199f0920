/** Servers of a key provider as the command line has them. */
import type { KmsServerAddress } from '../../store/store.js'
import { address, type Address } from '../arguments.js'

export function addressText({ host, port, serverName }: KmsServerAddress): string {
  const place = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
  return serverName === undefined ? place : `${place} (${serverName})`
}

export function collectServers(text: string, earlier: readonly Address[] = []): readonly Address[] {
  return [...earlier, address(text)]
}
