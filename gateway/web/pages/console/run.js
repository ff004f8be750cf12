// One training run: how far it is, what it came to, and what it came from.

import { Chart, short } from "./chart.js";
import { Difference, Moves, Scores } from "./scores.js";
import { Ago, Badge, bytes, Copy, html, number, plural, Progress, seconds } from "./ui.js";
import { segment } from "./api.js";

const TONES = { queued: "busy", running: "busy", completed: "good", interrupted: "warn", failed: "bad", unknown: "calm" };
const RANKED = ["mrr@10", "ndcg@10", "hit@1", "hit@10", "recall@10", "map@100"];
const SHARES = ["exact_match"];
const SMALL = [["learning_rate", "Learning rate", 4], ["grad_norm", "Gradient norm", 5], ["steps_per_second", "Steps a second", 7]];

export function RunState({ run }) {
  if (run.stalled) return html`<${Badge} state="stalled" tone="warn">silent<//>`;
  return html`<${Badge} state=${run.status} tone=${TONES[run.status]}>${run.status}<//>`;
}

/** The scores of a model's metadata in a few words; null where there are none that can be read. */
export function wording(scores) {
  const metric = typeof scores?.metric === "string" ? scores.metric.slice(0, 40) : null;
  const side = (each) => (typeof each === "number" ? each : each?.[metric]);
  const [before, after] = [side(scores?.before), side(scores?.after)];
  if (!metric || typeof after !== "number") return null;
  return { metric, text: typeof before === "number" ? `${short(before)} → ${short(after)}` : short(after) };
}

export function Run({ run }) {
  return html`<${Head} run=${run} />
    ${run.after !== null && html`<${Difference} run=${run} />`}
    <${Curves} curves=${run.curves} metric=${run.metric} />
    ${run.scores && html`<${Scores} scores=${run.scores} judged=${run.metric} /><${Moves} scores=${run.scores} />`}
    <${Lineage} run=${run} />
    <${Settings} settings=${run.settings} />
    <${Log} lines=${run.log} goesOn=${run.status === "running"} />`;
}

function Head({ run }) {
  const share = run.steps ? run.step / run.steps : null;
  const going = run.status === "running" || run.status === "queued";
  return html`<section class="card stack">
    <div class="run-head"><h2>${run.name}</h2><${RunState} run=${run} /><span class="muted">${run.kind === "language" ? "language model" : "embedding model"}</span></div>
    <p class="hint path">${run.path}</p>
    ${going && html`<div class="stack tight"><${Progress} value=${run.stalled || run.steps ? share : null} label="Steps" /><p class="row between number small"><span>${place(run)}</span><span>${run.stalled ? "" : left(run)}</span></p></div>`}
    ${run.stalled && html`<p class="note warn" role="status">Nothing was written for ${seconds(run.quiet_seconds)}. A process that was killed cannot say so; the same command goes on where it was.</p>`}
    ${run.status === "interrupted" && html`<p class="note warn">Stopped by a signal${run.step ? ` ${place(run)}` : ""}. The same command goes on where it was.</p>`}
    ${run.error && html`<p class="note bad">${run.error}</p>`}
    <dl class="facts">
      <div><dt>Base</dt><dd>${run.base ?? "–"}</dd></div>
      <div><dt>Examples</dt><dd class="number">${run.train_examples === null ? "–" : number(run.train_examples)}${run.held_out_examples ? ` + ${number(run.held_out_examples)} held out` : ""}</dd></div>
      <div><dt>Epochs</dt><dd class="number">${run.epochs ?? "–"}</dd></div>
      <div><dt>Started</dt><dd><${Ago} at=${run.started_at} /></dd></div>
      ${run.duration_seconds !== null && html`<div><dt>Took</dt><dd class="number">${seconds(run.duration_seconds)}</dd></div>`}
      ${run.loss !== null && html`<div><dt>Loss</dt><dd class="number">${short(run.loss)}</dd></div>`}
      <div><dt>Served as</dt><dd>${run.models.length ? run.models.map((id) => html`<a key=${id} href=${`#training/changes/${segment(id)}`}>${id.replace("huggingface:", "")}</a> `) : html`<span class="muted">not published</span>`}</dd></div>
    </dl></section>`;
}

function place(run) {
  const steps = run.steps ? `step ${number(run.step)} of ${number(run.steps)}` : "before the first step";
  return run.epoch && run.epochs ? `${steps}, epoch ${run.epoch.toFixed(2)} of ${run.epochs}` : steps;
}

