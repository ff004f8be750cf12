// The gateway counts characters as code points; JavaScript counts UTF-16 units. Offsets are brought over here.

/** The places in `text` of these counts of code points, which ascend. */
export function places(text, ...counts) {
  const found = [];
  let unit = 0, point = 0;
  for (const count of counts) {
    for (; point < count && unit < text.length; point++) unit += text.codePointAt(unit) > 0xffff ? 2 : 1;
    found.push(unit);
  }
  return found;
}

/** `text` cut at these counts of code points: one part more than there are counts. */
export function parts(text, ...counts) {
  const cuts = [0, ...places(text, ...counts), text.length];
  return cuts.slice(1).map((cut, number) => text.slice(cuts[number], cut));
}

export function count(text) {
  let found = 0;
  for (let unit = 0; unit < text.length; found++) unit += text.codePointAt(unit) > 0xffff ? 2 : 1;
  return found;
}
