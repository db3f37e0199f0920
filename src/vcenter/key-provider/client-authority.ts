/** vCenter's own authority for its client certificates: a KMS that trusts it lets in every certificate it issues. */
import { VmsealError } from '../../errors.js'
import { native } from '../../native/load.js'
import type { CredentialFiles } from './credential-files.js'

/** Holds the certificate and the name of its key file: written at once, so that they always belong together. */
const recordName = 'authority.json'

interface AuthorityRecord {
  readonly certificate: string
  readonly privateKeyFile: string
}

export class ClientAuthority {
  readonly #files: CredentialFiles
  #opening: Promise<AuthorityRecord> | undefined

  constructor(files: CredentialFiles) {
    this.#files = files
  }

  /** PEM. VMSEAL_STORE_INVALID if what stands in the directory is damaged. */
  async certificate(): Promise<string> {
    return (await this.#open()).certificate
  }

  /** A new client key and its certificate (PEM); returns the name of the key file. */
  async issue(commonName: string): Promise<{ pem: string; name: string }> {
    const { certificate, privateKeyFile } = await this.#open()
    return this.#files.make((file) =>
      native.issueClientCertificate(certificate, this.#files.path(privateKeyFile), commonName, file),
    )
  }

  /** Once at a time: two authorities would each lose the other. */
  #open(): Promise<AuthorityRecord> {
    this.#opening ??= this.#readOrMake().catch((error: unknown) => {
      this.#opening = undefined
      throw error
    })
    return this.#opening
  }

  async #readOrMake(): Promise<AuthorityRecord> {
    const text = await this.#files.read(recordName)
    if (text !== undefined) return parse(text)
    const { pem, name } = await this.#files.make((file) =>
      native.createAuthority('vmseal vCenter authority', file),
    )
    const record = { certificate: pem, privateKeyFile: name }
    await this.#files.replace(recordName, JSON.stringify(record))
    return record
  }
}

function parse(text: string): AuthorityRecord {
  try {
    const { certificate, privateKeyFile } = JSON.parse(text) as Record<string, unknown>
    if (
      typeof certificate === 'string' &&
      typeof privateKeyFile === 'string' &&
      /^[0-9a-f-]+\.key$/.test(privateKeyFile)
    ) {
      native.describeCertificate(certificate)
      return { certificate, privateKeyFile }
    }
  } catch (cause) {
    throw damaged(cause)
  }
  throw damaged()
}

function damaged(cause?: unknown): VmsealError {
  const text = `${recordName} among the credentials of vCenter is damaged: restore it, or remove it and let the KMS trust the new authority`
  return new VmsealError('VMSEAL_STORE_INVALID', text, { cause, details: { subject: recordName } })
}
