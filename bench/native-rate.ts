/** Our own native rate inside this process, for JavaScript to be compared with in the same rounds. */

/** Ciphers in place as often as `calls` says, with 1 or 0 for `encrypts`. */
type NativeCipher = (data: Uint8Array, sectorSize: number, encrypts: 0 | 1, calls: number) => void

/** `library`: the native half, an addon when it has no request. */
export function loadNative(library: string): NativeCipher {
  const addon: { exports: { cipher?: NativeCipher } } = { exports: {} }
  process.dlopen(addon, library)
  if (addon.exports.cipher === undefined) throw new Error(`${library} has no cipher`)
  return addon.exports.cipher
}
