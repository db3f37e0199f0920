import { createHash } from 'node:crypto'

/** The id of a host that is given none: a UUID of version 8 (RFC 9562 section 5.8) from SHA-256 of its name. */
export function hostIdOf(name: string): string {
  const bytes = createHash('sha256').update('vmseal host ').update(name).digest().subarray(0, 16)
  bytes[6] = ((bytes[6] as number) & 0x0f) | 0x80
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
