#!/usr/bin/env node
// prebuildify calls this in the place of node-gyp. Whatever it asks for, there is one addon (Node-API): the release build,
// made by set-up when it is missing or stale.
import { setUp } from './setup.mjs'

setUp()
