/** `node --import=tsx xts-cases-child.ts COUNT`: that many random cases, shared among the kernels of this CPU. */
import { compareWithOpenssl, kernels } from './xts-cases.js'

const supported = kernels.filter((kernel) => compareWithOpenssl(kernel, 1) === 1)
const each = Math.ceil(Number(process.argv[2]) / supported.length)
const turn = 10_000
for (const kernel of supported) {
  const begin = Date.now()
  for (let done = 0; done < each;) {
    done += compareWithOpenssl(kernel, Math.min(turn, each - done))
    const left = ((Date.now() - begin) / done) * (each - done)
    process.stderr.write(
      `\r${kernel}: ${done} of ${each} cases equal OpenSSL, ${Math.round(left / 1000)} s left  `,
    )
  }
  process.stderr.write('\n')
}
