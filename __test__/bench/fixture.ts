/** A small whole report, made here: two kernels, one peer, one Node. */
import type { Report, SectorResult, Spread } from '../../bench/report.js'

export function spread(median: number): Spread {
  return { median, q1: median * 0.99, q3: median * 1.01, rounds: 9 }
}

/** `peerRatio`: how many times as fast vmseal is as the peer. */
export function exampleReport({ peerRatio = 2.2, cpu = 'Example CPU' } = {}): Report {
  const figures = (implementation: string, gbps: number, ours: number | null) =>
    [512, 4096].flatMap((sectorSize) =>
      [sectorSize, 65536, 1048576].flatMap((callBytes) =>
        (['encrypt', 'decrypt'] as const).flatMap((operation) =>
          [1, 2].map((threads): SectorResult => ({
            implementation,
            sectorSize,
            callBytes,
            threads,
            operation,
            inPlace: true,
            gbps: spread(gbps * threads),
            share: spread(gbps / 16),
            limit: spread(16 * threads),
            memory: null,
            ours: ours === null ? null : spread(ours),
          })),
        ),
      ),
    )
  return {
    schema: 1,
    date: '2026-11-24T04:00:00.000Z',
    quick: false,
    machine: { cpu, flags: ['aes', 'vaes'], cpus: 2, memoryGiB: 24, kernel: 'Linux 6.18.0' },
    load: { before: 0.1, after: 1.2 },
    versions: { vmseal: '0.1.0', commit: '0123456789ab', rustc: 'rustc 1.95.0' },
    native: {
      host: { node: '20.20.2', openssl: '3.0.19' },
      clockGhz: spread(3.7),
      limits: [{ width: 'zmm', threads: 1, gbps: spread(16.9) }],
      memory: [{ traffic: 'copy', bytes: 65536, threads: 1, gbps: spread(46) }],
      implementations: [
        { name: 'vmseal vaes512', version: '0.1.0', callPath: 'Xts::encrypt', peer: false },
        { name: 'vmseal aesni', version: '0.1.0', callPath: 'Xts::encrypt', peer: false },
        { name: 'OpenSSL (system)', version: 'OpenSSL 3.0.19', callPath: 'EVP_CipherUpdate', peer: true },
      ],
      absent: [{ name: 'ISA-L crypto', reason: 'not on this machine' }],
      sectors: [
        ...figures('vmseal vaes512', 15.6, null),
        ...figures('vmseal aesni', 7.8, 2),
        ...figures('OpenSSL (system)', 15.6 / peerRatio, peerRatio),
      ],
      keyWrap: [
        { implementation: 'vmseal', operation: 'wrap', batch: 1, nsPerKey: spread(700), ours: null },
        { implementation: 'AWS-LC', operation: 'wrap', batch: 1, nsPerKey: spread(350), ours: spread(0.5) },
      ],
    },
    javascript: [
      {
        node: '20.20.2',
        openssl: '3.0.19',
        kernel: 'vaes512',
        xts: [
          {
            sectorSize: 4096,
            callBytes: 4096,
            operation: 'encrypt',
            gbps: spread(9),
            nsPerCall: spread(455),
            native: { gbps: spread(10), share: spread(0.9) },
            peers: [{ name: 'node:crypto, KeyObject', figure: spread(1), ours: spread(9) }],
          },
        ],
        keyWrap: [
          {
            operation: 'wrap',
            batch: 32,
            nsPerKey: spread(100),
            peers: [
              { name: 'node:crypto id-aes256-wrap, KeyObject', figure: spread(9000), ours: spread(90) },
            ],
          },
        ],
        eventLoop: {
          bytes: 2 ** 30,
          calls: 10,
          gbps: 25,
          samples: 400,
          p50Ms: 1.1,
          p99Ms: 1.9,
          maxMs: 3,
          idleP99Ms: 1.2,
        },
      },
    ],
    conversion: {
      bytes: 2 ** 30,
      sectorSize: 512,
      ways: [
        { name: 'vmseal encryptDisk, durable when done', gbps: spread(1), ours: null },
        { name: 'cp, left in the page cache', gbps: spread(2), ours: spread(0.5) },
      ],
    },
  }
}
