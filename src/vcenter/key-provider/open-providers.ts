/** The providers at work, each opened when it is first needed and made anew when its registration changes. */
import { VmsealError } from '../../errors.js'
import type { KmipCredential } from '../../kmip/credential.js'
import type { KeyProviderRecord, KmsServerAddress, Store } from '../../store/store.js'
import { runAsSystem } from '../authorization/access.js'
import type { EventLog } from '../events.js'
import { tolerateKnown } from '../key-distribution.js'
import { KeyProvider } from '../key-provider.js'
import type { CredentialFiles } from './credential-files.js'
import type { ServerIdentity } from './dialer.js'
import { acceptedCertificates } from './server-trust.js'
import type { KeyProviderTiming } from './timing.js'

export interface OpenProvidersServices {
  readonly store: Store
  readonly events: EventLog
  readonly files: CredentialFiles
  readonly clock: () => Date
  readonly timing: KeyProviderTiming
  /** A server that did not answer does again. */
  readonly onReturn?: () => void
}

export class OpenProviders {
  readonly #services: OpenProvidersServices
  readonly #open = new Map<string, KeyProvider>()
  /** How often each provider was forgotten: what was read before that is not good any more. */
  readonly #generations = new Map<string, number>()

  constructor(services: OpenProvidersServices) {
    this.#services = services
  }

  /** VMSEAL_KEY_PROVIDER_UNREACHABLE if no provider has this id. */
  async open(id: string): Promise<KeyProvider> {
    const { store } = this.#services
    for (;;) {
      const known = this.#open.get(id)
      if (known) return known
      const generation = this.#generations.get(id)
      const record = (await store.keyProviders.list()).find((entry) => entry.id === id)
      if (!record) throw unknown(id)
      const trusted = await store.keyProviderTrust.listServers(id)
      const credential = await this.#credential(id)
      if (this.#open.has(id) || this.#generations.get(id) !== generation) continue
      const provider = this.#make({ record, trusted, credential })
      this.#open.set(id, provider)
      return provider
    }
  }

  /** The next call opens it by its registration as it is then. */
  async forget(id: string): Promise<void> {
    const open = this.#open.get(id)
    this.#open.delete(id)
    this.#generations.set(id, (this.#generations.get(id) ?? 0) + 1)
    await open?.close()
  }

  /** How each server of a provider is reached. */
  async identities(
    record: KeyProviderRecord,
  ): Promise<{ server: KmsServerAddress; identity: ServerIdentity }[]> {
    const { store, files } = this.#services
    const trusted = await store.keyProviderTrust.listServers(record.id)
    const credential = await this.#credential(record.id)
    const { certificate } = record
    const privateKeyFile = files.path(record.privateKeyFile)
    return record.servers.map((server) => ({
      server,
      identity: {
        accepted: acceptedCertificates(record.caCertificate, trusted, server),
        certificate,
        privateKeyFile,
        ...(credential ? { credential } : {}),
      },
    }))
  }

  async close(): Promise<void> {
    await Promise.all([...this.#open.values()].map((provider) => provider.close()))
    this.#open.clear()
  }

  #make(
    known: Pick<ConstructorParameters<typeof KeyProvider>[0], 'record' | 'trusted' | 'credential'>,
  ): KeyProvider {
    const { store, events, files, clock, timing, onReturn } = this.#services
    const { id: providerId, privateKeyFile } = known.record
    let told = false
    return new KeyProvider({
      ...known,
      privateKeyFile: files.path(privateKeyFile),
      creations: store.keyCreations,
      timing,
      clock,
      onReturn: () => {
        onReturn?.()
        if (!told) return
        told = false
        // Nobody waits for it; what cannot be written down is told by the next look at the servers.
        void runAsSystem(() => events.append('vmseal.kms.crypto.Reachable', { providerId })).catch(
          tolerateKnown,
        )
      },
      onUnreachable: (message) => {
        told = true
        return events.append('com.vmware.vc.kms.crypto.Unreachable', { providerId, message })
      },
      onDistrust: (server, message) =>
        events.append('vmseal.kms.crypto.ServerNotTrusted', { providerId, server, message }),
    })
  }

  async #credential(id: string): Promise<KmipCredential | undefined> {
    const { store, files } = this.#services
    const login = await store.keyProviderTrust.getLogin(id)
    return login
      ? { username: login.username, password: await files.readPassword(login.passwordFile) }
      : undefined
  }
}

function unknown(id: string): VmsealError {
  return new VmsealError(
    'VMSEAL_KEY_PROVIDER_UNREACHABLE',
    `there is no key provider '${id}'. Add it under exactly this id`,
    { details: { subject: id } },
  )
}
