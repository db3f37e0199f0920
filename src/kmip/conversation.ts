/** One connection to a KMIP server: the version and credential of its messages, which go one after another. */
import { VmsealError } from '../errors.js'
import type { KeyHandle, KmipConnection } from '../native/load.js'
import { settleBatch } from './batch.js'
import type { BatchRequest, BatchResults } from './batch.js'
import type { KmipCredential } from './credential.js'
import { decodeResponse, encodeRequest } from './messages.js'
import type { RequestHeader, RequestMessage, ResponseMessage } from './messages.js'
import { commonVersion, discoveredVersions, discoveryRequest } from './negotiation.js'
import type { OperationName, RequestOf, ResponseOf } from './operations/table.js'
import { decodeTtlv, encodeTtlv } from './ttlv/codec.js'
import { attachKeys, collectKeys } from './ttlv/keys.js'
import { defaultVersions, versionNumber } from './version.js'
import type { ProtocolVersion, VersionNumber } from './version.js'

export class Conversation {
  readonly #connection: KmipConnection
  readonly #credential: KmipCredential | undefined
  #version: ProtocolVersion = '1.0'
  #last: Promise<unknown> = Promise.resolve()

  constructor(connection: KmipConnection, credential: KmipCredential | undefined) {
    this.#connection = connection
    this.#credential = credential
  }

  get version(): ProtocolVersion {
    return this.#version
  }

  get closed(): boolean {
    return this.#connection.closed
  }

  close(): void {
    this.#connection.close()
  }

  /** Agrees on the highest version that both sides know; one that is wanted alone is not asked for. */
  async negotiate(wanted: readonly ProtocolVersion[]): Promise<void> {
    const [only, ...others] = wanted
    if (only && others.length === 0) this.#version = only
    else {
      const preferred = wanted.toSorted().toReversed().map(versionNumber)
      const question = discoveryRequest(preferred, wanted, this.#credential)
      this.#version = commonVersion(await this.#exchange(question), wanted)
    }
  }

  /** Empty when the server does not know the operation. */
  async discoverVersions(): Promise<readonly VersionNumber[]> {
    const answer = await this.#exchange(discoveryRequest([], [this.#version], this.#credential))
    return discoveredVersions(answer)?.versions ?? []
  }

  async call<O extends OperationName>(operation: O, request: RequestOf<O>): Promise<ResponseOf<O>> {
    const [result] = await this.batch([{ operation, request } as BatchRequest])
    if (result.status === 'rejected') throw result.reason
    return result.value as ResponseOf<O>
  }

  /** Several operations in one message. Without a word on it the server stops at the first that fails. */
  batch<const Requests extends readonly BatchRequest[]>(
    requests: Requests,
    rest: Omit<RequestHeader, 'version' | 'credential'> = {},
  ): Promise<BatchResults<Requests>> {
    const credential = this.#credential === undefined ? {} : { credential: this.#credential }
    return settleBatch(requests, { version: this.#version, ...credential, ...rest }, (message) =>
      this.#exchange(message),
    )
  }

  /** Sends a message when the ones before it are answered. */
  #exchange(message: RequestMessage): Promise<ResponseMessage> {
    const request = encodeRequest(message)
    const bytes = encodeTtlv(request)
    const sent = this.#last.then(() => this.#connection.request(bytes, collectKeys(request)))
    this.#last = sent.catch(() => undefined)
    return sent.then(({ message: answer, keys }) => readAnswer(answer, keys))
  }
}

/** VMSEAL_INVALID_ARGUMENT for an empty list. */
export function checkVersions(
  wanted: readonly ProtocolVersion[] = defaultVersions,
): readonly ProtocolVersion[] {
  if (wanted.length > 0) return wanted
  throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'protocolVersions names no version')
}

function readAnswer(answer: Buffer, keys: readonly KeyHandle[]): ResponseMessage {
  try {
    return decodeResponse(attachKeys(decodeTtlv(answer), keys))
  } catch (error) {
    for (const key of keys) key.dispose()
    throw error
  }
}
