/** Archive (KMIP 1.4, section 4.22). */
import { operationOnObject } from './operation-on-object.js'

export const archive = operationOnObject('Archive')
