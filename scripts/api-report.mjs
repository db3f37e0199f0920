// etc/*.api.md: the public types of each entry point. A difference fails unless --update is given.
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { Extractor, ExtractorConfig, ExtractorLogLevel } from '@microsoft/api-extractor'
import { fail, root } from './setup.mjs'

const entries = { vmseal: 'index.d.ts', 'vmseal-crypto': 'crypto.d.ts', 'vmseal-kmip': 'kmip/index.d.ts' }
const update = process.argv.includes('--update')
mkdirSync(join(root, 'build/api'), { recursive: true })

const stale = Object.entries(entries).filter(([name, entry]) => {
  const config = ExtractorConfig.prepare({
    packageJsonFullPath: join(root, 'package.json'),
    configObjectFullPath: join(root, 'api-extractor.json'),
    configObject: {
      projectFolder: root,
      mainEntryPointFilePath: join(root, 'dist', entry),
      compiler: { tsconfigFilePath: join(root, 'tsconfig.json') },
      apiReport: {
        enabled: true,
        reportFileName: `${name}.api.md`,
        reportFolder: join(root, 'etc'),
        reportTempFolder: join(root, 'build/api'),
      },
      docModel: { enabled: false },
      dtsRollup: { enabled: false },
      tsdocMetadata: { enabled: false },
      messages: {
        extractorMessageReporting: {
          default: { logLevel: ExtractorLogLevel.None },
          'ae-forgotten-export': { logLevel: ExtractorLogLevel.Warning, addToApiReportFile: true },
        },
        tsdocMessageReporting: { default: { logLevel: ExtractorLogLevel.None } },
      },
    },
  })
  const { apiReportChanged } = Extractor.invoke(config, {
    localBuild: update,
    messageCallback: (message) => {
      message.handled = message.logLevel !== ExtractorLogLevel.Error
    },
  })
  return apiReportChanged && !update
})
if (stale.length > 0)
  fail(
    `the public API changed: look at ${stale.map(([name]) => `etc/${name}.api.md`).join(', ')}, then npm run docs`,
  )
