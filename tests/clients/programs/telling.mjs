// What telling.py is for the programs in Python, for those on node.

import { readFileSync } from "node:fs";

const named = (error) => {
  const names = [];
  for (let kind = error.constructor; kind?.name; kind = Object.getPrototypeOf(kind)) names.push(kind.name);
  return names;
};

export async function tell(ways) {
  const outcomes = [];
  for (const { way, target, given } of JSON.parse(readFileSync(0, "utf8"))) {
    try {
      outcomes.push({ returned: await ways[way](target, given) });
    } catch (error) {
      outcomes.push({ raised: named(error), status: error.status ?? error.status_code ?? null, says: error.message });
    }
  }
  process.stdout.write(JSON.stringify(outcomes));
}
