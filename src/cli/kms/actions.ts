/** What a serving KMS does on its owner's order. Arguments and results are JSON. */
import { join } from 'node:path'
import type { Kms } from '../../kms/kms.js'
import type { KmsOperationName } from '../../kms/permissions.js'
import { readPassphrase } from '../arguments.js'
import { leavesCoreDumps } from '../core-dumps.js'

type Operations = readonly KmsOperationName[]

export const kmsActions = {
  status: (kms: Kms, { directory }: { directory: string }) => ({
    directory,
    processId: process.pid,
    endpoint: kms.endpoint,
    caCertificateFile: join(directory, 'ca.pem'),
    clients: kms.clients.length,
    coreDumps: leavesCoreDumps(),
  }),

  enrol: async (kms: Kms, { name, directory }: { name: string; directory?: string }) => {
    const { privateKeyFile } = await kms.enrol(name, directory === undefined ? {} : { directory })
    return {
      name,
      certificateFile: privateKeyFile.replace(/\.key$/, '.pem'),
      privateKeyFile,
      caCertificateFile: join(privateKeyFile, '..', 'ca.pem'),
    }
  },

  sign: async (kms: Kms, { name, request }: { name: string; request: string }) => ({
    name,
    ...(await kms.enrolRequest(name, request)),
  }),

  pin: async (kms: Kms, { name, certificate }: { name: string; certificate: string }) => {
    await kms.pin(name, certificate)
    return { name }
  },

  trustAuthority: async (
    kms: Kms,
    rule: { certificate: string; commonNames?: readonly string[]; operations?: Operations },
  ) => ({ keyHash: await kms.trustAuthority(rule.certificate, rule) }),

  distrustAuthority: (kms: Kms, { keyHash }: { keyHash: string }) => {
    kms.distrustAuthority(keyHash)
    return { keyHash }
  },

  clients: (kms: Kms) => ({
    clients: kms.clients.map((client) => ({
      ...client,
      enrolledAt: client.enrolledAt.toISOString(),
      certificates: client.certificates.map((certificate) => ({
        ...certificate,
        expires: certificate.expires?.toISOString(),
      })),
    })),
    authorities: kms.authorities.map((authority) => ({
      ...authority,
      expires: authority.expires.toISOString(),
      trustedAt: authority.trustedAt.toISOString(),
    })),
    grants: kms.grants,
  }),

  enable: (kms: Kms, { name }: { name: string }) => {
    kms.enable(name)
    return { name, enabled: true }
  },

  disable: (kms: Kms, { name }: { name: string }) => {
    kms.disable(name)
    return { name, enabled: false }
  },

  /** Without operations: all of them again. */
  allow: (kms: Kms, { name, operations }: { name: string; operations?: Operations }) => {
    kms.allow(name, operations)
    return { name, operations: operations ?? ('all' as const) }
  },

  grant: (kms: Kms, { keyId, name, operations }: { keyId: string; name: string; operations: Operations }) => {
    kms.grant(keyId, name, operations)
    return { keyId, name, operations }
  },

  revokeGrant: (kms: Kms, { keyId, name }: { keyId: string; name: string }) => {
    kms.revokeGrant(keyId, name)
    return { keyId, name }
  },

  backup: async (kms: Kms, { file, passphraseFile }: { file: string; passphraseFile?: string }) => {
    await kms.backup(file, passphraseFile === undefined ? undefined : readPassphrase(passphraseFile))
    return { file, sealedBy: passphraseFile === undefined ? 'root key' : 'passphrase' }
  },

  verify: (kms: Kms) => kms.verify(),

  verifyAudit: (kms: Kms) => kms.verifyAudit(),

  rotateRootKey: async (kms: Kms) => {
    await kms.rotateRootKey()
    return { rotated: true }
  },
} as const

export type KmsActions = typeof kmsActions
