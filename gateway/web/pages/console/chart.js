// Lines over steps or over time: in the colours of the theme, as wide as there is room, and told in words too.

import uPlot from "uplot";
import { useTheme } from "./theming.js";
import { html, useEffect, useMemo, useRef, useState } from "./ui.js";

/** `series` are {label, x, y, color, dots, fill}; `color` is the number of a token such as --c1. `time`: x in Unix
 *  seconds. `format` words a value, `x` the name of what runs along the bottom. */
export function Chart({ title, series, format = short, x = "step", time = false, height = 180, floor = null, empty = "Nothing yet" }) {
  const [at, point] = useState(null);
  const place = useRef(null);
  const theme = useTheme();
  const table = useMemo(() => aligned(series), [series]);
  const plot = useRef(null);
  const shape = series.map((each) => `${each.label}${each.color}${each.dots}${each.fill}`).join("|");
  const has = table[0].length > 0;
  useEffect(() => {
    const box = place.current; // the reference is taken back before an effect is
    if (!has || !box) return undefined;
    const options = drawn(series, { place: box, time, height, format, floor, point });
    const made = (plot.current = new uPlot(options, table, box));
    const watch = new ResizeObserver(() => box.isConnected && made.setSize({ width: room(box), height }));
    watch.observe(box);
    return () => {
      watch.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape, theme, time, height, has]);
  useEffect(() => {
    plot.current?.setData(table);
  }, [table]);
  const index = at !== null && at < table[0].length ? at : null;
  return html`<figure class="chart"><figcaption><span class="chart-title">${title}</span><${Legend} series=${series} table=${table} index=${index} format=${format} /></figcaption>
    ${has ? html`<div class="plot" ref=${place} aria-hidden="true"></div>` : html`<p class="chart-empty" style=${{ height: `${height}px` }}>${empty}</p>`}
    ${index !== null && html`<p class="chart-at number" aria-hidden="true">${time ? clock(table[0][index]) : `${x} ${short(table[0][index])}`}</p>`}
    <p class="sr">${told(title, series, format, x, time)}</p></figure>`;
}

function Legend({ series, table, index, format }) {
  return html`<span class="legend">${series.map((each, place) => {
    const values = table[place + 1];
    const value = index === null ? last(values) : values[index];
    return html`<span key=${each.label} class="key"><i class=${`c${each.color}`} aria-hidden="true"></i>${each.label} <b class="number">${value === null || value === undefined ? "–" : format(value)}</b></span>`;
  })}</span>`;
}

/** One column of x, and one of y for each series, with null where it has none. */
function aligned(series) {
  const xs = [...new Set(series.flatMap((each) => each.x))].sort((a, b) => a - b);
  const place = new Map(xs.map((value, index) => [value, index]));
  const columns = series.map((each) => {
    const column = new Array(xs.length).fill(null);
    each.x.forEach((value, index) => (column[place.get(value)] = each.y[index]));
    return column;
  });
  return [xs, ...columns];
}

function drawn(series, { place, time, height, format, floor, point }) {
  const style = getComputedStyle(document.documentElement);
  const token = (name) => style.getPropertyValue(name).trim();
  const font = `11px ${token("--font")}`;
  const axis = { stroke: token("--muted"), font, ticks: { show: false }, grid: { stroke: token("--line"), width: 1 }, border: { show: false } };
  const color = (each) => token(`--c${each.color}`);
  return {
    width: room(place),
    height,
    legend: { show: false },
    padding: [8, time ? 26 : 16, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
    scales: { x: { time }, y: { range: (_, low, high) => span(low, high, floor) } },
    axes: [
      { ...axis, size: 26, gap: 6, grid: { show: false }, space: time ? 84 : 50, ...(time ? { values: (_, ticks) => ticks.map(clock) } : {}) },
      { ...axis, size: (_, labels) => Math.max(34, ...(labels ?? []).map((label) => label.length * 7 + 10)), gap: 6, space: 32, values: (_, ticks) => ticks.map(format) },
    ],
    series: [
      {},
      ...series.map((each) => ({
        stroke: color(each),
        width: 1.75,
        spanGaps: !time,
        fill: each.fill ? `${color(each)}22` : undefined,
        points: { show: Boolean(each.dots), size: 6, fill: token("--surface"), stroke: color(each) },
      })),
    ],
    hooks: { setCursor: [(plot) => point(plot.cursor.left >= 0 ? (plot.cursor.idx ?? null) : null)] },
  };
}

/** From zero where that costs little, and with some room above. */
function span(low, high, floor) {
  if (low === null || high === null) return [0, 1];
  if (low === high) return high === 0 ? [0, 1] : [Math.min(0, low), high + Math.abs(high) * 0.2];
  const bottom = floor !== null ? Math.min(floor, low) : low >= 0 && low < (high - low) * 0.5 ? 0 : low - (high - low) * 0.08;
  return [bottom, high + (high - bottom) * 0.08];
}

function room(place) {
  return Math.max(120, Math.floor(place.clientWidth));
}

function last(values) {
  for (let index = values.length - 1; index >= 0; index -= 1) if (values[index] !== null && values[index] !== undefined) return values[index];
  return null;
}

/** What a person who does not see the picture is told. */
function told(title, series, format, x, time) {
  const lines = series.map((each) => {
    const known = each.y.map((value, index) => [each.x[index], value]).filter(([, value]) => value !== null && value !== undefined);
    if (!known.length) return `${each.label}: nothing`;
    const values = known.map(([, value]) => value);
    const [from, to] = [known[0], known[known.length - 1]];
    const where = (value) => (time ? `at ${clock(value)}` : `at ${x} ${short(value)}`);
    return `${each.label}: ${format(from[1])} ${where(from[0])}, ${format(to[1])} ${where(to[0])}, lowest ${format(Math.min(...values))}, highest ${format(Math.max(...values))}`;
  });
  return `${title}. ${lines.join(". ")}.`;
}

export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB");
}

/** A number in few characters: 12k, 3.14, 5e-5. */
export function short(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e9) return value.toExponential(1);
  if (size >= 1e6) return `${trimmed(value / 1e6, 1)}M`;
  if (size >= 1e4) return `${trimmed(value / 1e3, 1)}k`;
  if (size < 1e-3) return value.toExponential(1).replace(".0e", "e");
  return trimmed(value, size >= 100 ? 0 : size >= 1 ? 2 : 4);
}

function trimmed(value, digits) {
  return String(Number(value.toFixed(digits)));
}
