/** Tables: plain for the terminal, Markdown for the page. Columns of figures are right-aligned. */

type Row = readonly string[]

export function table(head: Row, rows: readonly Row[]): string {
  const columns = head.map((name, column) => {
    const width = Math.max(name.length, ...rows.map((row) => cell(row, column).length))
    return { width, right: holdsFigures(rows, column) }
  })
  const line = (row: Row) =>
    columns
      .map(({ width, right }, column) =>
        right ? cell(row, column).padStart(width) : cell(row, column).padEnd(width),
      )
      .join('  ')
      .trimEnd()
  return [line(head), columns.map(({ width }) => '-'.repeat(width)).join('  '), ...rows.map(line)].join('\n')
}

export function markdownTable(head: Row, rows: readonly Row[]): string {
  const line = (row: Row) => `| ${row.map((one) => one.replaceAll('|', '\\|')).join(' | ')} |`
  const rule = head.map((_, column) => (holdsFigures(rows, column) ? '--:' : '---'))
  return [line(head), line(rule), ...rows.map(line)].join('\n')
}

function holdsFigures(rows: readonly Row[], column: number): boolean {
  return rows.every((row) => /^([-+<>=\d].*)?$/.test(cell(row, column)))
}

function cell(row: Row, column: number): string {
  return row[column] ?? ''
}
