/**
 * The certificate of one host, renewed while it is good. The host gets another key each time. What it may show next is on
 * record before the host can show it, so that a link that breaks, or a kill, in between leaves nobody locked out.
 */
import { native } from '../native/load.js'
import { renewHostCertificate } from '../rpc/certificate-client.js'
import type { HttpsHost } from '../rpc/https-host.js'
import { VmsealError, isVmsealError } from '../errors.js'
import type { HostLinkRecord } from '../store/store.js'
import type { HostAuthority } from './host-authority.js'
import type { Services } from './services.js'

export interface RenewedCertificate {
  readonly host: string
  /** ISO 8601, UTC. */
  readonly expires: string
}

/** After a renewal that failed. */
const tryAgainMs = 60 * 60 * 1000

export class HostCertificates {
  readonly #services: Services
  readonly #authority: HostAuthority
  readonly #host: HttpsHost
  #record: HostLinkRecord
  /** One renewal at a time: each makes the key of an earlier one void. */
  #last: Promise<unknown> = Promise.resolve()
  #quietUntil = 0

  constructor(services: Services, authority: HostAuthority, host: HttpsHost, record: HostLinkRecord) {
    this.#services = services
    this.#authority = authority
    this.#host = host
    this.#record = record
  }

  /** After the host was talked to: takes note of what it shows, and renews what gets old. A failure is an event. */
  async look(): Promise<void> {
    const { shown } = this.#host
    if (!shown) return
    const next = await this.#authority.nextKey(this.#record.hostId)
    if (shown.keyHash === next) await this.#settle(next)
    if (Date.now() < this.#quietUntil) return
    try {
      // vCenter's own may have been renewed.
      this.#host.use(await this.#authority.credentials())
      if (await this.#authority.isDue(shown)) await this.renew({ expiredToo: false })
    } catch (error) {
      this.#quietUntil = Date.now() + tryAgainMs
      await this.#services.events.append('vmseal.host.certificate.RenewalFailed', {
        host: await this.#name(),
        expires: new Date(shown.notAfter).toISOString(),
        error: isVmsealError(error) ? error.code : 'VMSEAL_INTERNAL',
        message: error instanceof Error ? error.message : String(error),
      })
    }
  }

  /**
   * Gives the host another key and certificate. `expiredToo`: also when its present one is too old; it is known by its key all
   * the same. VMSEAL_HOST_UNREACHABLE, VMSEAL_HOST_NOT_TRUSTED, VMSEAL_HOST_CERTIFICATE_EXPIRED.
   */
  renew({ expiredToo }: { readonly expiredToo: boolean }): Promise<RenewedCertificate> {
    const renewal = this.#last.then(() => this.#renew(expiredToo))
    this.#last = renewal.catch(() => {})
    return renewal
  }

  async #renew(expiredToo: boolean): Promise<RenewedCertificate> {
    const { hostId, host, port } = this.#record
    const credentials = await this.#authority.credentials()
    const peer = { address: { host, port }, hostId, keyHashes: this.#host.keyHashes, credentials, expiredToo }
    let certificate = ''
    await renewHostCertificate(peer, async (request, shown) => {
      // It took an earlier one into use, and the answer was lost.
      if (shown !== this.#record.keyHash) await this.#settle(shown)
      certificate = (await this.#authority.grant(hostId, request)).certificate
      const { keyHash } = native.describeCertificate(certificate)
      await this.#authority.setNextKey(hostId, keyHash)
      this.#host.accept([this.#record.keyHash, keyHash])
      return certificate
    })
    const { keyHash, notAfter } = native.describeCertificate(certificate)
    await this.#settle(keyHash)
    this.#quietUntil = 0
    const renewed = { host: await this.#name(), expires: new Date(notAfter * 1000).toISOString() }
    await this.#services.events.append('vmseal.host.certificate.Renewed', renewed)
    return renewed
  }

  /** The host shows this key: no other one counts any more. */
  async #settle(keyHash: string): Promise<void> {
    const { hostId, keyHash: former } = this.#record
    if (!(await this.#services.store.hostLinks.list()).some((link) => link.hostId === hostId))
      throw new VmsealError('VMSEAL_NOT_FOUND', 'the host was removed meanwhile')
    this.#record = { ...this.#record, keyHash }
    await this.#services.store.hostLinks.save(this.#record)
    await this.#authority.setNextKey(hostId, undefined)
    if (former !== keyHash) await this.#authority.withdraw(former)
    this.#host.accept([keyHash])
  }

  async #name(): Promise<string> {
    const { hostId } = this.#record
    return (await this.#services.store.hosts.list()).find(({ id }) => id === hostId)?.name ?? hostId
  }
}
