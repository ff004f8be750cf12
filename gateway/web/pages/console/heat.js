// A matrix as a heat map: a canvas to look at and to walk through with the arrow keys, and the same as a table.

import { useEffect, useRef, useState } from "preact/hooks";
import { html } from "./ui.js";
import { hex, useTheme } from "./theming.js";
import { extent, nearest } from "./vectors.js";

const LABELS = 40; // texts that are named beside the map
const CELLS = 40; // texts whose table has every cell; of more it has each one's nearest
const STEPS = 256;
const BIG = 58, NUMBERED = 34, APART = 12; // pixels of a cell: the largest, with its number in it, with gaps between

/** `scale` is "unit" (0 to 1), "fit" (least to largest), or "difference" (as far to both sides). `cell` is [row, column]
 * or null; `onCell` is told where the reader points. */
export function Heat({ matrix, texts, scale, cell, onCell, label }) {
  const canvas = useRef(null), frame = useRef(null);
  const [width, setWidth] = useState(0);
  const theme = useTheme();
  const plan = layout(matrix.size, width);
  useEffect(() => {
    const watcher = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    watcher.observe(frame.current);
    return () => watcher.disconnect();
  }, []);
  useEffect(() => {
    if (width) draw(canvas.current, matrix, texts, scale, cell, plan);
  }, [matrix, texts, scale, cell, width, theme]);
  const point = (event) => {
    const found = at(event, canvas.current, plan, matrix.size);
    if (found?.join() !== cell?.join()) onCell(found);
  };
  return html`<div class="heat" ref=${frame}>
    <canvas ref=${canvas} class="heat-map" tabindex="0" role="img" aria-label=${label} onPointerMove=${point}
      onPointerDown=${point} onKeyDown=${(event) => walk(event, cell, matrix.size, onCell)}
      style=${{ width: `${plan.width}px`, height: `${plan.height}px` }}></canvas>
    <${Legend} matrix=${matrix} scale=${scale} />
  </div>`;
}

function Legend({ matrix, scale }) {
  const [least, most] = range(matrix, scale);
  return html`<div class="heat-legend" aria-hidden="true">
    <span>${signed(least, scale)}</span><${Ramp} scale=${scale} />
    <span>${signed(most, scale)}</span>
  </div>`;
}

/** All the colours, from the least value to the largest. */
function Ramp({ scale }) {
  const canvas = useRef(null), theme = useTheme();
  useEffect(() => {
    const colours = ramp(getComputedStyle(canvas.current).getPropertyValue(scale === "difference" ? "--heat-both" : "--heat-one"));
    const pen = canvas.current.getContext("2d"), picture = pen.createImageData(STEPS, 1);
    colours.forEach((colour, step) => picture.data.set([...colour, 255], 4 * step));
    pen.putImageData(picture, 0, 0);
  }, [scale, theme]);
  return html`<canvas class="heat-ramp" ref=${canvas} width=${STEPS} height="1"></canvas>`;
}

function range(matrix, scale) {
  const [least, most] = extent(matrix);
  if (scale === "difference") {
    const far = Math.max(0.001, -least, most);
    return [-far, far];
  }
  return scale === "fit" && most > least ? [least, most] : [Math.min(0, least), 1];
}

function signed(value, scale, digits = 2) {
  const text = value.toFixed(digits).replace(/^-(0\.0+)$/, "$1");
  return (scale === "difference" && value > 0 ? "+" : "") + text;
}

function layout(size, width) {
  const named = size <= LABELS && width >= 460;
  const left = named ? Math.min(300, Math.floor(width * (size <= 8 ? 0.42 : 0.34))) : size <= LABELS ? 22 : 0;
  const top = size <= LABELS ? 20 : 0;
  const side = Math.max(1, Math.min(BIG, (width - left) / Math.max(1, size)));
  const whole = side > 8 ? Math.floor(side) : side;
  return { named, left, top, side: whole, width: left + whole * size, height: top + whole * size };
}

function draw(canvas, matrix, texts, scale, cell, plan) {
  const density = window.devicePixelRatio || 1, style = getComputedStyle(canvas);
  const colours = ramp(style.getPropertyValue(scale === "difference" ? "--heat-both" : "--heat-one"));
  const [least, most] = range(matrix, scale);
  const colour = (value) => colours[Math.max(0, Math.min(STEPS - 1, Math.round(((value - least) / (most - least)) * (STEPS - 1))))];
  canvas.width = Math.round(plan.width * density);
  canvas.height = Math.round(plan.height * density);
  const pen = canvas.getContext("2d");
  pen.scale(density, density);
  paint(pen, matrix, plan, colour);
  if (plan.side >= NUMBERED) numbers(pen, matrix, plan, colour, scale, style.fontFamily);
  names(pen, texts, plan, style, cell);
  if (cell) outline(pen, cell, plan, style.color);
}

function paint(pen, { size, values }, plan, colour) {
  const gap = plan.side >= APART ? 2 : 0;
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      pen.fillStyle = css(colour(values[row * size + column]));
      const x = plan.left + column * plan.side, y = plan.top + row * plan.side;
      if (!gap) pen.fillRect(x, y, plan.side + 0.5, plan.side + 0.5);
      else {
        pen.beginPath();
        pen.roundRect(x + 1, y + 1, plan.side - gap, plan.side - gap, plan.side > 24 ? 4 : 2);
        pen.fill();
      }
    }
  }
}

