/** Recover (KMIP 1.4, section 4.23). */
import { operationOnObject } from './operation-on-object.js'

export const recover = operationOnObject('Recover')
