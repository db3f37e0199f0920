/**
 * vCenter's own CA, for its hosts and itself: nobody else has a certificate of it. Private keys are made natively and lie in
 * 0600 files; certificates are in the store. It is made when the first host joins.
 */
import { mkdir, rm } from 'node:fs/promises'
import path from 'node:path'
import { native } from '../native/load.js'
import type { JoinGrant } from '../rpc/join-token.js'
import type { LinkCredentials } from '../rpc/tls-identity.js'
import { hostCertificateName } from '../rpc/wire.js'
import type { HostAuthorityTable } from '../store/store.js'

interface Opened extends LinkCredentials {
  /** Hex SHA-256 of vCenter's public key: what hosts know it by. */
  readonly keyHash: string
}

/** vCenter's certificate is renewed, for the same key, when less than this is left. */
const renewalMs = 275 * 24 * 60 * 60 * 1000

export class HostAuthority {
  readonly #directory: string
  readonly #table: HostAuthorityTable
  #opened: Promise<Opened> | undefined

  constructor(directory: string, table: HostAuthorityTable) {
    this.#directory = directory
    this.#table = table
  }

  /** What vCenter shows its hosts. */
  credentials(): Promise<LinkCredentials> {
    this.#opened ??= this.#open()
    return this.#opened
  }

  /** A certificate for the key of a signing request, bound to the host's id, and what goes with it. */
  async grant(hostId: string, request: string): Promise<JoinGrant> {
    this.#opened ??= this.#open()
    const { caCertificate, keyHash } = await this.#opened
    const names = [hostCertificateName(hostId)]
    const certificate = native.signServerRequest(caCertificate, this.#path('ca.key'), request, names)
    return { caCertificate, certificate, vcenterKeyHash: keyHash }
  }

  async #open(): Promise<Opened> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 })
    const caCertificate = await this.#pem('authority', 'ca.key', () =>
      native.createAuthority('vmseal vCenter CA', this.#path('ca.key')),
    )
    const request = await this.#pem('request', 'vcenter.key', () =>
      native.createCertificateRequest('vcenter', this.#path('vcenter.key')),
    )
    const sign = (): string =>
      native.signCertificateRequest(caCertificate, this.#path('ca.key'), request, 'vcenter')
    let certificate = (await this.#table.get('certificate')) ?? ''
    if (
      certificate === '' ||
      native.describeCertificate(certificate).notAfter * 1000 - Date.now() < renewalMs
    ) {
      certificate = sign()
      await this.#table.set('certificate', certificate)
    }
    const { keyHash } = native.describeCertificate(certificate)
    return { caCertificate, certificate, privateKeyFile: this.#path('vcenter.key'), keyHash }
  }

  /** Made once. A crash may have left the key without it: nobody has seen such a key, so it is made anew. */
  async #pem(name: 'authority' | 'request', keyFile: string, make: () => string): Promise<string> {
    const known = await this.#table.get(name)
    if (known !== undefined) return known
    await rm(this.#path(keyFile), { force: true })
    const pem = make()
    await this.#table.set(name, pem)
    return pem
  }

  #path(name: string): string {
    return path.join(this.#directory, name)
  }
}
