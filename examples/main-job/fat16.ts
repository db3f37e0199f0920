/** Writes a disk image with a FAT16 file system (Microsoft FAT specification 1.03) that holds recognisable text. */
import { open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'

const sectorSize = 512
const sectorsPerCluster = 16
const clusterSize = sectorSize * sectorsPerCluster
const fatCopies = 2
const rootEntries = 512
const reservedSectors = 1
const endOfChain = 0xffff

/** The words that a search of a plain image finds and a search of an encrypted one must not. */
export const marker = 'VMSEAL DEMONSTRATION RECORD'

/** Makes `path`, `bytes` long (a multiple of 8 KiB, 32 MiB to 256 MiB), with `files` text files of `fileBytes` each. */
export async function writeFat16Image(
  path: string,
  { bytes, files, fileBytes }: { bytes: number; files: number; fileBytes: number },
): Promise<void> {
  const layout = layOut(bytes)
  const image = await open(path, 'wx', 0o600)
  try {
    await image.truncate(bytes)
    const table = Buffer.alloc(layout.fatSectors * sectorSize)
    table.writeUInt16LE(0xfff8, 0)
    table.writeUInt16LE(endOfChain, 2)
    const directory = Buffer.alloc(rootEntries * 32)
    writeEntry(directory, 0, { name: 'VMSEAL     ', attributes: 0x08, firstCluster: 0, length: 0 })

    let nextCluster = 2
    for (let index = 0; index < files; index += 1) {
      const name = `REC${String(index).padStart(5, '0')}TXT`
      writeEntry(directory, index + 1, {
        name,
        attributes: 0x20,
        firstCluster: nextCluster,
        length: fileBytes,
      })
      const clusters = Math.ceil(fileBytes / clusterSize)
      for (let cluster = nextCluster; cluster < nextCluster + clusters; cluster += 1)
        table.writeUInt16LE(cluster === nextCluster + clusters - 1 ? endOfChain : cluster + 1, cluster * 2)
      await image.write(
        text(index, fileBytes),
        0,
        fileBytes,
        layout.dataStart + (nextCluster - 2) * clusterSize,
      )
      nextCluster += clusters
    }
    await writeMetadata(image, layout, table, directory)
    await image.sync()
  } finally {
    await image.close()
  }
}

interface Layout {
  readonly totalSectors: number
  readonly fatSectors: number
  readonly rootStart: number
  readonly dataStart: number
}

function layOut(bytes: number): Layout {
  const totalSectors = bytes / sectorSize
  const fatSectors = Math.ceil(((totalSectors / sectorsPerCluster + 2) * 2) / sectorSize)
  const rootStart = (reservedSectors + fatCopies * fatSectors) * sectorSize
  return { totalSectors, fatSectors, rootStart, dataStart: rootStart + rootEntries * 32 }
}

async function writeMetadata(
  image: FileHandle,
  layout: Layout,
  table: Buffer,
  directory: Buffer,
): Promise<void> {
  await image.write(bootSector(layout), 0, sectorSize, 0)
  for (let copy = 0; copy < fatCopies; copy += 1)
    await image.write(table, 0, table.length, (reservedSectors + copy * layout.fatSectors) * sectorSize)
  await image.write(directory, 0, directory.length, layout.rootStart)
}

function bootSector({ totalSectors, fatSectors }: Layout): Buffer {
  const sector = Buffer.alloc(sectorSize)
  sector.set([0xeb, 0x3c, 0x90])
  sector.write('MSWIN4.1', 3, 'latin1')
  sector.writeUInt16LE(sectorSize, 11)
  sector.writeUInt8(sectorsPerCluster, 13)
  sector.writeUInt16LE(reservedSectors, 14)
  sector.writeUInt8(fatCopies, 16)
  sector.writeUInt16LE(rootEntries, 17)
  sector.writeUInt16LE(totalSectors < 0x1_0000 ? totalSectors : 0, 19)
  sector.writeUInt8(0xf8, 21)
  sector.writeUInt16LE(fatSectors, 22)
  sector.writeUInt16LE(63, 24)
  sector.writeUInt16LE(16, 26)
  sector.writeUInt32LE(totalSectors < 0x1_0000 ? 0 : totalSectors, 32)
  sector.writeUInt8(0x80, 36)
  sector.writeUInt8(0x29, 38)
  sector.writeUInt32LE(0x5345_414c, 39)
  sector.write('VMSEAL     FAT16   ', 43, 'latin1')
  sector.set([0x55, 0xaa], 510)
  return sector
}

function writeEntry(
  directory: Buffer,
  index: number,
  entry: { name: string; attributes: number; firstCluster: number; length: number },
): void {
  const at = index * 32
  const date2026 = ((2026 - 1980) << 9) | (1 << 5) | 1
  directory.write(entry.name, at, 11, 'latin1')
  directory.writeUInt8(entry.attributes, at + 11)
  directory.writeUInt16LE(date2026, at + 24)
  directory.writeUInt16LE(entry.firstCluster, at + 26)
  directory.writeUInt32LE(entry.length, at + 28)
}

/** Numbered lines, so that every sector differs and a reader sees what it is. */
function text(file: number, bytes: number): Buffer {
  const lines: string[] = []
  for (let length = 0, line = 0; length < bytes; line += 1) {
    const words = `${marker} file ${file} line ${line}: the disk of a virtual machine, readable by anyone\n`
    lines.push(words)
    length += words.length
  }
  return Buffer.from(lines.join(''), 'latin1').subarray(0, bytes)
}
