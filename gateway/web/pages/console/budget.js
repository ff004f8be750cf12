// The memory of each device: who holds it now, and who held it over the last minutes.

import { bytes, html, seconds, useMemo } from "./ui.js";

const WIDTH = 600;
const HEIGHT = 64;
const COLOURS = 8;

export function Budget({ state }) {
  if (!state.devices.length) return null;
  return html`<section class="budgets" aria-label="Device memory">${state.devices.map((device) => html`<${Device} key=${device.device} device=${device} held=${state.held} now=${state.now} />`)}</section>`;
}

/** Of one device: [{at, models: {name: bytes}, others}], the last one as it is now. */
function series(held, name) {
  return held
    .map((sample) => ({ at: sample.at, ...(sample.devices.find((each) => each.device === name) ?? { models: {}, others: 0 }) }))
    .map((sample) => ({ at: sample.at, parts: { ...sample.models, ...(sample.others ? { "all others": sample.others } : {}) } }));
}

/** Every name that appears, the largest first, each with a colour that it keeps. */
function legend(points) {
  const most = new Map();
  for (const { parts } of points) for (const [name, size] of Object.entries(parts)) most.set(name, Math.max(size, most.get(name) ?? 0));
  const names = [...most.keys()].filter((name) => name !== "all others").sort((a, b) => most.get(b) - most.get(a) || (a < b ? -1 : 1));
  return [...names.map((name, index) => [name, index < COLOURS ? `c${index + 1}` : "c0"]), ...(most.has("all others") ? [["all others", "c0"]] : [])];
}

function Device({ device, held, now }) {
  const points = useMemo(() => series(held, device.device), [held, device.device]);
  const names = useMemo(() => legend(points), [points]);
  const current = points.at(-1)?.parts ?? {};
  const shown = names.filter(([name]) => current[name]);
  const share = device.budget ? Math.round((100 * device.used) / device.budget) : 0;
  return html`<figure class="card budget">
    <figcaption><strong>${device.device}</strong><span class="number">${bytes(device.used)} <span class="muted">of ${bytes(device.budget)}</span></span><span class="muted small number">${share}%${
      device.host_used ? ` · ${bytes(device.host_used)} parked in host memory` : ""
    }${device.up ? "" : " · its host is down"}</span></figcaption>
    <div class="bar" role="img" aria-label=${described(device, shown, current)}>${shown.map(
      ([name, colour]) => html`<span key=${name} class=${colour} title=${`${name}: ${bytes(current[name])}`} style=${{ width: `${(100 * current[name]) / Math.max(device.budget, device.used, 1)}%` }}></span>`,
    )}</div>
    <${History} points=${points} names=${names} budget=${device.budget} now=${now} />
    <ul class="legend">${shown.slice(0, 6).map(([name, colour]) => html`<li key=${name}><i class=${colour} aria-hidden="true"></i><span>${name}</span> <span class="muted number">${bytes(current[name])}</span></li>`)}${
      shown.length > 6 && html`<li class="muted">and ${shown.length - 6} more</li>`
    }${shown.length === 0 && html`<li class="muted">No model is loaded.</li>`}</ul>
  </figure>`;
}

function described(device, shown, current) {
  const parts = shown.map(([name]) => `${name} ${bytes(current[name])}`).join(", ");
  return `${device.device}: ${bytes(device.used)} of ${bytes(device.budget)} in use${parts ? `: ${parts}` : ""}`;
}

/** Steps, stacked. Scaled to what was held, not to the budget: a small model on a large device is seen too. */
function History({ points, names, budget, now }) {
  const drawn = useMemo(() => draw(points, names, now), [points, names, Math.floor(now / 5)]);
  if (!drawn) return null;
  return html`<div class="history"><svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label=${`Memory over the last ${seconds(drawn.span)}: at most ${bytes(drawn.most)} of ${bytes(budget)}`}>${
    drawn.shapes.map(([name, colour, path]) => html`<path key=${name} class=${colour} d=${path}><title>${name}</title></path>`)
  }</svg><div class="axis small muted"><span>${seconds(drawn.span)} ago</span><span class="number">most: ${bytes(drawn.most)}</span><span>now</span></div></div>`;
}

function draw(points, names, now) {
  if (!points.some(({ parts }) => Object.keys(parts).length)) return null;
  const start = points[0].at;
  const end = Math.max(now, points.at(-1).at);
  const span = Math.max(1, end - start);
  const most = Math.max(1, ...points.map(({ parts }) => Object.values(parts).reduce((sum, size) => sum + size, 0)));
  const x = (at) => ((at - start) / span) * WIDTH;
  const y = (size) => HEIGHT - (size / most) * (HEIGHT - 2);
  const floor = points.map(() => 0);
  const shapes = [];
  for (const [name, colour] of names) {
    const top = points.map(({ parts }, index) => floor[index] + (parts[name] ?? 0));
    const upper = steps(points, top, end, x, y);
    const lower = steps(points, floor, end, x, y).reverse();
    shapes.push([name, colour, `M${[...upper, ...lower].map((pair) => pair.map((value) => value.toFixed(1)).join(",")).join("L")}Z`]);
    floor.splice(0, floor.length, ...top);
  }
  return { shapes, span, most };
}

/** What was held stays held until the next sample. */
function steps(points, sizes, end, x, y) {
  return points.flatMap(({ at }, index) => [[x(at), y(sizes[index])], [x(points[index + 1]?.at ?? end), y(sizes[index])]]);
}
