/** What lies on a datastore, by file. */
import { createHash } from 'node:crypto'
import { readFile, readdir } from 'node:fs/promises'
import path from 'node:path'

/** SHA-256 of every file by its name in `folder`, but for the log. */
export async function fingerprints(folder: string): Promise<Record<string, string>> {
  const result: Record<string, string> = {}
  for (const [name, bytes] of await filesOf(folder))
    if (!name.endsWith('.log')) result[name] = createHash('sha256').update(bytes).digest('hex')
  return result
}

/** Names of the files that hold `text`. */
export async function filesWith(folder: string, text: string): Promise<string[]> {
  return (await filesOf(folder)).filter(([, bytes]) => bytes.includes(text)).map(([name]) => name)
}

async function filesOf(folder: string): Promise<[string, Buffer][]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const files = entries
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath, entry.name))
  return Promise.all(
    files
      .toSorted()
      .map(async (file) => [path.relative(folder, file), await readFile(file)] as [string, Buffer]),
  )
}
