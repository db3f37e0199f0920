// npm run setup:peers: installs the programs of other people that tests compare with (Debian, as root).
import { fail, run } from './setup.mjs'

/** Debian package: what it is the peer for. */
const packages = {
  'qemu-utils': 'VMDK, qcow2 and raw images',
  'python3-pykmip': 'KMIP server and client',
  dosfstools: 'the file system of the demonstration disk',
  jose: 'JWE envelopes',
  'cryptsetup-bin': 'LUKS headers',
  strace: 'system calls that fail, and processes killed at them',
  gdb: 'core dumps of a running process',
  openssl: 'TLS handshakes',
  valgrind: 'branches and addresses that depend on keys',
}

if (process.platform !== 'linux' || process.getuid?.() !== 0)
  fail(`Run this as root on Debian, or install by hand: ${Object.keys(packages).join(' ')}`)
run('apt-get', ['update', '-q'])
run('apt-get', ['install', '-y', '-q', '--no-install-recommends', ...Object.keys(packages)], {
  env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
})
