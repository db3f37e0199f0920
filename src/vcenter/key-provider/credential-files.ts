/** The private keys and passwords with which vCenter shows a KMS who it is: 0600 files; keys are read by the addon only. */
import { randomUUID } from 'node:crypto'
import { chmod, constants, copyFile, mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { VmsealError } from '../../errors.js'
import { native } from '../../native/load.js'

export class CredentialFiles {
  readonly #directory: string

  constructor(directory: string) {
    this.#directory = directory
  }

  /** The path of a file by its name. */
  path(name: string): string {
    return path.join(this.#directory, name)
  }

  /** Takes a copy of a key file; returns its name here. VMSEAL_CERTIFICATE_INVALID if there is no such file. */
  async copy(source: string): Promise<string> {
    const name = await this.#freeName()
    const target = this.path(name)
    try {
      await copyFile(source, target, constants.COPYFILE_EXCL)
      await chmod(target, 0o600)
      await this.#flush(target)
    } catch (cause) {
      await rm(target, { force: true })
      throw new VmsealError('VMSEAL_CERTIFICATE_INVALID', `cannot copy the private key file ${source}`, {
        cause,
        details: { subject: source },
      })
    }
    return name
  }

  /** A key that `make` writes to the path it is given; returns what `make` does, and the file's name. */
  async make(make: (file: string) => string): Promise<{ pem: string; name: string }> {
    const name = await this.#freeName()
    const pem = make(this.path(name))
    await this.#flush(this.path(name))
    return { pem, name }
  }

  /** Keeps a password; returns the file's name. */
  async writePassword(password: string): Promise<string> {
    const name = await this.#freeName('password')
    await writeFile(this.path(name), password, { mode: 0o600, flag: 'wx' })
    await this.#flush(this.path(name))
    return name
  }

  /** VMSEAL_STORE_INVALID if it is lost. */
  async readPassword(name: string): Promise<string> {
    try {
      return await readFile(this.path(name), 'utf8')
    } catch (cause) {
      throw new VmsealError(
        'VMSEAL_STORE_INVALID',
        'the password of the key provider is lost: set it again',
        {
          cause,
        },
      )
    }
  }

  /** `undefined` if there is no such file. */
  async read(name: string): Promise<string | undefined> {
    try {
      return await readFile(this.path(name), 'utf8')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error
    }
  }

  /** Writes a file as a whole, 0600, or leaves what was there. */
  async replace(name: string, text: string): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 })
    const temporary = this.path(`${randomUUID()}.part`)
    await writeFile(temporary, text, { mode: 0o600, flag: 'wx' })
    await this.#flush(temporary)
    await rename(temporary, this.path(name))
    await this.#flush(this.path(name))
  }

  async remove(name: string): Promise<void> {
    if (name !== '') await rm(this.path(name), { force: true })
  }

  /** VMSEAL_CERTIFICATE_INVALID unless the certificate is of the key in the file. */
  requirePair(certificate: string, name: string): void {
    native.KmipConnector.create({
      host: 'localhost',
      port: 1,
      caCertificates: certificate,
      certificate,
      privateKeyFile: this.path(name),
    })
  }

  async #freeName(kind: 'key' | 'password' = 'key'): Promise<string> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 })
    return `${randomUUID()}.${kind}`
  }

  async #flush(file: string): Promise<void> {
    for (const place of [file, this.#directory]) {
      const handle = await open(place, 'r')
      try {
        await handle.sync()
      } finally {
        await handle.close()
      }
    }
  }
}
