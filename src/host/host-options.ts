/** What a host is started with. */
import { VmsealError } from '../errors.js'
import { checkUuid } from './requests.js'

export interface HostOptions {
  /** Name of the host, unique in its vCenter. */
  readonly name: string
  /** Name to directory; each directory exists. */
  readonly datastores: Readonly<Record<string, string>>
  /** UUID that stays over restarts; default: derived from the name. A host id belongs to one machine. */
  readonly id?: string
  /** Where the host's own dumps lie, encrypted with the host key. An existing directory; default: none are kept. */
  readonly dumpDirectory?: string
  /** False: the host takes no part in migrations whose memory is encrypted, for instance without AES in its processor. */
  readonly encryptedMigration?: boolean
  /** The clock that expiry of seals is measured with, in milliseconds. */
  readonly now?: () => number
  /** Room on a datastore, in bytes; default: what the file system says. */
  readonly freeBytes?: (datastore: string) => Promise<number>
}

/** Refuses a name or an id that is none; what the datastores are is seen when they are opened. */
export function checkHostOptions(options: HostOptions): void {
  // eslint-disable-next-line no-control-regex
  if (typeof options.name !== 'string' || !/^[^\0-\x1f\x7f]{1,200}$/.test(options.name))
    throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'name must be the name of the host, 1 to 200 characters')
  if (options.id !== undefined) checkUuid(options.id, 'id')
}
