/** What a host keeps in its directory: who it is, and which vCenter it belongs to. One file, replaced as a whole. */
import { randomUUID } from 'node:crypto'
import { chmod, mkdir, readdir } from 'node:fs/promises'
import path from 'node:path'
import { createSecureContext } from 'node:tls'
import { VmsealError, isVmsealError } from '../errors.js'
import { readSmallFile, removeFile, replaceFile } from '../host/durable-file.js'
import { native } from '../native/load.js'
import type { JoinGrant } from '../rpc/join-token.js'
import { matching, object, optional, text } from '../rpc/shapes.js'
import { readCertificate, withTlsOptions } from '../rpc/tls-identity.js'
import { hostCertificateName, uuidPattern } from '../rpc/wire.js'

const stateFile = 'host.json'
const stateLimit = 128 * 1024

export interface Membership extends JoinGrant {
  /** File name of the private key in the directory. */
  readonly keyFile: string
  /** ISO 8601, UTC. */
  readonly joinedAt: string
}

interface State {
  readonly version: 1
  readonly hostId: string
  readonly membership?: Membership
}

const isState = object({
  version: (value) => value === 1,
  hostId: matching(uuidPattern),
  membership: optional(
    object({
      keyFile: matching(/^host-[0-9a-f-]{36}\.key$/),
      joinedAt: text(),
      caCertificate: text(16 * 1024),
      certificate: text(16 * 1024),
      vcenterKeyHash: matching(/^[0-9a-f]{64}$/),
    }),
  ),
})

export class Trust {
  readonly #directory: string
  #state: State

  /** Makes what is missing. VMSEAL_STORE_INVALID if the file is damaged. */
  static async open(directory: string): Promise<Trust> {
    await mkdir(directory, { recursive: true, mode: 0o700 })
    await chmod(directory, 0o700)
    const file = path.join(directory, stateFile)
    const state = await read(file)
    if (state) return new Trust(directory, state)
    const fresh: State = { version: 1, hostId: randomUUID() }
    await replaceFile(file, JSON.stringify(fresh))
    return new Trust(directory, fresh)
  }

  private constructor(directory: string, state: State) {
    this.#directory = directory
    this.#state = state
  }

  get hostId(): string {
    return this.#state.hostId
  }

  get membership(): Membership | undefined {
    return this.#state.membership
  }

  keyPath(keyFile: string): string {
    return path.join(this.#directory, keyFile)
  }

  /** A key for a membership to come, and its signing request. Keys of earlier attempts are removed. */
  async newRequest(): Promise<{ keyFile: string; request: string }> {
    await this.#removeKeysBut(this.membership?.keyFile)
    const keyFile = `host-${randomUUID()}.key`
    return { keyFile, request: native.createCertificateRequest(this.hostId, this.keyPath(keyFile)) }
  }

  /** The key and self-signed certificate that a join token names; never used again after a start. */
  async newJoinIdentity(): Promise<{ certificate: string; privateKeyFile: string; keyHash: string }> {
    const privateKeyFile = this.keyPath(`join-${randomUUID()}.key`)
    for (const name of await readdir(this.#directory))
      if (/^join-[0-9a-f-]{36}\.key$/.test(name)) await removeFile(this.keyPath(name))
    const certificate = native.createSelfSignedClient('vmseal host that waits to join', privateKeyFile)
    return { certificate, privateKeyFile, keyHash: native.describeCertificate(certificate).keyHash }
  }

  /** VMSEAL_CERTIFICATE_INVALID unless the certificate is for our key and id, under the CA that comes with it. */
  async join(grant: JoinGrant, keyFile: string): Promise<void> {
    this.#require(grant, keyFile)
    await this.#save({
      ...this.#state,
      membership: { ...grant, keyFile, joinedAt: new Date().toISOString() },
    })
  }

  /** Another certificate and key under the same CA, for the same vCenter. The old key goes. VMSEAL_CERTIFICATE_INVALID. */
  async renew(certificate: string, keyFile: string): Promise<void> {
    const { membership } = this.#state
    if (!membership) throw new VmsealError('VMSEAL_INVALID_STATE', 'the host belongs to no vCenter')
    const { caCertificate, vcenterKeyHash } = membership
    this.#require({ caCertificate, certificate, vcenterKeyHash }, keyFile)
    if (native.describeCertificate(certificate).notAfter * 1000 <= Date.now())
      throw new VmsealError('VMSEAL_CERTIFICATE_INVALID', 'vCenter gave a certificate that has expired')
    await this.#save({ ...this.#state, membership: { ...membership, certificate, keyFile } })
    await this.#removeKeysBut(keyFile)
  }

  #require(grant: JoinGrant, keyFile: string): void {
    const ca = readCertificate(grant.caCertificate)
    const certificate = readCertificate(grant.certificate)
    const sound =
      ca.ca &&
      certificate.checkIssued(ca) &&
      certificate.verify(ca.publicKey) &&
      certificate.checkHost(hostCertificateName(this.hostId)) !== undefined
    if (!sound)
      throw new VmsealError(
        'VMSEAL_CERTIFICATE_INVALID',
        'vCenter gave a certificate that is not for this host, or not of the CA that it gave',
      )
    // Fails if the certificate is for another key.
    withTlsOptions({ ...grant, privateKeyFile: this.keyPath(keyFile) }, createSecureContext)
  }

  /** Forgets the vCenter; the id stays. */
  async leave(): Promise<void> {
    const { version, hostId } = this.#state
    await this.#save({ version, hostId })
    await this.#removeKeysBut(undefined)
  }

  async #save(state: State): Promise<void> {
    await replaceFile(path.join(this.#directory, stateFile), JSON.stringify(state))
    this.#state = state
  }

  async #removeKeysBut(kept: string | undefined): Promise<void> {
    for (const name of await readdir(this.#directory))
      if (/^host-[0-9a-f-]{36}\.key$/.test(name) && name !== kept) await removeFile(this.keyPath(name))
  }
}

async function read(file: string): Promise<State | undefined> {
  let content: string
  try {
    content = (await readSmallFile(file, stateLimit, file, 'VMSEAL_STORE_INVALID')).toString('utf8')
  } catch (error) {
    if (isVmsealError(error, 'VMSEAL_NOT_FOUND')) return undefined
    throw error
  }
  try {
    const state: unknown = JSON.parse(content)
    if (isState(state)) return state as State
  } catch {
    // Told below.
  }
  throw new VmsealError(
    'VMSEAL_STORE_INVALID',
    `${file} is damaged or of a newer version. Without it the host has to join again: move it away`,
    { details: { subject: file } },
  )
}
