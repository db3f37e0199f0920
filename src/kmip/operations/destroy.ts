/** Destroy (KMIP 1.4, section 4.21). */
import { operationOnObject } from './operation-on-object.js'

export const destroy = operationOnObject('Destroy')
