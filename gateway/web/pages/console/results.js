// What the models made of the texts: a map each, what differs between them, the vectors, and the request as a program.

import { useMemo, useState } from "preact/hooks";
import { html } from "./ui.js";
import { Side, MOST, useLoss, useView } from "./embedded.js";
import { Heat, HeatTable } from "./heat.js";
import { Programs } from "./programs.js";
import { Vectors } from "./strips.js";
import { difference, extent, nearest, pairs } from "./vectors.js";
import { embedding } from "./snippets.js";

const MOVED = 5; // pairs that are told

export function Results({ sides, asked, keyed }) {
  const [wanted, setWanted] = useState(Infinity);
  const [scale, setScale] = useState("unit");
  const [cell, setCell] = useState(null);
  const dims = sides.map((side) => side.result?.matrix.dim).filter(Boolean);
  const full = dims.length ? Math.min(...dims) : 0; // at the end of the slider each model has all of its own
  const dim = Math.min(wanted, full);
  const views = [useView(sides[0].result, wanted), useView(sides[1].result, wanted)];
  const losses = [useLoss(sides[0].result, views[0]), useLoss(sides[1].result, views[1])];
  const { texts } = asked, point = cell && cell.every((each) => each < texts.length) ? cell : null;
  const shown = asked.titles.map((title, number) => ({ title, side: sides[number], view: views[number], loss: losses[number] }));
  const both = views[0] && views[1] && asked.models.length > 1;
  return html`<div class="results">
    ${full > 0 && html`<${Bar} ...${{ full, dim, setWanted, scale, setScale }} />`}
    ${full > 0 && html`<${Reading} cell=${point} texts=${texts} shown=${shown} />`}
    <div class=${`sides ${shown.length > 1 ? "two" : "one"}`}>
      ${shown.map((each, number) => html`<${Side} key=${number} ...${each} texts=${texts} scale=${scale} cell=${point} onCell=${setCell} />`)}
    </div>
    ${both && html`<${Difference} views=${views} texts=${texts.slice(0, MOST)} titles=${asked.titles} cell=${point} onCell=${setCell} />`}
    <div class=${`sides ${shown.length > 1 ? "two" : "one"}`}>
      ${shown.map(({ title, view }, number) => view && html`<${Vectors} key=${number} title=${title} texts=${texts} matrix=${view.matrix} />`)}
    </div>
    <${Code} asked=${asked} dimensions=${dim < full ? dim : 0} keyed=${keyed} />
  </div>`;
}

/** How many numbers of each vector count, and what the colours mean. */
function Bar({ full, dim, setWanted, scale, setScale }) {
  const marks = [32, 64, 128, 256, 512, 1024, 2048].filter((each) => each < full);
  const slide = (event) => setWanted(Number(event.target.value) >= full ? Infinity : Number(event.target.value));
  return html`<div class="card dims">
    <label class="slider"><span>Dimensions</span>
      <input type="range" name="dimensions" min="1" max=${full} value=${dim} list="dimension-marks" onInput=${slide}
        aria-valuetext=${`${dim} of ${full}`} />
      <output class="number">${dim} of ${full}</output></label>
    <datalist id="dimension-marks">${marks.map((each) => html`<option value=${each}></option>`)}</datalist>
    <span class="marks">${[...marks, full].map((each) => html`<button type="button" class="chip" aria-pressed=${dim === each}
      onClick=${() => setWanted(each === full ? Infinity : each)}>${each}</button>`)}</span>
    <label class="check"><input type="checkbox" name="fit" checked=${scale === "fit"}
      onChange=${(event) => setScale(event.target.checked ? "fit" : "unit")} /> Stretch the colours</label>
    <p class="hint wide">The first numbers of each vector alone, as <code>dimensions</code> asks for them. Models trained for it
      (Matryoshka) keep the order; others lose some of it.</p>
  </div>`;
}

/** The pair under the pointer, in words. */
function Reading({ cell, texts, shown }) {
  if (!cell) return html`<p class="reading hint" role="status">Point at a cell, or walk the map with the arrow keys.</p>`;
  const values = shown.map(({ view }) => view?.cosines.values[cell[0] * view.cosines.size + cell[1]]);
  return html`<p class="reading" role="status"><span class="values">${values.map((value, number) => value !== undefined && html`
      <b class="number" key=${number} title=${shown[number].title}>${value.toFixed(4)}</b>`)}</span>
    <span class="clip"><i class="number">${cell[0] + 1}</i> ${texts[cell[0]]}</span>
    <span class="clip"><i class="number">${cell[1] + 1}</i> ${texts[cell[1]]}</span></p>`;
}

function Difference({ views, texts, titles, cell, onCell }) {
  const [one, other] = views.map((view) => view.cosines);
  const matrix = useMemo(() => difference(one, other), [one, other]);
  const moved = useMemo(() => pairs(matrix).sort((a, b) => Math.abs(b[2]) - Math.abs(a[2])).slice(0, MOVED), [matrix]);
  const [first, second] = [nearest(one), nearest(other)], [least, most] = extent(matrix);
  const same = first.filter((each, row) => each === second[row]).length;
  const label = `Cosines by ${titles[0]} less those by ${titles[1]}, ${least.toFixed(2)} to ${most.toFixed(2)}`;
  return html`<section class="card side" aria-label="What differs">
    <header class="side-head"><h2>What differs</h2><span class="muted">the first less the second</span></header>
    <dl class="measures">
      <div><dt>Same nearest text</dt><dd>${same} of ${matrix.size}</dd></div>
      <div><dt>Least</dt><dd>${least.toFixed(3)}</dd></div><div><dt>Most</dt><dd>${most > 0 ? "+" : ""}${most.toFixed(3)}</dd></div>
    </dl>
    <div class="side-body">
      <div><${Heat} matrix=${matrix} texts=${texts} scale="difference" cell=${cell} onCell=${onCell} label=${label} /></div>
      <div><h3 class="closest-head">Moved most</h3>
        <ol class="closest">${moved.map(([a, b]) => html`<li key=${`${a}-${b}`}><button type="button" class="pair" onClick=${() => onCell([a, b])}>
          <span class="number moved"><span class="muted">${at(other, a, b)}</span> → <b>${at(one, a, b)}</b></span>
          <span class="pair-texts"><span class="clip">${texts[a]}</span><span class="clip">${texts[b]}</span></span></button></li>`)}</ol>
        <${HeatTable} matrix=${matrix} texts=${texts} scale="difference" caption=${label} /></div>
    </div>
  </section>`;
}

function at({ size, values }, row, column) {
  return values[row * size + column].toFixed(2);
}

function Code({ asked, dimensions, keyed }) {
  const programs = useMemo(() => {
    const options = { ...asked.options, ...(dimensions && { dimensions }) };
    return embedding({ base: base(), texts: asked.texts, models: asked.models, options, keyed });
  }, [asked, dimensions, keyed]);
  return html`<${Programs} programs=${programs} title="The same, as a program" />`;
}

/** The address that this page was served below. */
export function base() {
  return new URL(".", document.baseURI).href.replace(/\/$/, "");
}