function left(run) {
  if (!run.step || !run.started_at || !run.steps) return "";
  const spent = run.updated_at - run.started_at;
  return spent > 0 ? `about ${seconds((spent / run.step) * (run.steps - run.step))} left` : "";
}

function Curves({ curves, metric }) {
  const line = (key, label, color, extra = {}) => ({ label, x: curves[key].step, y: curves[key].value, color, ...extra });
  const losses = [["loss", "training", 1], ["held_out_loss", "held out", 3]].filter(([key]) => curves[key]);
  const ranked = [...RANKED, ...SHARES].filter((key) => curves[key]);
  if (metric && curves[metric] && !ranked.includes(metric) && metric !== "loss") ranked.unshift(metric);
  const judged = ranked.includes(metric) ? [metric, ...ranked.filter((key) => key !== metric)] : ranked;
  const small = SMALL.filter(([key]) => curves[key]);
  if (!losses.length && !judged.length) return html`<section class="card"><p class="muted">No step has been logged yet.</p></section>`;
  return html`<section class="charts two" aria-label="Curves">
      ${losses.length > 0 && html`<div class="card"><${Chart} title="Loss" series=${losses.map(([key, label, color]) => line(key, label, color, { dots: key !== "loss" }))} height=${220} floor=${0} /></div>`}
      ${judged.length > 0 && html`<div class="card"><${Chart} title="Held out" series=${judged.slice(0, 3).map((key, index) => line(key, key, [2, 4, 5][index], { dots: true }))} height=${220} floor=${0} /></div>`}
    </section>
    ${small.length > 0 && html`<section class="charts three" aria-label="How it went">${small.map(([key, title, color]) => html`<div class="card" key=${key}><${Chart} title=${title} series=${[line(key, "", color)]} height=${110} floor=${0} /></div>`)}</section>`}`;
}

function Lineage({ run }) {
  const { base, data = [], validation = [], seed, versions, command } = run.lineage;
  if (!Object.keys(run.lineage).length) return null;
  const files = [...listed(data).map((file) => ["training", file]), ...listed(validation).map((file) => ["held out", file])];
  return html`<section class="card stack" aria-labelledby="lineage"><h2 id="lineage">Where it comes from</h2>
    <dl class="facts">
      ${base?.name && html`<div><dt>Base</dt><dd>${String(base.name)}</dd></div>`}
      ${base?.digest && html`<div><dt>Weights of the base</dt><dd><code title=${String(base.digest)}>${digest(base.digest)}</code></dd></div>`}
      ${seed !== undefined && html`<div><dt>Seed</dt><dd class="number">${String(seed)}</dd></div>`}
      ${versions && html`<div class="whole"><dt>Versions</dt><dd>${Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(" · ")}</dd></div>`}
    </dl>
    ${files.length > 0 && html`<div class="scroller" tabindex="0" role="region" aria-label="Data"><table class="dense"><thead><tr><th scope="col">Data</th><th scope="col">For</th><th scope="col" class="right">Size</th><th scope="col">SHA-256</th></tr></thead><tbody>
      ${files.map(([use, file]) => html`<tr key=${use + file.sha256}><td>${String(file.file ?? "")}</td><td>${use}</td><td class="right number">${bytes(typeof file.bytes === "number" ? file.bytes : null)}</td><td><code title=${String(file.sha256)}>${digest(file.sha256)}</code></td></tr>`)}
    </tbody></table></div>`}
    ${Array.isArray(command) && html`<${Copy} label="Copy the command" text=${command.map(quoted).join(" ")} />`}</section>`;
}

const listed = (files) => (Array.isArray(files) ? files.filter((file) => file && typeof file === "object") : []);
const digest = (value) => String(value ?? "").replace("sha256:", "").slice(0, 12);

function quoted(word) {
  const text = String(word);
  return /^[A-Za-z0-9_./:=@%+,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function Settings({ settings }) {
  const chosen = Object.entries(settings);
  if (!chosen.length) return null;
  return html`<details class="card"><summary>Settings that were chosen <span class="muted">(${chosen.length})</span></summary><dl class="pairs">${chosen.map(
    ([key, value]) => html`<div key=${key}><dt><code>${key}</code></dt><dd>${typeof value === "string" ? value : JSON.stringify(value)}</dd></div>`,
  )}</dl></details>`;
}

function Log({ lines, goesOn }) {
  if (!lines.length) return null;
  return html`<details class="card" open=${goesOn}><summary>Log <span class="muted">(the last ${plural(lines.length, "line")})</span></summary><pre class="log" tabindex="0" role="region" aria-label="Log of the run">${lines.join("\n")}</pre></details>`;
}