function numbers(pen, { size, values }, plan, colour, scale, family) {
  pen.font = `${plan.side > 44 ? 12 : 11}px ${family}`;
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  values.forEach((value, place) => {
    const [red, green, blue] = colour(value);
    pen.fillStyle = 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#10151f" : "#ffffff";
    const x = plan.left + ((place % size) + 0.5) * plan.side, y = plan.top + (Math.floor(place / size) + 0.5) * plan.side;
    pen.fillText(signed(value, scale).replace(/^(.?)0\./, "$1."), x, y + 0.5);
  });
}

function names(pen, texts, plan, style, cell) {
  if (!plan.top) return;
  const faint = style.getPropertyValue("--heat-label").trim() || style.color;
  const size = Math.min(12, Math.max(9, plan.side - 2));
  pen.textBaseline = "middle";
  texts.forEach((text, number) => {
    const middle = (number + 0.5) * plan.side;
    pen.font = `${size}px ${style.fontFamily}`;
    pen.fillStyle = cell?.[1] === number ? style.color : faint;
    pen.textAlign = "center";
    if (plan.side >= 12 || number % 5 === 4) pen.fillText(String(number + 1), plan.left + middle, plan.top - 10);
    pen.fillStyle = cell?.[0] === number ? style.color : faint;
    pen.textAlign = "right";
    const shown = plan.named ? fitted(pen, text, plan.left - 34) : "";
    pen.fillText(String(number + 1), plan.left - 7, plan.top + middle);
    pen.textAlign = "left";
    if (shown) pen.fillText(shown, 0, plan.top + middle);
  });
}

function fitted(pen, text, room) {
  const line = text.slice(0, 80).replace(/\s+/g, " ");
  if (pen.measureText(line).width <= room) return line;
  let length = line.length;
  while (length > 1 && pen.measureText(`${line.slice(0, length)}…`).width > room) length--;
  return `${line.slice(0, length).trimEnd()}…`;
}

function outline(pen, [row, column], plan, colour) {
  pen.strokeStyle = colour;
  pen.lineWidth = 2;
  pen.strokeRect(plan.left + column * plan.side, plan.top + row * plan.side, plan.side, plan.side);
}

function at(event, canvas, plan, size) {
  const box = canvas.getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left - plan.left) / plan.side);
  const row = Math.floor((event.clientY - box.top - plan.top) / plan.side);
  return row >= 0 && column >= 0 && row < size && column < size ? [row, column] : null;
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function walk(event, cell, size, onCell) {
  const move = MOVES[event.key];
  if (event.key === "Escape") onCell(null);
  if (!move) return;
  event.preventDefault();
  const [row, column] = cell ?? [-move[0], -move[1]];
  onCell([row + move[0], column + move[1]].map((each) => Math.max(0, Math.min(size - 1, each))));
}

/** STEPS colours as [red, green, blue], between those that the style names. */
function ramp(names) {
  const stops = names.trim().split(/\s+/).map(hex);
  return Array.from({ length: STEPS }, (_, step) => {
    const place = (step / (STEPS - 1)) * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map((from, part) => Math.round(from + (stops[low + 1][part] - from) * (place - low)));
  });
}

function css([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}

/** The same for those who do not see it, and for those who want the numbers. */
export function HeatTable({ matrix, texts, scale, caption }) {
  const [open, setOpen] = useState(false);
  const whole = matrix.size <= CELLS;
  return html`<details class="heat-table" onToggle=${(event) => setOpen(event.target.open)}>
    <summary>${whole ? "As a table" : "Each text's nearest, as a table"}</summary>
    ${open && html`<div class="table-frame" tabindex="0" role="region" aria-label=${caption}>
      ${whole ? html`<${Cells} ...${{ matrix, texts, scale, caption }} />` : html`<${Nearest} ...${{ matrix, texts, caption }} />`}
    </div>`}
  </details>`;
}

function Cells({ matrix: { size, values }, texts, scale, caption }) {
  return html`<table class="cells"><caption>${caption}</caption>
    <thead><tr><td></td>${texts.map((text, number) => html`<th scope="col" title=${text}>${number + 1}</th>`)}</tr></thead>
    <tbody>${texts.map((text, row) => html`<tr><th scope="row"><span class="clip">${row + 1} ${text}</span></th>
      ${texts.map((_, column) => html`<td>${signed(values[row * size + column], scale, 3)}</td>`)}</tr>`)}</tbody>
  </table>`;
}

function Nearest({ matrix, texts, caption }) {
  return html`<table class="cells"><caption>${caption}</caption>
    <thead><tr><th scope="col">Text</th><th scope="col">Nearest</th><th scope="col">Cosine</th></tr></thead>
    <tbody>${nearest(matrix).map((other, row) => html`<tr><th scope="row"><span class="clip">${row + 1} ${texts[row]}</span></th>
      <td><span class="clip">${other + 1} ${texts[other]}</span></td><td>${matrix.values[row * matrix.size + other].toFixed(4)}</td></tr>`)}</tbody>
  </table>`;
}
