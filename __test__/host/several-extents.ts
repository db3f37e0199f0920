/** Makes the disk of a VM one of several extents, as other programs leave them; vmseal makes none. */
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

/** Splits `<stem>-flat.vmdk` of a plain disk of an even number of sectors into two halves. */
export async function splitExtent(folder: string, stem: string): Promise<void> {
  const [flat, file] = [join(folder, `${stem}-flat.vmdk`), join(folder, `${stem}.vmdk`)]
  const data = await readFile(flat)
  const half = data.length / 2
  await writeFile(join(folder, `${stem}-f001.vmdk`), data.subarray(0, half))
  await writeFile(join(folder, `${stem}-f002.vmdk`), data.subarray(half))
  await rm(flat)
  const descriptor = await readFile(file, 'utf8')
  const [line] = /^RW \d+ FLAT .*$/m.exec(descriptor) ?? []
  if (line === undefined) throw new Error(`${file} names no extent`)
  const extents = [1, 2].map((number) => `RW ${half / 512} FLAT "${stem}-f00${number}.vmdk" 0`)
  await writeFile(file, descriptor.replace(line, extents.join('\n')))
}
