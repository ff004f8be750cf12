// What changed between two generations of a model: whether indexes hold, files, what the model is, what was said of it.

import { useLive } from "./live.js";
import { usePoll } from "./poll.js";
import { signed } from "./scores.js";
import { short } from "./chart.js";
import { segment } from "./api.js";
import { Ago, Badge, bytes, Empty, html, plural, Select, Spinner, useEffect, useState } from "./ui.js";

const PERIOD = 15_000; // milliseconds: a generation that is swapped in shows

export function Changes({ api, live, wanted }) {
  const { models, known } = useLive(live);
  const rows = [...models.values()].filter((row) => row.generation);
  const told = rows.find((row) => row.id === wanted || row.id === `huggingface:${wanted}`);
  const first = rows.find((row) => row.previous?.length) ?? rows[0];
  const model = (told ?? (wanted ? null : first))?.id ?? (wanted || null);
  if (!model) return html`<div class="card">${known ? html`<${Empty} title="Nothing is served yet"><p>Once a model was replaced, this page says what is different.</p><//>` : html`<p class="loading"><${Spinner} label="Looking for models" /></p>`}</div>`;
  const options = rows.map((row) => [row.id, `${row.id.replace("huggingface:", "")}${row.previous?.length ? ` (${plural(row.previous.length + 1, "generation")})` : ""}`]);
  if (!rows.some((row) => row.id === model)) options.unshift([model, model.replace("huggingface:", "")]);
  const generation = rows.find((row) => row.id === model)?.generation ?? "";
  return html`<${Compared} key=${model} api=${api} model=${model} generation=${generation} options=${options} />`;
}

