// A source's text as a reader wants it: paragraphs that an editor wrapped flow again, and each character keeps its place.

const OWN_LINE = /^(?:\s|[-*+#>|]|\d{1,9}[.)]\s|`{3}|~{3}|[^:.]{1,40}: )/; // lists, headings, quotes, tables, code, records
const NARROWEST = 50;
const WIDEST = 130;

/** The text with the breaks of wrapped paragraphs as spaces. */
export function flowing(text) {
  const lines = text.split("\n");
  const joined = [];
  let start = 0;
  for (let end = 1; end <= lines.length; end++) {
    if (end < lines.length && lines[end].trim() && !OWN_LINE.test(lines[end])) continue;
    if (wrapped(lines.slice(start, end))) for (let at = start + 1; at < end; at++) joined[at] = true;
    start = end;
  }
  return lines.reduce((before, line, at) => before + (joined[at] ? " " : "\n") + line);
}

/** Whether no line but the last had room for the next one's first word: somebody ran out of room, and meant no break. */
function wrapped(lines) {
  const width = Math.max(...lines.map((line) => line.length));
  return width >= NARROWEST && width <= WIDEST
    && lines.slice(1).every((line, at) => lines[at].length + 1 + line.split(" ", 1)[0].length > width);
}
