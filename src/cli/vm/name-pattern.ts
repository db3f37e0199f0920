/** Names as the command line looks for them: a part of the name in any case, or with `*` the whole of it. */

/** The longest piece that every such name has, for the search of the inventory; undefined: there is none. */
export function searchedPart(text: string): string | undefined {
  const piece = text.split('*').toSorted((a, b) => b.length - a.length)[0]
  return piece === '' ? undefined : piece
}

/** Without backtracking over the pieces: a pattern of many stars is no trap. */
export function isNamed(text: string): (name: string) => boolean {
  if (!text.includes('*')) return () => true
  const [first = '', ...rest] = text.toLowerCase().split('*')
  const last = rest.pop() ?? ''
  return (name) => {
    const given = name.toLowerCase()
    if (!given.startsWith(first) || !given.endsWith(last) || given.length < first.length + last.length)
      return false
    let at = first.length
    const end = given.length - last.length
    for (const piece of rest) {
      const found = given.indexOf(piece, at)
      if (found < 0 || found + piece.length > end) return false
      at = found + piece.length
    }
    return true
  }
}
