#!/usr/bin/env node
// prebuildify calls this in the place of node-gyp. Whatever it asks for, there is one addon (Node-API): the release build,
// made by set-up when it is missing or stale. prebuildify moves away what it finds, so it gets a copy in a folder of its
// own: processes that run from this clone keep the addon that they load.
import { copyFileSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { root, setUp } from './setup.mjs'

setUp()
mkdirSync('build/Release', { recursive: true })
copyFileSync(join(root, 'build/Release/vmseal.node'), 'build/Release/vmseal.node')
