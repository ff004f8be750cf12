// One model's answer to the texts: asking for it, and showing it.

import { useMemo } from "preact/hooks";
import { html } from "./ui.js";
import { Heat, HeatTable } from "./heat.js";
import { Trouble } from "./trouble.js";
import { cosines, decode, extent, nearest, pairs, shortened } from "./vectors.js";

export const MOST = 256; // texts in a map
const NEAR = 5; // pairs that are told
const PATIENCE = 600_000; // milliseconds: a model may have to be loaded first

/** Asks for vectors, as base64: they are a third of the bytes of JSON floats. Resolves with the matrix and the facts. */
export async function embed(api, body, signal) {
  const began = performance.now();
  const response = await api.send("POST", "embed", { body: { ...body, encoding_format: "base64" }, signal, timeout: PATIENCE });
  const answer = await response.json(), { headers } = response;
  const seconds = (performance.now() - began) / 1000;
  return {
    matrix: decode(answer.embeddings, answer.dim),
    model: answer.model, alias: answer.alias, generation: answer.generation, normalized: answer.normalized,
    tokens: answer.usage.tokens, seconds, parts: timings(headers.get("Server-Timing")), request: headers.get("X-Request-Id"),
  };
}

/** The parts of `load;dur=1.5, queue;dur=0.1`, in seconds. */
function timings(header) {
  const found = (header ?? "").split(",").map((part) => /^\s*(\w+);dur=([\d.]+)/.exec(part)).filter(Boolean);
  return Object.fromEntries(found.map(([, name, milliseconds]) => [name, Number(milliseconds) / 1000]));
}

/** What is compared of a result with so many numbers of each vector. */
export function useView(result, dim) {
  return useMemo(() => {
    if (!result?.matrix?.rows) return null;
    const matrix = shortened(result.matrix, dim, result.normalized);
    return { matrix, cosines: cosines(matrix, MOST), dim: matrix.dim };
  }, [result, dim]);
}

/** How much of the order stays when only the first numbers are taken. */
export function useLoss(result, view) {
  const whole = useMemo(() => result?.matrix?.rows && cosines(result.matrix, MOST), [result]);
  if (!whole || !view || view.dim >= result.matrix.dim || whole.size < 3) return null;
  const before = nearest(whole), after = nearest(view.cosines);
  return { same: before.filter((each, row) => each === after[row]).length, of: whole.size };
}

export function Side({ side, title, texts, view, scale, cell, onCell, loss }) {
  const { result, problem, busy } = side;
  return html`<section class="card side" aria-label=${title} aria-busy=${busy}>
    <header class="side-head"><h2>${title}</h2>
      ${result && html`<code class="generation" title="The generation that made these vectors">${result.generation}</code>`}
      ${busy && html`<span class="muted" role="status">Embedding…</span>`}
    </header>
    ${problem && html`<${Trouble} problem=${problem} />`}
    ${result && view && html`<${Facts} result=${result} view=${view} loss=${loss} />
      <div class="side-body">
        <div><${Heat} matrix=${view.cosines} texts=${texts.slice(0, MOST)} scale=${scale} cell=${cell} onCell=${onCell}
            label=${described(view.cosines, title)} />
          ${texts.length > MOST && html`<p class="hint">The map shows the first ${MOST} of ${texts.length} texts.</p>`}</div>
        <div><${Closest} matrix=${view.cosines} texts=${texts} onCell=${onCell} />
          <${HeatTable} matrix=${view.cosines} texts=${texts.slice(0, MOST)} scale=${scale} caption=${`Cosines, ${title}`} /></div>
      </div>`}
  </section>`;
}

function described(matrix, title) {
  const [least, most] = extent(matrix);
  return `Cosines of ${matrix.size} texts with each other by ${title}, ${least.toFixed(2)} to ${most.toFixed(2)}. ` +
    "The arrow keys walk from pair to pair.";
}

function Facts({ result, view, loss }) {
  const { parts } = result;
  const facts = [
    ["Texts", result.matrix.rows], ["Tokens", result.tokens.toLocaleString("en")],
    ["Numbers each", view.dim < result.matrix.dim ? `${view.dim} of ${result.matrix.dim}` : view.dim],
    ["Round trip", duration(result.seconds)],
    ...["load", "queue", "compute"].filter((name) => parts[name] >= 0.00005 || (name === "compute" && name in parts))
      .map((name) => [name[0].toUpperCase() + name.slice(1), duration(parts[name])]),
    ...(loss ? [["Nearest kept", `${loss.same} of ${loss.of}`]] : []),
  ];
  return html`<dl class="measures">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

export function duration(seconds) {
  if (seconds >= 10) return `${seconds.toFixed(1)} s`;
  if (seconds >= 1) return `${seconds.toFixed(2)} s`;
  return `${(seconds * 1000).toFixed(seconds >= 0.1 ? 0 : 1)} ms`;
}

function Closest({ matrix, texts, onCell }) {
  const found = useMemo(() => pairs(matrix).slice(0, NEAR), [matrix]);
  if (!found.length) return null;
  return html`<h3 class="closest-head">Nearest pairs</h3><ol class="closest">${found.map(([a, b, value]) => html`<li key=${`${a}-${b}`}>
    <button type="button" class="pair" onClick=${() => onCell([a, b])}><b class="number">${value.toFixed(3)}</b>
      <span class="pair-texts"><span class="clip">${texts[a]}</span><span class="clip">${texts[b]}</span></span></button></li>`)}</ol>`;
}
