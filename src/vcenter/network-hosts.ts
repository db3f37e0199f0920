/** The hosts that are reached over a network: how they join, and who keeps the link to each of them. */
import type { HostApi } from '../rpc/host-api.js'
import { HttpsHost, type LinkTiming } from '../rpc/https-host.js'
import { joinHost } from '../rpc/join-client.js'
import type { JoinOffer } from '../rpc/join-server.js'
import { readJoinToken } from '../rpc/join-token.js'
import { findJoinedHost } from '../rpc/joined-host.js'
import type { HostAddress } from '../rpc/wire.js'
import { VmsealError, isVmsealError } from '../errors.js'
import { native } from '../native/load.js'
import type { HostLinkRecord } from '../store/store.js'
import type { HostAuthority } from './host-authority.js'
import { HostCertificates, type RenewedCertificate } from './host-certificates.js'
import type { HostConnection } from './host-connections.js'
import { HostLink } from './host-link.js'
import type { HostSync } from './host-sync.js'
import type { Services } from './services.js'

/** A host agent that waits to join, and the token that it showed. */
export interface JoiningHost {
  readonly address: HostAddress
  readonly token: string
}

/** A host that has certificates of this vCenter. */
export interface JoinedHost {
  readonly api: HostApi
  /** Call it when the host is in the store. */
  readonly keep: () => Promise<void>
  /** Call it when the host is up to date: from then on the link is watched. */
  readonly watch: (connection: HostConnection) => void
  /** Call it instead if that failed. A host that is in the store is tried again. */
  readonly giveUp: (clusterId: string) => void
}

export class NetworkHosts {
  readonly #services: () => Services
  readonly #authority: HostAuthority
  readonly #timing: Partial<LinkTiming>
  readonly #links = new Map<string, HostLink>()
  #closed = false

  constructor(services: () => Services, authority: HostAuthority, timing: Partial<LinkTiming> = {}) {
    this.#services = services
    this.#authority = authority
    this.#timing = timing
  }

