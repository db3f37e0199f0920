// The same tests, over hosts that are reached by HTTPS with mutual TLS.
import { useNetwork } from '../site.js'

useNetwork()
await import('../live-migration.spec.js')
