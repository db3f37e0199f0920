/** Builds the native half (bench/native) and runs it inside a Node, whose OpenSSL becomes one of the peers. */
import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { root } from './machine.js'
import type { NodeProgram } from './peer-node.js'
import { parseNative, type NativeResults, type Part } from './report.js'

const KiB = 1024
const MiB = 1024 * KiB

/** `library`: what `buildNative` gave. */
export function measureNative(
  library: string,
  host: NodeProgram,
  quick: boolean,
  only: readonly Part[],
): NativeResults {
  const output = join(tmpdir(), `vmseal-bench-${process.pid}.json`)
  const request = {
    output,
    rounds: quick ? 3 : 15,
    spanMs: quick ? 1 : 3,
    callBytes: quick ? [4 * KiB, 64 * KiB, MiB] : [4 * KiB, 64 * KiB, MiB, 64 * MiB, 512 * MiB],
    xts: only.includes('xts'),
    keyWrap: only.includes('key-wrap'),
  }
  const script = `process.dlopen({ exports: {} }, ${JSON.stringify(library)})`
  const { status, signal } = spawnSync(host.path, ['-e', script], {
    stdio: ['ignore', 2, 2],
    env: { ...process.env, VMSEAL_BENCH_REQUEST: JSON.stringify(request) },
  })
  if (status !== 0) throw new Error(`the native part ended with ${signal ?? `status ${status}`}`)
  const found = parseNative(readFileSync(output, 'utf8'), { node: host.version, openssl: host.openssl })
  rmSync(output)
  return found
}

/** Gives the path of the library. AWS-LC needs a C compiler; without it that peer is left out, and the report says so. */
export function buildNative(): string {
  const target = join(root, 'target/bench')
  const argv = ['build', '--release', '--quiet', '--target-dir', target]
  const manifest = ['--manifest-path', join(root, 'bench/native/Cargo.toml')]
  const build = (...features: string[]) =>
    spawnSync('cargo', [...argv, ...manifest, ...features], { cwd: root, stdio: ['ignore', 2, 2] }).status ===
    0
  process.stderr.write('building the native part (AWS-LC takes some minutes the first time) ...\n')
  if (!build('--features', 'aws-lc')) {
    process.stderr.write('AWS-LC could not be built: going on without this peer\n')
    if (!build()) throw new Error('the native part could not be built')
  }
  const extension = process.platform === 'darwin' ? 'dylib' : 'so'
  return join(target, 'release', `libvmseal_bench.${extension}`)
}
