// The vectors themselves: each a strip of colours, its first numbers, and all of it to copy.

import { useEffect, useRef, useState } from "preact/hooks";
import { copied, html } from "./ui.js";
import { hex, useTheme } from "./theming.js";
import { vector } from "./vectors.js";

const FEW = 4; // vectors that are shown at once
const HEAD = 6; // numbers that are written out

export function Vectors({ title, texts, matrix }) {
  const [all, setAll] = useState(false);
  const shown = all ? texts : texts.slice(0, FEW);
  const most = matrix.data.reduce((least, value) => Math.max(least, Math.abs(value)), 0.001);
  return html`<section class="card vectors" aria-label=${`Vectors of ${title}`}>
    <header class="side-head"><h2>Vectors</h2><span class="muted">${title}</span>
      <${Copied} label="Copy all" text=${() => JSON.stringify(texts.map((_, row) => numbers(matrix, row)))} /></header>
    <ol class="strips">${shown.map((text, row) => html`<li key=${row}>
      <span class="clip strip-text">${text}</span>
      <${Strip} matrix=${matrix} row=${row} most=${most} />
      <code class="strip-head">[${numbers(matrix, row).slice(0, HEAD).map((each) => each.toFixed(4)).join(", ")}${matrix.dim > HEAD ? ", …" : ""}]</code>
      <${Copied} label="Copy" of=${`vector ${row + 1}`} text=${() => JSON.stringify(numbers(matrix, row))} />
    </li>`)}</ol>
    ${texts.length > FEW && html`<button type="button" class="button quiet" onClick=${() => setAll(!all)}>
      ${all ? `Show the first ${FEW}` : `Show all ${texts.length}`}</button>`}
  </section>`;
}

/** The shortest decimals that are the same float32. */
function numbers(matrix, row) {
  return Array.from(vector(matrix, row), (value) => Number(value.toPrecision(9)));
}

function Strip({ matrix, row, most }) {
  const canvas = useRef(null), theme = useTheme();
  useEffect(() => {
    const style = getComputedStyle(canvas.current), colour = (name) => hex(style.getPropertyValue(name).trim());
    const plus = colour("--strip-plus"), minus = colour("--strip-minus");
    const pen = canvas.current.getContext("2d"), picture = pen.createImageData(matrix.dim, 1);
    vector(matrix, row).forEach((value, at) => {
      const strength = Math.sqrt(Math.min(1, Math.abs(value) / most));
      picture.data.set([...(value < 0 ? minus : plus), 255 * strength], 4 * at);
    });
    pen.putImageData(picture, 0, 0);
  }, [matrix, row, most, theme]);
  return html`<canvas class="strip" ref=${canvas} width=${matrix.dim} height="1" role="img"
    aria-label=${`The ${matrix.dim} numbers of vector ${row + 1} as colours`}></canvas>`;
}

/** A button that copies what is made when it is pressed. */
export function Copied({ label, of = "", text }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    const timer = done && setTimeout(() => setDone(false), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  const copy = () => copied(text()).then(() => setDone(true), () => setDone(false));
  return html`<button type="button" class="button quiet small" onClick=${copy} aria-label=${`${label} ${of}`.trim()}>
    ${done ? "Copied" : label}</button>`;
}
