/** Names and numbers that both ends of a network conversation agree on. */
import { object, text, type Shape } from './shapes.js'

export const rpcPath = '/vmseal'
export const joinPath = '/vmseal/join'
/** Of a version of `rpcPath`: `POST` of a request for a signing request, and of the certificate made of it. */
export const certificatePath = 'certificate'
/** What this release speaks, newest last. The client takes the newest that both know. */
export const rpcVersions: readonly number[] = [1]
/** Instance of the host that a request is meant for. */
export const instanceHeader = 'vmseal-instance'
/** Which asker sends: a host takes nothing new from one that another has followed, and answers 410. */
export const askerHeader = 'vmseal-asker'
/** Ids of requests whose answers have arrived. */
export const receivedHeader = 'vmseal-received'
/** A host that works shows every so often that it lives, in milliseconds. */
export const beatMs = 2000
export const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

/** The name in a host's certificate: it is the host id that is vouched for, wherever the host is reached. */
export function hostCertificateName(hostId: string): string {
  return `${hostId}.host.vmseal`
}

export interface HostAddress {
  readonly host: string
  readonly port: number
}

export const isErrorMessage: Shape = object({
  code: text(200),
  message: text(100_000),
  details: (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
})
