/** Keys as the command line names them. */
import type { CryptoKeyId } from '../../errors.js'

export const keyNameHelp = 'ID at the default key provider, or PROVIDER/ID'

/** `ID`, which is of the default provider, or `PROVIDER/ID`. */
export function keyName(text: string): string | CryptoKeyId {
  const at = text.indexOf('/')
  return at < 0 ? text : { providerId: text.slice(0, at), keyId: text.slice(at + 1) }
}
