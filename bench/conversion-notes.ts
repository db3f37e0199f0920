/** What the figures of conversion do not say by themselves; kept beside the code that it is about. */
export const conversionNotes = `## What the misses are made of

- **Copy over, and in place without journal**: one run takes about a tenth of a second, so where the scheduler puts the two threads
  decides much, and a single \`dd\` process has no such choice to make. On this machine the pipeline with the cipher off is itself
  slower than \`dd\`, so the cipher is not the first thing to improve. An earlier run found 0.81, 0.56 and 0.71. Not tried yet: putting
  each thread on a processor of its own when it starts.
- **In place with journal**: every byte is read once and written twice (journal, place), and \`cryptsetup\` with its journal does the
  same, so on a disk both wait for the same writes. On tmpfs, where barriers are free, the profile of ours is a third SHA-256 of the
  journal (it tells a torn journal without a key, and the HMAC over it a forged one), a quarter copying to and from the page cache. An
  earlier run on a machine at rest found 1.8 times on tmpfs. Not tried yet: larger zones than 8 MiB, direct I/O in place.
- **To a new file**: our time includes the fsync of data and folder; \`qemu-img convert\` leaves its result in the page cache, and its
  header was made before its time began. On a disk that writes less than a gigabyte a second the fsync is most of ours. Not tried yet:
  the same comparison on tmpfs.
- **Direct I/O**: the cipher costs nothing there. But a cold disk goes faster through the page cache, whose read-ahead and write-back
  overlap, the final sync included. So direct I/O is chosen only for disks of half the memory and more, which would push out what the
  rest of the host has cached.
- **Memory** is one buffer per thread for a copy, two zones in place: it does not depend on the disk.
`
