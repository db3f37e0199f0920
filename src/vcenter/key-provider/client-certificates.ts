/**
 * How the KMS comes to trust vCenter: a self-signed certificate that the KMS pins, a request that it signs, a pair that
 * it issued, or vCenter's own authority, which the KMS is given. A key that is made here never leaves; until its
 * certificate is installed it is pending, and making another one replaces it.
 */
import { VmsealError } from '../../errors.js'
import { native } from '../../native/load.js'
import type { KeyProviderTrustTable, PendingClientCertificate } from '../../store/store.js'
import { ClientAuthority } from './client-authority.js'
import type { CredentialFiles } from './credential-files.js'
import type { ProviderRegistration } from './registration.js'

export class ClientCertificates {
  readonly #registration: ProviderRegistration
  readonly #table: KeyProviderTrustTable
  readonly #files: CredentialFiles
  readonly #authority: ClientAuthority
  readonly #clock: () => Date

  /** @internal */
  constructor(
    registration: ProviderRegistration,
    table: KeyProviderTrustTable,
    files: CredentialFiles,
    clock: () => Date,
  ) {
    this.#registration = registration
    this.#table = table
    this.#files = files
    this.#authority = new ClientAuthority(files)
    this.#clock = clock
  }

  /** The certificate (PEM) that is shown to the KMS now; `null` before there is one. */
  async get(providerId: string): Promise<string | null> {
    return (await this.#registration.record(providerId)).certificate || null
  }

  /** What was made last and is not in use: a certificate or a request (PEM). Never its key. */
  async getPending(providerId: string): Promise<Pick<PendingClientCertificate, 'kind' | 'pem'> | null> {
    await this.#registration.record(providerId)
    const pending = await this.#table.getPending(providerId)
    return pending && { kind: pending.kind, pem: pending.pem }
  }

  /** A new key and its self-signed certificate (PEM), for the KMS to pin. In use after `useSelfSigned`. */
  generateSelfSigned(providerId: string, options: { commonName?: string } = {}): Promise<string> {
    return this.#generate(providerId, 'self-signed', (file) =>
      native.createSelfSignedClient(options.commonName ?? 'vmseal vCenter', file),
    )
  }

  /** Shows the KMS the certificate of the last `generateSelfSigned` from now on. */
  useSelfSigned(providerId: string): Promise<void> {
    return this.#registration.inTurn(providerId, async () => {
      const pending = await this.#requirePending(providerId, 'self-signed')
      await this.#install(providerId, pending.pem, pending)
    })
  }

  /** A new key and a signing request (PKCS#10, PEM) for the KMS's authority. Goes on with `installSigned`. */
  generateRequest(providerId: string, options: { commonName?: string } = {}): Promise<string> {
    return this.#generate(providerId, 'request', (file) =>
      native.createCertificateRequest(options.commonName ?? 'vmseal vCenter', file),
    )
  }

  /** The answer to the last request. VMSEAL_CERTIFICATE_INVALID if it answers an older one, or another's. */
  installSigned(providerId: string, certificate: string): Promise<void> {
    return this.#registration.inTurn(providerId, async () => {
      const pending = await this.#requirePending(providerId, 'request')
      this.#requireUsable(certificate)
      this.#files.requirePair(certificate, pending.privateKeyFile)
      await this.#install(providerId, certificate, pending)
    })
  }

  /** A pair that the KMS issued. vCenter makes its own copy of the key file, which JavaScript does not read. */
  upload(
    providerId: string,
    pair: { readonly certificate: string; readonly privateKeyFile: string },
  ): Promise<void> {
    return this.#registration.inTurn(providerId, async () => {
      await this.#registration.record(providerId)
      this.#requireUsable(pair.certificate)
      await this.#replace(providerId, pair.certificate, await this.#files.copy(pair.privateKeyFile))
    })
  }

  /** The authority (PEM) of this vCenter's own client certificates, made when it is first asked for: the KMS is to trust it. */
  authority(): Promise<string> {
    return this.#authority.certificate()
  }

  /**
   * A new key and its certificate under `authority()`, shown to the KMS from now on; returns the certificate (PEM). The
   * KMS has to trust the authority first.
   */
  useIssued(providerId: string, options: { commonName?: string } = {}): Promise<string> {
    return this.#registration.inTurn(providerId, async () => {
      await this.#registration.record(providerId)
      const { pem, name } = await this.#authority.issue(options.commonName ?? 'vmseal vCenter')
      await this.#replace(providerId, pem, name)
      return pem
    })
  }

  #generate(
    providerId: string,
    kind: PendingClientCertificate['kind'],
    make: (file: string) => string,
  ): Promise<string> {
    return this.#registration.inTurn(providerId, async () => {
      await this.#registration.record(providerId)
      const replaced = await this.#table.getPending(providerId)
      const { pem, name } = await this.#files.make(make)
      const createdAt = this.#clock().toISOString()
      await this.#table.setPending({ providerId, kind, pem, privateKeyFile: name, createdAt })
      if (replaced) await this.#files.remove(replaced.privateKeyFile)
      return pem
    })
  }

  /** Takes a pair into use; the key file is removed again if the two do not belong together. */
  async #replace(providerId: string, certificate: string, privateKeyFile: string): Promise<void> {
    const record = await this.#registration.record(providerId)
    try {
      this.#files.requirePair(certificate, privateKeyFile)
      await this.#registration.replace({ ...record, certificate, privateKeyFile })
    } catch (error) {
      await this.#files.remove(privateKeyFile)
      throw error
    }
    await this.#files.remove(record.privateKeyFile)
  }

  async #requirePending(
    providerId: string,
    kind: PendingClientCertificate['kind'],
  ): Promise<PendingClientCertificate> {
    await this.#registration.record(providerId)
    const pending = await this.#table.getPending(providerId)
    if (pending?.kind === kind) return pending
    const what = kind === 'request' ? 'certificate request' : 'self-signed certificate'
    throw new VmsealError('VMSEAL_INVALID_STATE', `key provider ${providerId} has no pending ${what}`, {
      details: { subject: providerId },
    })
  }

  async #install(
    providerId: string,
    certificate: string,
    { privateKeyFile }: PendingClientCertificate,
  ): Promise<void> {
    const record = await this.#registration.record(providerId)
    await this.#registration.replace({ ...record, certificate, privateKeyFile })
    await this.#table.clearPending(providerId)
    if (record.privateKeyFile !== privateKeyFile) await this.#files.remove(record.privateKeyFile)
  }

  #requireUsable(certificate: string): void {
    const { subject, notAfter } = native.describeCertificate(certificate)
    if (notAfter * 1000 <= this.#clock().getTime())
      throw new VmsealError('VMSEAL_CERTIFICATE_INVALID', `the certificate of ${subject} has expired`)
  }
}
