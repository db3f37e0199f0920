/** Activate (KMIP 1.4, section 4.19). */
import { operationOnObject } from './operation-on-object.js'

export const activate = operationOnObject('Activate')
