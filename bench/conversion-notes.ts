/** What the figures of conversion do not say by themselves; kept beside the code that it is about. */
export const conversionNotes = `## What the figures are made of

What was tried and why it stops there: [decisions.md](decisions.md), "Where the time of a conversion goes".

- **Copy over, and in place without journal**: one run takes less than a tenth of a second and needs both processors, while \`dd\` needs
  one. The rounds in which nothing else runs on the host give 0.83 to 0.85 against the cipher off ("Highest" of both), the research for this
  project found the same; medians of groups of 31 to 201 rounds gave 0.76 to 0.83 on one day. The cipher is at the limit of the AES units
  in either case, so it is the copying beside it that changes.
- **The writes alone** are the same writes, and barriers where there are any, from memory: nothing is read, encrypted or hashed. No program that writes
  the same bytes in the same order is faster. **One stream of as many bytes** is twice the disk, for a journal holds every byte once, written over files
  that are there, with two syncs in all and no order otherwise: what the disk takes. A target beyond both cannot be met on this machine.
- **In place with journal**: every byte is written twice, for \`cryptsetup\` with its journal too, and the journal is hashed. On
  tmpfs, where barriers are free, moving bytes into 4 KiB pages takes most of the time of either side.
- **To a new file**: \`qemu-img convert\` does not sync, so there are two comparisons: neither side syncs, and both do. The header of the
  LUKS file is made before the time of \`qemu-img\` begins. A new file needs new pages, and what those cost on a virtual machine
  changes tenfold from minute to minute: compare within a round only.
- **Direct I/O**: the cipher costs nothing there. But a cold disk goes faster through the page cache, whose read-ahead and write-back
  overlap, the final sync included. So direct I/O is chosen only for disks of half the memory and more, which would push out what the
  rest of the host has cached.
- **Memory** is one buffer per thread for a copy, two zones of 16 MiB in place: it does not depend on the disk.
`