  /** Takes up the links of an earlier run; hosts that do not answer yet are tried until they do. */
  async start(): Promise<void> {
    const links = await this.#services().store.hostLinks.list()
    if (links.length === 0) return
    const clusters = new Map(
      (await this.#services().store.hosts.list()).map((host) => [host.id, host.clusterId]),
    )
    for (const record of links) {
      const clusterId = clusters.get(record.hostId)
      if (clusterId !== undefined && !this.#closed)
        this.#watch(record, await this.#connect(record)).begin(clusterId)
    }
  }

  /**
   * Joins a host by its token. `check` may refuse it before the token is spent. A host that has joined already, because the
   * answer was lost or vCenter ended in the middle, is found again by its certificate.
   */
  async join(
    { address, token }: JoiningHost,
    check: (offer: Pick<JoinOffer, 'hostId' | 'name'>) => Promise<void>,
  ): Promise<JoinedHost> {
    requireAddress(address)
    const record = await this.#join({ host: address.host, port: address.port }, token, check)
    const host = await this.#connect(record)
    let kept = false
    return {
      api: host.api,
      keep: async () => {
        await this.#services().store.hostLinks.save(record)
        kept = true
      },
      watch: (connection) => this.#watch(record, host).continue(connection),
      giveUp: (clusterId) => {
        if (kept) this.#watch(record, host).begin(clusterId)
        else host.close()
      },
    }
  }

  /** Tries a host that is away at once; undefined if it is not reached over a network. */
  async reconnect(hostId: string): Promise<HostSync | undefined> {
    return this.#links.get(hostId)?.synchronise()
  }

  /**
   * Gives a host another key and certificate, also when its present one has expired: then it is brought up to date. Undefined
   * if it is not reached over a network.
   */
  async renewCertificate(hostId: string): Promise<RenewedCertificate | undefined> {
    const link = this.#links.get(hostId)
    const renewed = await link?.certificates.renew({ expiredToo: true })
    await link?.synchronise()
    return renewed
  }

  /** Whether a host works on something that an earlier vCenter began; one that cannot be asked may. */
  async isWorking(hostId: string): Promise<boolean> {
    const link = this.#links.get(hostId)
    return link !== undefined && link.isWorking()
  }

  /** Ends the link to a host that is removed: its certificate counts no more. */
  async forget(hostId: string): Promise<void> {
    const link = this.#links.get(hostId)
    this.#links.delete(hostId)
    await link?.close()
    const record = (await this.#services().store.hostLinks.list()).find((known) => known.hostId === hostId)
    if (!record) return
    const next = await this.#authority.nextKey(hostId)
    for (const keyHash of [record.keyHash, next]) if (keyHash) await this.#authority.withdraw(keyHash)
    await this.#authority.setNextKey(hostId, undefined)
  }

  async close(): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#links.values()].map((link) => link.close()))
  }

  async #join(
    address: HostAddress,
    token: string,
    check: (offer: Pick<JoinOffer, 'hostId' | 'name'>) => Promise<void>,
  ): Promise<HostLinkRecord> {
    // What is no token is refused here, and not taken for one that was used.
    readJoinToken(token)
    let certificate = ''
    try {
      const { hostId } = await joinHost(address, token, async (offer) => {
        await this.#refuseKnown(offer)
        await check(offer)
        const grant = await this.#authority.grant(offer.hostId, offer.request)
        certificate = grant.certificate
        return grant
      })
      return { hostId, ...address, keyHash: native.describeCertificate(certificate).keyHash }
    } catch (error) {
      if (!isVmsealError(error) || !mayHaveJoined(error)) throw error
      const found = await findJoinedHost(address, await this.#authority.credentials())
      if (!found) throw error
      if (await this.#authority.isWithdrawn(found.keyHash))
        throw new VmsealError(
          'VMSEAL_HOST_NOT_TRUSTED',
          `the host at ${address.host}:${address.port} shows a certificate of this vCenter that counts no more: it was removed. On the host: vmseal host leave, then join with the new token`,
        )
      await this.#refuseKnown({ hostId: found.hostId, name: `${address.host}:${address.port}` })
      return { ...found, ...address }
    }
  }

  /** Somebody may claim to be a host that is here already: then it is removed first, or it is not him. */
  async #refuseKnown({ hostId, name }: Pick<JoinOffer, 'hostId' | 'name'>): Promise<void> {
    const links = await this.#services().store.hostLinks.list()
    if (links.some((link) => link.hostId === hostId))
      throw new VmsealError(
        'VMSEAL_ALREADY_EXISTS',
        `host ${name} has joined this vCenter before (id ${hostId}). Remove it first if it is to join again`,
        { details: { subject: name } },
      )
  }

  async #connect({ hostId, keyHash, host, port }: HostLinkRecord): Promise<HttpsHost> {
    const credentials = await this.#authority.credentials()
    const link = new HttpsHost({
      address: { host, port },
      hostId,
      keyHash,
      credentials,
      timing: this.#timing,
    })
    const next = await this.#authority.nextKey(hostId)
    if (next !== undefined) link.accept([keyHash, next])
    return link
  }

  #watch(record: HostLinkRecord, host: HttpsHost): HostLink {
    const { hostId } = record
    const certificates = new HostCertificates(this.#services(), this.#authority, host, record)
    const link = new HostLink(this.#services(), host, hostId, certificates)
    this.#links.set(hostId, link)
    return link
  }
}

/** The host shows its new certificate, not the token's key: it joined somebody, perhaps us. */
function mayHaveJoined(error: VmsealError): boolean {
  return ['VMSEAL_HOST_NOT_TRUSTED', 'VMSEAL_JOIN_REFUSED', 'VMSEAL_HOST_UNREACHABLE'].includes(error.code)
}

function requireAddress(address: unknown): void {
  const { host, port } = (address ?? {}) as Partial<Record<keyof HostAddress, unknown>>
  if (typeof host === 'string' && /^[^\s/\\]{1,255}$/.test(host) && Number.isInteger(port))
    if ((port as number) > 0 && (port as number) < 65_536) return
  throw new VmsealError('VMSEAL_INVALID_ARGUMENT', 'address must be { host, port } of the host agent')
}
