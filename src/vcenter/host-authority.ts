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
  readonly validity: Validity
  /** End of the CA's certificate. */
  readonly caEnd: number
}

/** In milliseconds since 1970. */
interface Validity {
  readonly notBefore: number
  readonly notAfter: number
}

/** Of every certificate, unless that of the CA ends earlier. */
const lifetimeMs = 825 * 24 * 60 * 60 * 1000

export class HostAuthority {
  readonly #directory: string
  readonly #table: HostAuthorityTable
  #opened: Promise<Opened> | undefined

  constructor(directory: string, table: HostAuthorityTable) {
    this.#directory = directory
    this.#table = table
  }

  /** What vCenter shows its hosts. */
  async credentials(): Promise<LinkCredentials> {
    return this.#current()
  }

  /** A certificate for the key of a signing request, bound to the host's id, and what goes with it. */
  async grant(hostId: string, request: string): Promise<JoinGrant> {
    const { caCertificate, keyHash } = await this.#current()
    const names = [hostCertificateName(hostId)]
    const certificate = native.signServerRequest(
      caCertificate,
      this.#path('ca.key'),
      request,
      names,
      endOfNew(),
    )
    return { caCertificate, certificate, vcenterKeyHash: keyHash }
  }

  /** Whether a certificate is to be renewed: a third of its time is left, and another one would last longer. */
  async isDue(validity: Validity): Promise<boolean> {
    return isDue(validity, (await this.#current()).caEnd)
  }

  /** The public key that a host gets next: it may show it from now on. Undefined: none. */
  async setNextKey(hostId: string, keyHash: string | undefined): Promise<void> {
    await this.#table.set(`next ${hostId}`, keyHash ?? '')
  }

  async nextKey(hostId: string): Promise<string | undefined> {
    return (await this.#table.get(`next ${hostId}`)) || undefined
  }

  /** Certificates for this key count no more, though they are signed and in time. */
  async withdraw(keyHash: string): Promise<void> {
    await this.#table.set(`withdrawn ${keyHash}`, new Date().toISOString())
  }

  async isWithdrawn(keyHash: string): Promise<boolean> {
    return (await this.#table.get(`withdrawn ${keyHash}`)) !== undefined
  }

  /** With another certificate, for the same key, when the one that is there gets old: hosts know vCenter by its key. */
  async #current(): Promise<Opened> {
    this.#opened ??= this.#open()
    const { validity, caEnd } = await this.#opened
    if (isDue(validity, caEnd)) this.#opened = this.#open()
    return this.#opened
  }

  async #open(): Promise<Opened> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 })
    const caCertificate = await this.#pem('authority', 'ca.key', () =>
      native.createAuthority('vmseal vCenter CA', this.#path('ca.key')),
    )
    const request = await this.#pem('request', 'vcenter.key', () =>
      native.createCertificateRequest('vcenter', this.#path('vcenter.key')),
    )
    const caEnd = validityOf(caCertificate).notAfter
    let certificate = (await this.#table.get('certificate')) ?? ''
    if (certificate === '' || isDue(validityOf(certificate), caEnd)) {
      const key = this.#path('ca.key')
      certificate = native.signCertificateRequest(caCertificate, key, request, 'vcenter', endOfNew())
      await this.#table.set('certificate', certificate)
    }
    const { keyHash } = native.describeCertificate(certificate)
    const validity = validityOf(certificate)
    const privateKeyFile = this.#path('vcenter.key')
    return { caCertificate, certificate, privateKeyFile, keyHash, validity, caEnd }
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

function validityOf(certificate: string): Validity {
  const { notBefore, notAfter } = native.describeCertificate(certificate)
  return { notBefore: notBefore * 1000, notAfter: notAfter * 1000 }
}

function isDue({ notBefore, notAfter }: Validity, caEnd: number): boolean {
  return notAfter < caEnd && notAfter - Date.now() < (notAfter - notBefore) / 3
}

/** Seconds since 1970. */
function endOfNew(): number {
  return Math.floor((Date.now() + lifetimeMs) / 1000)
}