function Compared({ api, model, generation, options }) {
  const [sides, choose] = useState({ from: "", to: "" });
  useEffect(() => choose({ from: "", to: "" }), [generation]);
  const query = new URLSearchParams({ model, ...(sides.from && { from: sides.from }), ...(sides.to && { to: sides.to }) });
  const { data, problem } = usePoll(api, `changes?${query}`, PERIOD);
  const there = data?.generations ?? [];
  const named = there.map((each) => [each.generation, `${each.generation}${each.version === null ? "" : `, version ${each.version}`}${each.live ? ", live" : ""}`]);
  return html`<section class="card choices" aria-label="What to compare">
      <${Select} label="Model" options=${options} value=${model} onChange=${(id) => (location.hash = `#training/changes/${segment(id)}`)} />
      ${named.length > 1 && html`<${Select} label="From" options=${named} value=${sides.from || data.from.generation} onChange=${(from) => choose({ ...sides, from, to: sides.to || data.to.generation })} />
      <${Select} label="To" options=${named} value=${sides.to || data.to.generation} onChange=${(to) => choose({ from: sides.from || data.from.generation, to })} />`}
    </section>
    ${problem && html`<p class="card wrong" role="alert">${problem.message}</p>`}
    ${!data && !problem && html`<p class="loading"><${Spinner} label="Comparing" /></p>`}
    ${data && (named.length > 1 ? html`<${Differences} data=${data} />` : html`<div class="card"><${Empty} title="One generation so far"><p>${model.replace("huggingface:", "")} has had no other content. Drop a newer one in its place, and this page says what changed.</p><//></div>`)}`;
}

function Differences({ data }) {
  const { from, to, files } = data;
  if (from.digest === to.digest) return html`<p class="card muted">These are the same generation.</p>`;
  const changed = files.changed.length + files.added.length + files.removed.length;
  return html`<section class="card stack" aria-label="In short">
      <div class="row">${data.breaking ? html`<${Badge} tone="bad">breaks indexes<//>` : html`<${Badge} tone="good">same shape<//>`}<span>${
        data.breaking ? "Vectors have another dimension or are made by other steps: indexes built with one are void for the other." : "The same dimension, made by the same steps. The weights differ, so vectors of the two are not to be mixed in one index."
      }</span></div>
      <dl class="facts three"><${Side} title="From" side=${from} /><${Side} title="To" side=${to} /><div><dt>Files</dt><dd>${plural(changed, "file")} changed, ${files.same} the same <span class="muted">(${bytes(files.same_bytes)})</span></dd></div></dl>
    </section>
    <${Scored} scores=${data.scores} known=${from.metadata_known && to.metadata_known} />
    ${changed > 0 && html`<${Files} files=${files} />`}
    <${Fields} title="What the model is" rows=${data.manifest} />
    <${Fields} title="Where it comes from" rows=${data.lineage} />
    <${Fields} title="What is said of it" rows=${data.metadata} />`;
}

function Side({ title, side }) {
  return html`<div><dt>${title}</dt><dd><code title=${side.digest}>${side.generation}</code>${side.live ? html` <${Badge} tone="good">live<//>` : ""}<br /><span class="muted small">${bytes(side.bytes)}, accepted <${Ago} at=${side.since} /></span></dd></div>`;
}

function Scored({ scores, known }) {
  const sides = [scores.from, scores.to].map((each) => after(each));
  const names = Object.keys(sides[1]).filter((name) => name in sides[0]);
  if (!names.length) {
    const told = scores.from || scores.to ? "Only one of the two says how it scored." : "Neither says how it scored; a model that the trainer publishes does.";
    return html`<p class="hint">${known ? told : "What was said of one of the two is not known any more."}</p>`;
  }
  return html`<section class="card stack" aria-labelledby="both"><h2 id="both">Scores that each came with</h2><p class="hint">Each on the questions that were held out when it was trained: they may not be the same ones.</p>
    <div class="scroller" tabindex="0" role="region" aria-label="Scores"><table class="dense"><thead><tr><th scope="col">Metric</th><th scope="col" class="right">From</th><th scope="col" class="right">To</th><th scope="col" class="right">Change</th></tr></thead><tbody>
    ${names.map((name) => html`<tr key=${name}><th scope="row">${name}</th><td class="right number">${short(sides[0][name])}</td><td class="right number"><b>${short(sides[1][name])}</b></td><td class="right number">${signed(sides[1][name] - sides[0][name])}</td></tr>`)}</tbody></table></div></section>`;
}

/** Numbers by metric, of whatever shape a model's metadata has them in. */
function after(scores) {
  const told = scores?.after;
  if (typeof told === "number") return { [String(scores.metric ?? "score")]: told };
  const pairs = told && typeof told === "object" ? Object.entries(told) : [];
  return Object.fromEntries(pairs.filter(([, value]) => typeof value === "number").slice(0, 24));
}

function Files({ files }) {
  const rows = [
    ...files.changed.map((file) => ["changed", file.path, file.from, file.to]),
    ...files.added.map((file) => ["added", file.path, null, file]),
    ...files.removed.map((file) => ["removed", file.path, file, null]),
  ];
  const tones = { changed: "calm", added: "good", removed: "bad" };
  const content = (side) => (side ? html`<code title=${side.sha256}>${side.sha256.slice(0, 12)}</code> <span class="muted number">${bytes(side.bytes)}</span>` : html`<span class="muted">–</span>`);
  return html`<section class="card stack" aria-labelledby="files"><h2 id="files">Files</h2><div class="scroller" tabindex="0" role="region" aria-label="Files"><table class="dense"><thead><tr><th scope="col">File</th><th scope="col">What</th><th scope="col">From</th><th scope="col">To</th></tr></thead><tbody>
    ${rows.map(([what, path, old, made]) => html`<tr key=${path}><th scope="row"><code>${path}</code></th><td><${Badge} tone=${tones[what]}>${what}<//></td><td>${content(old)}</td><td>${content(made)}</td></tr>`)}</tbody></table></div></section>`;
}

function Fields({ title, rows }) {
  if (!rows.length) return null;
  return html`<section class="card stack"><h2>${title}</h2><div class="scroller" tabindex="0" role="region" aria-label=${title}><table class="dense"><thead><tr><th scope="col">Field</th><th scope="col">From</th><th scope="col">To</th></tr></thead><tbody>
    ${rows.map((row) => html`<tr key=${row.key}><th scope="row"><code>${row.key}</code></th><td class="value">${value(row.from)}</td><td class="value">${value(row.to)}</td></tr>`)}</tbody></table></div></section>`;
}

function value(of) {
  if (of === null || of === undefined) return html`<span class="muted">–</span>`;
  return typeof of === "string" ? of : JSON.stringify(of);
}
