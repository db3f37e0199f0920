/**
 * How one server is reached: TLS with session resumption, then the trust in its certificate, and only then a first
 * message. The steps are apart, so that it can be told which one fails.
 */
import { VmsealError, isVmsealError } from '../../errors.js'
import { KmipClient } from '../../kmip/client.js'
import type { KmipCredential } from '../../kmip/credential.js'
import { native, type KmipConnection, type KmipConnector } from '../../native/load.js'
import type { KmsServerAddress } from '../../store/store.js'
import type { Deadline } from './deadline.js'
import type { AcceptedCertificates } from './server-trust.js'
import type { KeyProviderTiming } from './timing.js'

/** Whom to trust, and who we are. */
export interface ServerIdentity {
  readonly accepted: AcceptedCertificates
  /** PEM. */
  readonly certificate: string
  readonly privateKeyFile: string
  readonly credential?: KmipCredential
}

/** The server does not prove to be the one that is trusted, or does not speak TLS that is good enough. */
export class DistrustError extends Error {
  constructor(readonly reason: VmsealError) {
    super(reason.message)
  }
}

export class Dialer {
  readonly #address: KmsServerAddress
  readonly #identity: ServerIdentity
  readonly #timing: KeyProviderTiming
  #connector: KmipConnector | undefined

  constructor(address: KmsServerAddress, identity: ServerIdentity, timing: KeyProviderTiming) {
    this.#address = address
    this.#identity = identity
    this.#timing = timing
  }

  /**
   * An open connection to the trusted server, on which nothing was sent. With TLS 1.3 nobody knows yet whether the
   * server accepts our certificate. Rejects with DistrustError, VMSEAL_KMIP_CONNECTION, VMSEAL_KMIP_TIMEOUT or
   * VMSEAL_CERTIFICATE_INVALID.
   */
  async dial(deadline: Deadline): Promise<KmipConnection> {
    const connection = await this.#open(deadline)
    const { keyHashes } = this.#identity.accepted
    const { keyHash, subject } = native.describeCertificate(connection.serverCertificate)
    if (keyHashes.length === 0 || keyHashes.includes(keyHash)) return connection
    connection.close()
    const text = `the server now shows another certificate (${subject}, key ${keyHash}) than was trusted`
    throw new DistrustError(new VmsealError('VMSEAL_KMIP_TLS', text))
  }

  /** A client on the connection: the first messages. VMSEAL_KMIP_TLS if the server does not accept our certificate. */
  greet(connection: KmipConnection, deadline: Deadline): Promise<KmipClient> {
    const { credential } = this.#identity
    const greeting = KmipClient.over(connection, credential ? { credential } : {})
    return deadline
      .race(greeting, 'the first message', (late) => late.close())
      .catch((error: unknown) => {
        connection.close()
        throw error
      })
  }

  async #open(deadline: Deadline): Promise<KmipConnection> {
    try {
      this.#connector ??= this.#prepare()
      const opening = this.#connector.connect()
      return await deadline.race(opening, 'connecting', (late) => late.close())
    } catch (error) {
      throw isVmsealError(error, 'VMSEAL_KMIP_TLS') ? new DistrustError(error) : error
    }
  }

  /** Reads the key once; sessions are resumed between the connections of one connector. */
  #prepare(): KmipConnector {
    const { accepted, certificate, privateKeyFile } = this.#identity
    if (accepted.authorities === '')
      throw new VmsealError(
        'VMSEAL_CERTIFICATE_INVALID',
        'no certificate of this server is trusted yet: fetch it, look at it, and trust it',
      )
    if (certificate === '')
      throw new VmsealError(
        'VMSEAL_CERTIFICATE_INVALID',
        'there is no client certificate yet: generate or upload one, and make it known to the KMS',
      )
    return native.KmipConnector.create({
      ...this.#address,
      caCertificates: accepted.authorities,
      certificate,
      privateKeyFile,
      connectTimeoutMs: this.#timing.connectTimeoutMs,
      requestTimeoutMs: this.#timing.requestTimeoutMs,
    })
  }
}
